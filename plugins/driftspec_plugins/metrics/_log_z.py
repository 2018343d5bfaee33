"""log Z = log ∫ exp(-E(u)) du of an energy model, in model units: by quadrature, or by annealed importance sampling.

Quadrature is for d = 1 and 2. It uses the Gauss-Legendre rule with 8 points along each side of a cell. A cell is halved
if this changes its part of Z. The box grows from the data until exp(-E) is negligible at its edges. The error is the
change by the last halving. It is an upper estimate, because the result after the halving is far more accurate.

Annealed importance sampling is for any d. Chains start in p_0 = N(m, S) and pass through p_β ∝ p_0^(1-β) exp(-βE) for
rising β from 0 to 1, with one MALA step at each β:

    log w = Σ_k (β_k - β_(k-1)) (-E(u_k) - log p_0(u_k)),   Z = E[w].

Neal, *Annealed importance sampling*, 2001. The step sizes come from separate pilot chains, so nothing adapts and the
estimate of Z has no bias; that of log Z is too low by about half its variance. A mode that no chain found is missing
from Z and from its standard error. If the weights have a heavy tail, the standard error is too small as well: with few
temperatures, ± 1.96 of it cover 82 % and less. `tail_index` is the index k of the generalised Pareto distribution
fitted to the largest weights (Vehtari, Simpson, Gelman, Yao, Gabry, *Pareto Smoothed Importance Sampling*, 2024; fit by
Zhang, Stephens, 2009); for k ≥ 1/2 the variance is infinite. With 1,000 weights the coverage is 91 to 98 % for k < 0.4,
86 to 91 % for k near 0.5, and 46 to 81 % for k > 0.6. Above 0.5 the verdict is a warning, above 0.7 it is bad.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from driftspec.components import Dynamics, Setting, Verdict
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Model
    from driftspec.streams import Streams

    LogDensity = Callable[[Tensor], Tensor]  # (n, d) -> (n,)

NODES = 8  # of the quadrature rule, along each side of a cell
TOLERANCE = 1e-8  # relative, of Z
MOST = 6_000_000  # largest number of evaluations of E
DEAD = 40.0  # exp(-E) is negligible at the edges of the box if log exp(-E) is this many nats below its maximum
BEYOND = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # exp(-E) is checked at the edges of these boxes
ROWS = 32768  # in one evaluation of E
PILOTS = 128  # number of pilot chains
RATE = 0.574  # best acceptance rate of MALA
HEAVY, HEAVIER = 0.5, 0.7  # tail indices above which the verdict is a warning, and bad
FEW = 10  # effective number of weights below which the verdict is bad


@dataclass(frozen=True)
class Estimate:
    """log Z in model units, its standard error (None for quadrature), and details of its computation."""

    value: float
    stderr: float | None
    details: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> str:
        """Return log Z with its error, for the metric's line."""
        if self.stderr is None:
            return f"log Z {self.value:.4f} by quadrature (error {self.details['error']:.0e})"
        return f"log Z {self.value:.4f} ± {self.stderr:.4f} by ais (ess {self.details['ess']:.0f})"

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return a verdict if the standard error may be too small because of the weights, else nothing."""
        if self.stderr is None:
            return ()
        ess, k = self.details["ess"], self.details["tail_index"]
        if ess >= FEW and (k is None or k <= HEAVY):
            return ()
        tail = "" if k is None else f" and the tail index {k:.2f} (their variance is infinite above {HEAVY})"
        reason = f"the effective number of the weights of {self.details['chains']} annealed chains is {ess:.0f}{tail}"
        reason += ": the standard error of log Z may be too small; take more temperatures"
        bad = ess < FEW or (k is not None and k > HEAVIER)
        return (Verdict("weights", "heavy_tailed", reason, "bad" if bad else "warning"),)


class Integral(BaseModel):
    """How log Z of an energy model is computed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)

    method: Literal["quadrature", "ais"] | None = Field(
        None, description="quadrature or ais, annealed importance sampling; null: quadrature for d = 1 and 2, else ais"
    )
    base: Literal["data", "confine"] = Field(
        "data", description="ais: p_0 is the normal distribution of the training rows, or N(0, c² I) with c = confine"
    )
    temperatures: int = Field(500, ge=2, description="ais: number of steps of β from 0 to 1, with one MALA step each")
    chains: int = Field(1000, ge=16, description="ais: number of chains, with one weight each")

    def unfit(self, around: Setting) -> Iterator[tuple[str, str]]:
        """Yield (key, message) for each key that cannot work in this spec."""
        if "energy" not in around.dynamics.offers():
            return
        if around.dynamics.confinement() == math.inf:
            text = "Z may be infinite with confine: none"
            yield "method", f"{text}: give {around.dynamics.label} a width in its place, such as confine: 3.0"
        d = None if around.reference is None else around.reference.dim()
        if self.method == "quadrature" and d is not None and d > 2:
            yield "method", _too_wide(d)

    def of(self, model: Model, streams: Streams) -> Estimate:
        """Return log Z = log ∫ exp(-E) du, with E in float64."""
        import torch

        exact, rows = model.double(), None if model.rows is None else model.rows().double()
        method = self.method or ("quadrature" if model.dim <= 2 else "ais")
        with torch.no_grad():
            if method == "ais":
                mean, root = self._base(model.dynamics, rows, model)
                return ais(lambda u: -exact.dynamics.energy(exact.module, u), mean, root, self, streams)
            if model.dim > 2:
                raise RunFailed(f"log Z: {_too_wide(model.dim)}")
            return quadrature(lambda u: -exact.dynamics.energy(exact.module, u), model.dim, rows)

    def _base(self, dynamics: Dynamics, rows: Tensor | None, model: Model) -> tuple[Tensor, Tensor]:
        """Return the mean (d,) of p_0 and a root R (d, d) of its covariance R Rᵀ."""
        import torch

        unit = torch.eye(model.dim, dtype=torch.float64)
        if self.base == "data" and rows is not None:
            return rows.mean(0).cpu(), torch.linalg.cholesky(rows.T.cov().view(model.dim, model.dim).cpu())
        c = dynamics.confinement()
        return unit[0] * 0, unit * (1.0 if c is None or c == math.inf else c)


# --------------------------------------------------------------------------------------------------------- quadrature


def _too_wide(d: int) -> str:
    return f"quadrature is for 1 and 2 dimensions, and there are {d}: take method: ais"


def quadrature(log_f: LogDensity, d: int, rows: Tensor | None = None) -> Estimate:
    """Return log ∫ exp(log_f) du over R^d, d ≤ 2, by quadrature; `rows` (n, d) show where exp(log_f) is large."""
    import torch

    centre = torch.zeros(d, dtype=torch.float64) if rows is None else rows.mean(0).cpu()
    spread = torch.ones(d, dtype=torch.float64) if rows is None else (rows.cpu() - centre).abs().amax(0) + 1e-9
    half = _box(log_f, centre, 2 * spread, rows)
    side = torch.arange(16, dtype=torch.float64) / 8 - 15 / 16
    cells = centre + half * torch.cartesian_prod(*[side] * d).view(-1, d)
    size, evaluations = half / 16, 0
    whole = _cells(log_f, cells, size)
    done, error = torch.empty(0, dtype=torch.float64), 0.0
    while True:
        size = size / 2
        corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * d).view(-1, d)
        halves = cells[:, None] + size * corners
        parts = _cells(log_f, halves.flatten(0, 1), size).view(len(cells), -1)
        evaluations += parts.numel() * NODES**d
        better = torch.logsumexp(parts, 1)
        total = torch.logsumexp(torch.cat([done, better]), 0)
        change = ((better - total).exp() - (whole - total).exp()).abs()
        coarse = ((cells - centre).abs() < spread + 2 * size).all(1) & bool((size > spread / 16).any())
        order = change.argsort()
        small = torch.zeros_like(coarse)
        small[order] = change[order].cumsum(0) <= TOLERANCE / 10
        split = coarse | ~small
        if not bool(split.any()) or evaluations > MOST:
            error += float(change.sum())
            break
        error += float(change[~split].sum())
        done = torch.cat([done, better[~split]])
        cells, whole = halves[split].flatten(0, 1), parts[split].flatten()
    box = [[float(c - h), float(c + h)] for c, h in zip(centre, half)]
    return Estimate(
        float(total), None, {"method": "quadrature", "error": error, "box": box, "evaluations": evaluations}
    )


def _box(log_f: LogDensity, centre: Tensor, half: Tensor, rows: Tensor | None) -> Tensor:
    """Return half the sides (d,) of a box with negligible exp(log_f) at its edges: `half` (d,), doubled until so."""
    import torch

    d = len(centre)
    line = torch.linspace(-1, 1, 257, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line[::8]] * d).view(-1, d)
    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    edges = ends[:, None] if d == 1 else torch.cat([torch.cartesian_prod(ends, line), torch.cartesian_prod(line, ends)])
    top = -math.inf if rows is None else float(log_f(rows[:5000].to(centre)).max())
    for _ in range(24):
        top = max(top, float(log_f(centre + half * grid).max()))
        far = torch.cat([beyond * half * edges for beyond in BEYOND])  # exp(log_f) may rise again outside
        if float(log_f(centre + far).max()) < top - DEAD:
            return half
        half = 2 * half
    raise RunFailed(f"log Z: exp(-E) is not negligible at {float(half.max()):.0e} from the data: Z may be infinite")


def _cells(log_f: LogDensity, cells: Tensor, size: Tensor) -> Tensor:
    """Return log ∫ exp(log_f) du (n,) over cells with centres `cells` (n, d) and half sides `size` (d,)."""
    import numpy as np
    import torch

    d = cells.shape[1]
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(NODES))
    points = torch.cartesian_prod(*[nodes] * d).view(-1, d) * size
    log_w = torch.cartesian_prod(*[weights.log()] * d).view(-1, d).sum(1) + size.log().sum()
    each = max(1, ROWS // len(points))
    values = [log_f((part[:, None] + points).flatten(0, 1)).view(len(part), -1) for part in torch.split(cells, each)]
    return torch.logsumexp(torch.cat(values) + log_w, 1)


# ---------------------------------------------------------------------------------------- annealed importance sampling


def ais(log_f: LogDensity, mean: Tensor, root: Tensor, how: Integral, streams: Streams) -> Estimate:
    """Return log ∫ exp(log_f) du by annealed importance sampling from p_0 = N(mean (d,), root rootᵀ), root (d, d).

    The chains are in coordinates y = root⁻¹ (u - mean), in which p_0 is N(0, I).
    """
    import torch

    scale = float(torch.linalg.slogdet(root).logabsdet)

    def log_g(y: Tensor) -> Tensor:
        return log_f(mean + y @ root.T) + scale

    betas = torch.linspace(0, 1, how.temperatures + 1, dtype=torch.float64) ** 2
    _, steps, _ = _anneal(log_g, len(mean), PILOTS, betas, None, streams.under("pilot"))
    log_w, _, rate = _anneal(log_g, len(mean), how.chains, betas, steps, streams.under("chains"))
    top = log_w.max()
    if not bool(top.isfinite()):
        raise RunFailed("log Z: no chain's weight is finite: begin nearer to the model (base)", "non_finite")
    w = (log_w - top).exp()
    value = float(top + w.mean().log())
    details = {
        "method": "ais", "ess": float(w.sum() ** 2 / w.square().sum()), "chains": how.chains,
        "tail_index": tail_index(log_w), "temperatures": how.temperatures, "base": how.base, "acceptance": rate,
    }  # fmt: skip
    return Estimate(value, float(w.std() / w.mean()) / how.chains**0.5, details)


def tail_index(log_w: Tensor) -> float | None:
    """Return the index k of the generalised Pareto distribution fitted to the largest of n weights, given log w (n,).

    The fit uses min(n/5, 3 √n) weights; None if these are fewer than 5 or equal. It is the estimate of Zhang and
    Stephens, a mean over a grid of the other parameter, with a weak prior at 1/2.
    """
    import numpy as np

    w, n = np.sort((log_w - log_w.max()).exp().numpy()), len(log_w)
    m = int(3 * n**0.5 if n > 225 else n / 5)
    tail = w[-m:] - w[-m - 1]
    quarter = tail[int(m / 4 + 0.5) - 1]
    if m < 5 or not quarter > 0:
        return None
    size = 30 + int(m**0.5)
    b = (1 - np.sqrt(size / (np.arange(1, size + 1) - 0.5))) / (3 * quarter) + 1 / tail[-1]
    k = np.log1p(-b[:, None] * tail).mean(1)
    log_likelihood = m * (np.log(-b / k) - k - 1)
    share = np.exp(log_likelihood - log_likelihood.max())
    best = float(np.log1p(-(share @ b / share.sum()) * tail).mean())
    return (m * best + 10 * 0.5) / (m + 10)


def _anneal(
    log_g: LogDensity, d: int, chains: int, betas: Tensor, steps: list[float] | None, streams: Streams
) -> tuple[Tensor, list[float], float]:
    """Return log w (chains,) of annealed chains, the K step sizes, and the mean acceptance rate; `betas` is (K + 1,).

    The step sizes are `steps`, or are adapted if it is None.
    """
    import torch

    from driftspec.autodiff import gradient
    from driftspec.numerics.chains import noise

    draws = noise(streams, chains, torch.empty(0, d, dtype=torch.float64))
    y = next(draws).normal
    g, slope = gradient(log_g, y)
    base = d / 2 * math.log(2 * math.pi)
    log_w, log_step, used, rates = torch.zeros(chains, dtype=torch.float64), 0.0, [], 0.0
    for k, (before, beta) in enumerate(zip(betas.tolist(), betas[1:].tolist())):
        log_w = log_w + (beta - before) * (g + y.square().sum(1) / 2 + base)
        eta = math.exp(log_step) if steps is None else steps[k]
        step_noise = next(draws)
        drift = beta * slope - (1 - beta) * y
        z = y + eta / 2 * drift + eta**0.5 * step_noise.normal
        g_z, slope_z = gradient(log_g, z)
        back = y - z - eta / 2 * (beta * slope_z - (1 - beta) * z)
        log_ratio = beta * (g_z - g) - (1 - beta) * (z.square() - y.square()).sum(1) / 2
        log_ratio = log_ratio + step_noise.normal.square().sum(1) / 2 - back.square().sum(1) / (2 * eta)
        log_ratio = log_ratio.nan_to_num(nan=-math.inf)
        accepted = step_noise.uniform.log() < log_ratio
        rate = float(log_ratio.clamp(max=0).exp().mean())
        log_step += 0.2 * (rate - RATE)
        used.append(eta)
        rates += rate / (len(betas) - 1)
        y, slope = torch.where(accepted[:, None], z, y), torch.where(accepted[:, None], slope_z, slope)
        g = torch.where(accepted, g_z, g)
    return log_w, used, rates
