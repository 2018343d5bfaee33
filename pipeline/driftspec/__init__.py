"""driftspec: continuous-time generative models trained, measured and sampled from one YAML file."""

__version__ = "0.1.0"
