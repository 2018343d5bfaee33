"""The built-in components, provided by the same entry point and hook as those of any plugin.

The folder is the section of the spec, and the file is the `type`; similar components with one base class share a file.
"""

from __future__ import annotations

from collections.abc import Mapping

from driftspec.registry import hookimpl

COMPONENTS: dict[str, dict[str, str]] = {
    "data": {
        "2spirals": "two_spirals:TwoSpirals",
        "8gaussians": "eight_gaussians:EightGaussians",
        "banana": "banana:Banana",
        "checkerboard": "checkerboard:Checkerboard",
        "circles": "circles:Circles",
        "double_well": "double_well:DoubleWell",
        "eight_schools": "eight_schools:EightSchools",
        "funnel": "funnel:Funnel",
        "gaussian": "gaussian:Gaussian",
        "gaussian_mixture": "gaussian_mixture:GaussianMixture",
        "moons": "moons:Moons",
        "spiral_trajectories": "spiral_trajectories:SpiralTrajectories",
        "pinwheel": "pinwheel:Pinwheel",
        "rings": "rings:Rings",
        "swissroll": "swissroll:SwissRoll",
        "table": "table:TableFile",
    },
    "network": {"concat_squash": "concat_squash:ConcatSquash", "mlp": "mlp:MLP"},
    "dynamics": {
        "langevin": "langevin:Langevin",
        "neural_ode": "neural_ode:NeuralODE",
        "ornstein_uhlenbeck": "ornstein_uhlenbeck:OrnsteinUhlenbeck",
        "power": "power:Power",
        "sub_vp_sde": "sub_vp_sde:SubVPSDE",
        "ve_sde": "ve_sde:VESDE",
        "vp_sde": "vp_sde:VPSDE",
    },
    "estimator": {
        "contrastive_divergence": "contrastive_divergence:ContrastiveDivergence",
        "denoising": "denoising:Denoising",
        "exact_trace": "exact_trace:ExactTrace",
        "hutchinson": "hutchinson:Hutchinson",
        "score_matching": "score_matching:ScoreMatching",
        "trajectory": "trajectory:Trajectory",
    },
    "optimizer": {
        name: f"torch_optimizers:{cls}"
        for name, cls in {
            "adadelta": "Adadelta",
            "adafactor": "Adafactor",
            "adagrad": "Adagrad",
            "adam": "Adam",
            "adamax": "Adamax",
            "adamw": "AdamW",
            "asgd": "ASGD",
            "nadam": "NAdam",
            "radam": "RAdam",
            "rmsprop": "RMSprop",
            "rprop": "Rprop",
            "sgd": "SGD",
        }.items()
    },
    "schedule": {
        name: f"torch_schedules:{cls}"
        for name, cls in {
            "constant": "Constant",
            "cosine": "Cosine",
            "exponential": "Exponential",
            "linear": "Linear",
            "multi_step": "MultiStep",
            "one_cycle": "OneCycle",
            "polynomial": "Polynomial",
            "step": "Step",
        }.items()
    },
    "solver": {
        "adaptive_heun": "torchdiffeq_adaptive:AdaptiveHeun",
        "bosh3": "torchdiffeq_adaptive:Bosh3",
        "dopri5": "torchdiffeq_adaptive:Dopri5",
        "dopri8": "torchdiffeq_adaptive:Dopri8",
        "euler": "torchdiffeq_fixed:Euler",
        "explicit_adams": "torchdiffeq_fixed:ExplicitAdams",
        "fehlberg2": "torchdiffeq_adaptive:Fehlberg2",
        "heun3": "torchdiffeq_fixed:Heun3",
        "lobatto": "lobatto:Lobatto",
        "midpoint": "torchdiffeq_fixed:Midpoint",
        "rk4": "rk4:RK4",
    },
    "sampler": {
        "annealed_langevin": "annealed_langevin:AnnealedLangevin",
        "euler_maruyama": "euler_maruyama:EulerMaruyama",
        "heun": "heun:Heun",
        "hmc": "hmc:HMC",
        "langevin": "langevin:Langevin",
        "mala": "mala:MALA",
        "ode": "ode:ODE",
        "predictor_corrector": "predictor_corrector:PredictorCorrector",
    },
    "metric": {
        "acceptance": "acceptance:Acceptance",
        "adjoint_path": "adjoint_path:AdjointPath",
        "ascent": "ascent:Ascent",
        "asymmetry": "asymmetry:Asymmetry",
        "bits_per_dim": "bits_per_dim:BitsPerDim",
        "c2st": "c2st:C2ST",
        "determinant_limit": "determinant_limit:DeterminantLimit",
        "energy_distance": "energy_distance:EnergyDistance",
        "ess": "ess:ESS",
        "fisher_divergence": "fisher_divergence:FisherDivergence",
        "fokker_planck": "fokker_planck:FokkerPlanck",
        "gradient_agreement": "gradient_agreement:GradientAgreement",
        "gradient_order": "gradient_order:GradientOrder",
        "ksd": "ksd:KSD",
        "log_z": "log_z:LogZ",
        "mmd": "mmd:MMD",
        "mode_coverage": "mode_coverage:ModeCoverage",
        "moments": "moments:Moments",
        "nll": "nll:NLL",
        "r_hat": "r_hat:RHat",
        "round_trip": "round_trip:RoundTrip",
        "score_fokker_planck": "score_fokker_planck:ScoreFokkerPlanck",
        "score_matching_theorem": "score_matching_theorem:ScoreMatchingTheorem",
        "score_scale": "score_scale:ScoreScale",
        "sliced_wasserstein": "sliced_wasserstein:SlicedWasserstein",
        "trace_cost": "trace_cost:TraceCost",
        "trace_spread": "trace_spread:TraceSpread",
        "trajectory_error": "trajectory_error:TrajectoryError",
        "wasserstein": "wasserstein:Wasserstein",
    },
    "tracker": {"mlflow": "mlflow:MLflow", "tensorboard": "tensorboard:TensorBoard"},
}
FOLDERS = {"dynamics": "dynamics", "data": "data"}


@hookimpl
def driftspec_elsewhere() -> Mapping[str, str]:
    """Return, for each of our words, the words of other libraries for the same thing."""
    from driftspec_plugins._elsewhere import WORDS

    return WORDS


@hookimpl
def driftspec_components() -> Mapping[str, Mapping[str, str]]:
    """Return the components: kind -> name -> "module:Class"."""
    return {
        kind: {name: f"driftspec_plugins.{FOLDERS.get(kind, kind + 's')}.{target}" for name, target in names.items()}
        for kind, names in COMPONENTS.items()
    }
