"""Verdicts on a log p from an ODE solve: on its solver error, its rounding, its prior, and a negative KL."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from driftspec.components import Verdict

if TYPE_CHECKING:
    from torch import Tensor

AGREES = 1e-3
"""The largest error in nats that counts as small. A line gives three decimals, so it changes none of them. The
confirming solver agrees within it."""
FAR = 0.01
"""The largest KL(p_T ‖ prior) in nats without a warning."""
TOLERABLE = 100.0
"""The largest |mean|/deviation, and the largest factor between the deviation and 1, of data in model units."""


def of_solve(details: Mapping[str, Any], stderr: float, u: Tensor, dtype: str, confirm: str) -> Iterator[Verdict]:
    """Yield the verdicts on the errors in `details`.

    u (n, d) float64 are the rows in model units, `dtype` the precision of log p, `stderr` the standard error of the
    NLL, and `confirm` the name of the confirming solver.
    """
    yield from _solver(details, u, confirm)
    yield from _rounding(details, stderr, u, dtype)
    yield from _prior(details)


def _solver(details: Mapping[str, Any], u: Tensor, confirm: str) -> Iterator[Verdict]:
    """Yield `bad` if the mean error or the confirming solver's difference exceeds AGREES, `warning` for few points."""
    error, lost, check = details["solver_error"]["mean"], details["not_converged"], details["confirmed"]
    differs = check["difference"] is not None and check["difference"] > max(AGREES, size(check["rounding"]))
    wrong = [f"{confirm} in float64 differs by {short(check['difference'])} nats"] if differs else []
    if error is not None and error > max(AGREES, size(details["rounding"]["mean"])):
        wrong.append(f"the mean error of log p is {short(error)} nats, more than {AGREES:g}")
    if lost:
        found = [*wrong, f"{lost} of {len(u)} points did not converge"]
        severe = wrong or error is None
        cure = off_scale(u) or "allow the solver more steps, or smaller tolerances"
        yield Verdict("solver", "above_tolerance", f"{', '.join(found)}; {cure}", "bad" if severe else "warning")
    elif wrong:
        cure = off_scale(u) or "make the solver's tolerances smaller"
        yield Verdict("solver", "above_tolerance", f"{', '.join(wrong)}; {cure}", "bad")
    elif error is None:
        yield Verdict("solver", "unknown", "the solver has no finer one that would show its error", "unknown")


def _rounding(details: Mapping[str, Any], stderr: float, u: Tensor, dtype: str) -> Iterator[Verdict]:
    """Yield a verdict if rounding is the largest numerical error, above AGREES, and above a tenth of `stderr`.

    It is `bad` if rounding is above `stderr`: then it is the largest error of the NLL. Else it is a warning.
    """
    mean, largest = (size(details["rounding"][name]) for name in ("mean", "max"))
    if mean <= max(AGREES, details["solver_error"]["mean"] or 0.0, stderr / 10):
        return
    cure = off_scale(u) or ("set runtime.dtype: float64" if dtype == "float32" else "move the data closer to 0")
    much = f"up to {short(mean)} nats in the mean and {short(largest)} at a point"
    reason = f"{dtype} rounds log p by {much}; the standard error of the NLL is {short(stderr)}; {cure}"
    yield Verdict("rounding", "rounding_dominates", reason, "bad" if mean > stderr else "warning")


def _prior(details: Mapping[str, Any]) -> Iterator[Verdict]:
    """Yield a warning if the prior is far from the density p_T of the SDE at t_prior."""
    ends = details.get("ends_of_time")
    if ends is None or ends["prior_mismatch"] - 3 * ends["prior_mismatch_stderr"] <= FAR:
        return
    gap, largest = short(ends["prior_mismatch"]), short(ends["prior_mismatch_max"])
    far = f"{gap} nats from the prior in the mean, {largest} at a single point"
    reason = f"the density at t = {ends['t_prior']:g} is {far}: add more noise by then, or widen the prior"
    yield Verdict("prior", "far_from_p_t", reason, "warning")


def below_zero(details: Mapping[str, Any]) -> tuple[Verdict, ...]:
    """Return a bad verdict if KL is below 0 by more than 3 of its errors, which is impossible; else nothing.

    The error is √(stderr² + solver error² + rounding² + prior mismatch²), with 0 for what is not known.
    """
    of_energy = "log_z" in details
    solver = details.get("solver_error", {}).get("mean") or 0.0
    rounding = size(details.get("rounding", {}).get("mean", 0.0))
    mismatch = details.get("ends_of_time", {}).get("prior_mismatch", 0.0)
    bar, kl = math.hypot(details["kl_stderr"], solver, rounding, mismatch), details["kl"]
    if kl >= -3 * bar:
        return ()
    doubtful = "log Z" if of_energy else "the log determinant"
    subject = "log_z" if of_energy else "log_det"
    reason = f"KL is {kl:.3g} with an error of {short(bar)}, and no KL is below 0: {doubtful} is in doubt"
    return (Verdict(subject, f"{subject}_suspect", reason, "bad"),)


def off_scale(u: Tensor) -> str:
    """Return the cause and the cure if rows u (n, d), model units, are far from 0 or from a deviation of 1; else ""."""
    varies = u.std(0) > 0
    spread, middle = u.std(0)[varies], u.mean(0)[varies].abs()
    if not len(spread):
        return ""
    cure, far = "set standardize: scale in data", float((middle / spread).max())
    if far > TOLERABLE:
        return f"the data lie up to {far:.0e} deviations from 0: {cure}"
    for one in (float(spread.min()), float(spread.max())):
        if not 1 / TOLERABLE <= one <= TOLERABLE:
            return f"the data's deviation is {one:.0e}, and solvers and networks expect about 1: {cure}"
    return ""


def size(error: float | None) -> float:
    """Return a rounding error from `details`, with inf for None, which means inf or NaN."""
    return math.inf if error is None else error


def short(value: float) -> str:
    """Return a number as one digit and a power of ten, such as 4e-6."""
    if not math.isfinite(value):
        return str(value)
    digit, power = f"{value:.0e}".split("e")
    return f"{digit}e{int(power)}" if value else "0"
