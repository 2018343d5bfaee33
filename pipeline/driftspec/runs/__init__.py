"""Runs from start to end: stages, run directory, checkpoints, resume, sweeps, history, provenance."""
