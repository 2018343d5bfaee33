"""Runs from start to end: stages, run directories, checkpoints, resuming, sweeps, comparison of runs, provenance."""
