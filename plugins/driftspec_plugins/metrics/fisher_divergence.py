"""Fisher divergence: ½ E_π ‖s(x) - ∇log π(x)‖², zero only for the score of π. Score matching minimises it.

Hyvärinen, *Estimation of Non-Normalized Statistical Models by Score Matching*, 2005.

With `of: data`, π is the distribution of the data; its score is a closed form or the gradient of its log p. A model
that was trained by denoising has the score of α x + σ ε instead. With `of: noised`, π is the distribution of α x + σ ε.
For a mixture of normal distributions it is another mixture,

    Σ_k w_k N(α m_k, α² C_k + σ² I).

σ and the noise are in model units. The value is in data units, with ∇_x = Wᵀ ∇_u; the details have the value in model
units too, which are the units of training losses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from driftspec.components import Distribution, Dynamics, Estimator, Line, Measured, Metric, Panel, Picture, Setting
from driftspec.components.component import Need
from driftspec.errors import RunFailed
from driftspec_plugins.metrics._scores import finite, mean, score_at
from driftspec_plugins.metrics._unfit import no_rows

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components import Evaluation

    Normals = tuple[Tensor, Tensor, Tensor]  # weights (K,), means (K, d), covariances (K, d, d)


SHOWN = 200  # points of the picture
NO_LEVEL = "neither the dynamics nor the estimator gives a noise level: give sigma"
"""The message if σ is not known."""


class FisherDivergence(Metric):
    """½ E ‖s - ∇log π‖² over test rows, if the score of the data or of the noised data is known."""

    type = "fisher_divergence"
    reads_test_rows: ClassVar[bool] = True

    of: Literal["data", "noised"] = Field("data", description="the distribution whose score is the reference")
    sigma: float | None = Field(
        None, gt=0, description="σ for of: noised, model units; null: that of the estimator, or of the noise kernel"
    )
    points: int | None = Field(None, ge=2, description="number of test rows, the first ones; null: all")

    def needs(self) -> tuple[Need, ...]:
        return (
            Need("dynamics", ("score",), "to compare"),
            Need("data", ("log_prob",), "its gradient is the reference"),
            Need("data", ("samples",), "to have test rows"),
            Need("data", ("smooth",), "at hard edges ∇log p has no value"),
        )

    def problems(self, around: Setting) -> Iterator[tuple[str, str]]:
        yield from no_rows(around)
        if self.of == "data":
            if self.sigma is not None:
                yield "sigma", "'sigma' belongs to of: noised"
            return
        law = around.data
        if isinstance(law, Distribution) and type(law).normals is Distribution.normals:
            yield "of", _no_closed_form(law)
        known = around.estimator is not None and around.estimator.noise_level() is not None
        if self.sigma is None and not known and "noise_kernel" not in around.dynamics.offers():
            yield "of", NO_LEVEL

    def measure(self, evaluation: Evaluation) -> Measured:
        import torch

        x, law, matrix = evaluation.test(self.points), evaluation.truth, evaluation.transform.matrix
        if law is None:
            raise RunFailed(f"{self.label}: the score of the data is not known")
        u = evaluation.transform.to_model(x)
        details: dict[str, Any] = {"of": self.of}
        if self.of == "data":
            truth = _model(law.score(x).detach(), matrix)
        else:
            alpha, sigma = self._level(evaluation)
            noise = torch.randn(u.shape, generator=evaluation.streams.generator("noise"), dtype=torch.float64)
            u = alpha * u + sigma * noise
            truth = normals_score(u, noised(self._normals(law), evaluation, alpha, sigma))
            details |= {"sigma": sigma, "alpha": alpha}
        u = evaluation.model.like(u).double().cpu()
        score, stated = score_at(evaluation.model, u)
        gap = finite(self, score - finite(self, truth, "the data's score"), "the score")
        value, stderr = mean((gap @ matrix).square().sum(1) / 2)
        inner, inner_stderr = mean(gap.square().sum(1) / 2)
        size = float((truth @ matrix).square().sum(1).mean()) / 2
        details |= {"model_units": inner, "model_units_stderr": inner_stderr, "relative": value / size, **stated}
        line = f"Fisher divergence {value:.4g} ± {stderr:.2g}, {value / size:.2%} of ½ E‖∇log p‖² = {size:.4g}"
        pictures = {"score": _picture(u, truth, score)} if u.shape[1] == 1 else {}
        return Measured(value, stderr, "1/data units²", len(u), details, line=line, pictures=pictures)

    def _normals(self, law: Distribution) -> Normals:
        """Return the mixture of normal distributions that the data have. Raise RunFailed if it is not known."""
        found = law.normals()
        if found is None:
            raise RunFailed(f"{self.label}: {_no_closed_form(law)}")
        return found

    def _level(self, evaluation: Evaluation) -> tuple[float, float]:
        """Return α and σ of the noised data. Raise RunFailed if they are not known."""
        level = (
            _noise(evaluation.model.dynamics, evaluation.setting.estimator) if self.sigma is None else (1.0, self.sigma)
        )
        if level is None:
            raise RunFailed(f"{self.label}: {NO_LEVEL}")
        return level


def _no_closed_form(law: Distribution) -> str:
    text = f"the score of {law.label} with noise has no closed form, only that of a mixture of normal distributions has"
    return f"{text}: take of: data"


def _noise(dynamics: Dynamics, estimator: Estimator | None) -> tuple[float, float] | None:
    """Return α and σ of the distribution whose score the model has, or None."""
    level = None if estimator is None else estimator.noise_level()
    if level is not None:
        return 1.0, level
    if "noise_kernel" not in dynamics.offers():
        return None
    import torch

    alpha, sigma = dynamics.kernel(torch.tensor(dynamics.times()[1], dtype=torch.float64))
    return float(alpha), float(sigma)


def _picture(u: Tensor, truth: Tensor, score: Tensor) -> Picture:
    """Return the picture of both scores (n, 1) at u (n, 1), one dimension, model units, at SHOWN of the rows."""
    order = u[:, 0].argsort()
    shown = order[:: max(1, len(order) // SHOWN)]
    x, true, learned = (values[shown, 0].tolist() for values in (u, truth, score))
    panel = Panel([Line(x, learned, "s"), Line(x, true, "∇log π")], "x1 (model units)", "score")
    return Picture([panel], "The score s of the model and the true one, ∇log π, where the test rows are.")


def _model(score: Tensor, matrix: Tensor) -> Tensor:
    """Return ∇_u = W⁻ᵀ ∇_x (n, d) for ∇_x (n, d) and W (d, d)."""
    import torch

    return torch.linalg.solve(matrix.T, score.T).T


def noised(law: Normals, evaluation: Evaluation, alpha: float, sigma: float) -> Normals:
    """Return the mixture of α u + σ ε, with u in model units, for a mixture of x in data units."""
    import torch

    weights, means, covariances = law
    matrix = evaluation.transform.matrix
    blur = sigma**2 * torch.eye(len(matrix), dtype=torch.float64)
    return weights, alpha * evaluation.transform.to_model(means), alpha**2 * matrix @ covariances @ matrix.T + blur


def normals_score(x: Tensor, law: Normals) -> Tensor:
    """Return ∇log Σ_k w_k N(x; m_k, C_k) (n, d) = Σ_k r_k C_k⁻¹ (m_k - x), r_k the share of component k in p(x)."""
    import torch

    weights, means, covariances = law
    away = means[:, None] - x  # (K, n, d)
    scores = torch.linalg.solve(covariances, away.transpose(1, 2)).transpose(1, 2)
    log_share = weights.log()[:, None] - torch.linalg.slogdet(covariances).logabsdet[:, None] / 2
    log_share = log_share - (away * scores).sum(-1) / 2
    return (log_share.softmax(0)[..., None] * scores).sum(0)
