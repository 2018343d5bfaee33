"""The error of a round trip from the data to the prior and back, for several metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Solver


def distances(evaluation: Evaluation, x: Tensor, solver: Solver) -> tuple[Tensor, int]:
    """Return ‖x' - x‖ (n,) for x (n, d), x' = decode(encode(x)), data units, and how many points did not converge."""
    import torch

    from driftspec.numerics import transport

    solved = transport.there_and_back(evaluation.model, evaluation.rows(x), solver)
    return torch.linalg.vector_norm(evaluation.transform.to_data(solved.value.cpu()) - x, dim=1), solved.not_converged
