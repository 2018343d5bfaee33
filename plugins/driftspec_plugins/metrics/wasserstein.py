"""Wasserstein distance: W_p(P, Q) = (min_π E_π ‖X - Y‖^p)^(1/p) over the couplings π of P and Q; zero only for P = Q.

Peyré, Cuturi, *Computational optimal transport*, 2019. Between two sets of rows it is a linear program, solved exactly
by the network simplex of POT (Bonneel, van de Panne, Paris, Heidrich, *Displacement interpolation using Lagrangian mass
transport*, 2011), at a cost cubic in the rows.

The standard error comes from the program's dual potentials u, v: Var W_p^p = Var u/n + Var v/m (del Barrio, Loubes,
*Central limit theorems for empirical transportation cost in general dimension*, 2019). It is the spread of W_p from one
pair of samples to the next; near the floor, where the potentials are themselves chance, it is too large, by about 1.4
(1.96 of it cover 99 %, elsewhere 95 to 96 %). It does not cover the bias: finite samples of one law are at a distance
of order n^(-1/d), and the floor shows it. Of several optimal potentials the simplex finds one: at 100 rows that moves
the error bar by a tenth, often, or by more.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from driftspec.errors import RunFailed
from driftspec_plugins.metrics._two_samples import TwoSamples, by_chain, root

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Measured

MOST_PIVOTS = 10_000_000


class Wasserstein(TwoSamples):
    """W_p between the run's draws and data, in the data's own units (a length). Needs POT: driftspec[ot]."""

    type = "wasserstein"
    libraries: ClassVar[Mapping[str, str]] = {"ot": "driftspec[ot]"}

    samples: int = Field(1000, ge=10, description="draws compared, the run's first ones, with as many data")
    p: Literal[1, 2] = Field(2, description="power of the distance that is transported")

    def measure(self, evaluation: Evaluation) -> Measured:
        both = self.paired(evaluation)
        value, stderr = wasserstein(both.x, both.y, self.p, both.parts)
        floor = evaluation.floor(lambda a, b: wasserstein(a, b, self.p)[0], len(both.x))
        return both.measured(value, stderr, "data units", {"floor": floor})


def wasserstein(x: Tensor, y: Tensor, p: int, parts: int | None = None) -> tuple[float, float]:
    """(W_p, standard error) for x (n, d) in so many independent parts (null: n) and y (m, d)."""
    import torch

    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") ** p
    scale = float(cost.max()) or 1.0  # the simplex's tolerance is absolute
    power, u, v = _transport((cost / scale).numpy())
    of_draws = by_chain(torch.as_tensor(u), parts or len(x))
    return root(power * scale, (float(of_draws.var()) / len(of_draws) + v.var(ddof=1) / len(y)) * scale**2, p)


def _transport(cost: Any) -> tuple[float, Any, Any]:
    """The least mean cost between uniform weights, for cost (n, m), and its dual potentials (n,), (m,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what matters of them is in `log`
        try:
            import ot
        except ImportError as error:
            text = "metric 'wasserstein' needs POT, which cannot be imported: pip install 'driftspec[ot]'"
            raise RunFailed(f"{text} ({error})") from error
        power, log = ot.emd2([], [], cost, numItermax=MOST_PIVOTS, log=True)
    if log["warning"] is not None:
        raise RunFailed(f"metric 'wasserstein': optimal transport was not found, take fewer samples ({log['warning']})")
    return float(power), log["u"], log["v"]
