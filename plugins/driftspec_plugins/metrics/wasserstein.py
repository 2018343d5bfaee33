"""Wasserstein distance: W_p(P, Q) = (min_π E_π ‖X - Y‖^p)^(1/p) over the couplings π of P and Q; zero only for P = Q.

Peyré, Cuturi, *Computational optimal transport*, 2019. For two sets of rows it is a linear program. The network simplex
of POT solves it exactly (Bonneel, van de Panne, Paris, Heidrich, *Displacement interpolation using Lagrangian mass
transport*, 2011); the time grows as the cube of the number n of rows, and the memory is 8 n² bytes.

The standard error comes from the dual potentials u, v of the program: Var W_p^p = Var u/n + Var v/m (del Barrio,
Loubes, *Central limit theorems for empirical transportation cost in general dimension*, 2019). Near the floor the
potentials are mostly random, and the standard error is about 1.4 times too large (± 1.96 of it cover 99 %, elsewhere 95
to 96 %). It does not include the bias: the distance of two finite samples of one distribution is of order n^(-1/d), as
the floor shows. The optimal potentials are not unique, and the simplex finds one of them: with 100 rows this often
changes the standard error by 10 % or more.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from driftspec.errors import RunFailed
from driftspec_plugins.metrics._two_samples import TwoSamples, by_chain, root

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation, Measured, Setting

MOST_PIVOTS = 10_000_000
MOST_BYTES = 2_000_000_000  # of the costs (n, n) in float64


class Wasserstein(TwoSamples):
    """W_p between the run's draws and data, in data units (a length). It needs POT: driftspec[ot]."""

    type = "wasserstein"
    libraries: ClassVar[Mapping[str, str]] = {"ot": "driftspec[ot]"}

    samples: int = Field(1000, ge=10, description="number of draws, the first ones of the run, and of data rows")
    p: Literal[1, 2] = Field(2, description="p, the power of the distance in the transport cost")

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        size = 8 * self.samples**2
        if size > MOST_BYTES:
            most = math.isqrt(MOST_BYTES // 8)
            text = f"'samples' is {self.samples}: the costs of all pairs need {size / 1e9:.1f} GB, at most"
            yield "samples", f"{text} {MOST_BYTES / 1e9:g} GB ({most} samples): sliced_wasserstein needs none of this"

    def measure(self, evaluation: Evaluation) -> Measured:
        both = self.paired(evaluation)
        value, stderr = wasserstein(both.x, both.y, self.p, both.parts)
        floor = evaluation.floor(lambda a, b: wasserstein(a, b, self.p)[0], len(both.x))
        return both.measured(value, stderr, "data units", {"floor": floor})


def wasserstein(x: Tensor, y: Tensor, p: int, parts: int | None = None) -> tuple[float, float]:
    """Return W_p and its standard error for x (n, d) and y (m, d); x has `parts` independent parts (None: n)."""
    import torch

    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist") ** p
    scale = float(cost.max()) or 1.0  # the simplex's tolerance is absolute
    power, u, v = _transport((cost / scale).numpy())
    of_draws = by_chain(torch.as_tensor(u), parts or len(x))
    return root(power * scale, (float(of_draws.var()) / len(of_draws) + v.var(ddof=1) / len(y)) * scale**2, p)


def _transport(cost: Any) -> tuple[float, Any, Any]:
    """Return the least mean cost between uniform weights for cost (n, m), and the dual potentials (n,) and (m,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `log` has the warnings
        try:
            import ot
        except ImportError as error:
            text = "metric 'wasserstein' needs POT, which cannot be imported: pip install 'driftspec[ot]'"
            raise RunFailed(f"{text} ({error})") from error
        power, log = ot.emd2([], [], cost, numItermax=MOST_PIVOTS, log=True)
    if log["warning"] is not None:
        raise RunFailed(f"metric 'wasserstein': optimal transport was not found, take fewer samples ({log['warning']})")
    return float(power), log["u"], log["v"]
