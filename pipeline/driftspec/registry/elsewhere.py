"""Words of other libraries and papers for our names. A message suggests our word; a spec cannot use theirs.

A table maps our words to theirs, separated by spaces: {"batch_size": "batch bs minibatch_size"}. Text after our word is
shown with it: {"steps, which counts optimiser steps": "epochs n_epochs"}. If several of our words have the same word of
theirs, the first one that is allowed in its place is suggested. Words of "" have no counterpart here, and nothing of a
similar spelling is suggested for them. A word like ".csv" is the ending of a file name; that name replaces FILE.

The table below has the sections and keys of a spec; plugins provide the words for their components.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import PurePath

Table = Mapping[str, str]

WORDS: Table = {
    # --- sections ---
    "version": "schema_version spec_version",
    "name": "title experiment_name run_name",
    "seed": "random_seed rng_seed manual_seed random_state prng_seed",
    "runtime": "hardware resources environment",
    "solver": "ode_solver integrator",
    "data": "dataset datamodule dataloader loader train_data",
    "dynamics": "model flow sde ode process diffusion architecture",
    "estimator": "loss objective criterion method loss_fn training_objective",
    "sampler": "mcmc kernel sampling_method inference",
    "train": "training trainer fit optimization training_args",
    "evaluate": "eval evaluation metrics metric test measure score",
    "sample": "sampling generate generation samples draw",
    "trackers": "logger loggers logging callbacks wandb",
    "sweep": "search hparams hyperparameters tune",
    "extends": "base include inherits inherit parent defaults",
    # --- keys ---
    "type": "kind cls class _target_ target_class name algorithm",
    "device": "gpu gpus accelerator devices",
    "dtype": "precision default_dtype float_type",
    "threads": "num_threads n_threads n_jobs num_workers",
    "steps": "iterations iters n_iter n_iters num_iterations max_iterations max_iter max_iters max_steps "
    "num_steps n_steps train_steps num_train_steps total_steps training_steps n_updates",
    "steps, which counts optimiser steps": "epochs num_epochs n_epochs max_epochs num_train_epochs",
    "steps, the number of steps": "step_size dt h",
    "batch_size": "batch bs train_batch_size n_batch minibatch minibatch_size per_device_train_batch_size",
    "optimizer": "optimiser optim opt",
    "schedule": "scheduler lr_scheduler lr_schedule learning_rate_schedule",
    "clip_norm": "grad_clip gradient_clip gradient_clipping gradient_clip_val clip clip_grad clip_grad_norm clip_value "
    "max_grad_norm grad_norm grad_clip_norm gradient_clip_norm",
    "ema": "ema_decay ema_rate use_ema polyak moving_average exponential_moving_average averaging",
    "early_stopping": "early_stop stop_early",
    "patience": "wait",
    "every": "frequency freq interval check_every eval_every val_check_interval",
    "min_delta": "delta tol tolerance threshold",
    "checkpoint_every": "save_every save_steps save_freq ckpt_every checkpoint_freq checkpoint_frequency "
    "checkpoint_interval snapshot_freq",
    "log_every": "log_freq log_interval logging_steps log_every_n_steps log_frequency print_every report_every",
    "count": "n num number size amount n_samples num_samples samples",
    "grid": "parameters params product",
    # --- keys of base classes ---
    "samples": "n n_samples num_samples size n_points num_points n_data num_data count",
    "split": "splits fractions ratios train_fraction train_size test_size val_split validation_split",
    "standardize": "normalize normalise normalization scaling scaler scale preprocess whiten",
    "chains": "n_chains num_chains walkers n_walkers num_walkers",
    "burn_in": "burn warmup num_warmup n_warmup warmup_steps tune discard num_burnin_steps n_burn",
    "thin": "thinning thin_by",
    "start": "init initial init_params initial_position initial_positions initial_state inits x0",
    "tolerance": "tol rtol atol accuracy",
    "max_steps": "max_num_steps",
    "kinetic": "kinetic_energy l2int",
    "jacobian": "jacobian_norm jacobian_norm2 jacobian_frobenius frobenius",
    # --- values ---
    "float32": "float single fp32 f32 32 torch.float32",
    "float64": "double fp64 f64 64 torch.float64",
    "": "float16 bfloat16 half fp16 bf16 f16 16 amp mixed minmax",
    "scale": "zscore standard standardise standardize normalize standard_scaler unit_variance",
    "whiten": "pca zca sphere whitening decorrelate",
    # --- verbs ---
    "validate": "check lint",
    "resume": "continue restart",
    "runs": "ls list history",
    "init": "new create",
    "plugins": "plugin components",
}


class Words:
    """Maps words of other libraries to our words. Earlier tables have priority."""

    def __init__(self, *tables: Table) -> None:
        self.ours: dict[str, dict[str, None]] = {}
        for table in tables:
            for entry, theirs in table.items():
                for word in theirs.split():
                    self.ours.setdefault(word if word.startswith(".") else _plain(word), {})[entry] = None

    def meant(self, given: str, allowed: Collection[str]) -> str | None:
        """Return the allowed entry that `given` means; "" if nothing here has its meaning, None if that is unknown."""
        entries = [*self.ours.get(_plain(given), ()), *self.ours.get(PurePath(given).suffix.lower() or "-", ())]
        fitting = (entry for entry in entries if word_of(entry) in allowed)
        return next(fitting, "" if "" in entries else None)

    def hint(self, given: str, allowed: Collection[str]) -> str | None:
        """Return the entry as the end of a message, " (did you mean 'steps'?)"; "" or None as `meant` does."""
        entry = self.meant(given, allowed)
        return _suggested(entry, given) if entry else entry


def word_of(entry: str) -> str:
    """Return our word of an entry, without the text after it."""
    return re.split(r"[ ,]", entry, maxsplit=1)[0]


def note_of(entry: str, given: str) -> str:
    """Return the text of an entry after our word, with `given` in place of FILE."""
    return entry.removeprefix(word_of(entry)).replace("FILE", given)


def _suggested(entry: str, given: str) -> str:
    return f" (did you mean '{word_of(entry)}'{note_of(entry, given)}?)"


def _plain(word: str) -> str:
    return re.sub(r"[\W_]", "", word).lower()


__all__ = ["WORDS", "Table", "Words", "note_of", "word_of"]
