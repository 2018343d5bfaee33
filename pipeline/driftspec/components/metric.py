"""Metrics: one number with its standard error, or the reason why there is none."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from driftspec.components.component import Component, Finding
from driftspec.components.data import Data, Distribution
from driftspec.errors import RunFailed

if TYPE_CHECKING:
    from torch import Tensor

    from driftspec.components.estimator import Trace
    from driftspec.components.evaluation import Evaluation
    from driftspec.components.picture import Picture
    from driftspec.components.solver import Solver
    from driftspec.components.verdict import Verdict


@dataclass(frozen=True)
class Measured:
    """One number with its standard error. If either is None, `stderr_reason` states why.

    `pictures` are drawn, under their names, and not written to metrics.json. So is `details["curves"]`, a list of
    `{"title", "axis", "x", "density", "edges", "histogram"}`, each a density at points x and the histogram to compare
    with it, which has one edge more than bars.
    """

    value: float | None
    stderr: float | None
    unit: str
    n: int
    details: Mapping[str, Any] = field(default_factory=dict)
    stderr_reason: str | None = None
    line: str | None = None  # the last line of the run's output, if the metric has one
    verdicts: tuple[Verdict, ...] = ()  # whether the number can be trusted, and why
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    terms: Mapping[str, float] = field(default_factory=dict)  # logged and plotted beside the value where it monitors


class Metric(Component):
    """Measures a trained model: one number with its standard error, or the reason why there is none."""

    kind = "metric"
    draws_wanted: ClassVar[str | None] = None
    """The key for how many of the run's own draws it reads (null: all); None if it reads none, or always all."""
    reads_chains: ClassVar[bool] = False
    """Whether it reads all of the run's own draws, by chain."""
    finite_time: ClassVar[bool] = False
    """Whether it compares draws with the distribution at the time they have reached: chains need not converge."""
    in_float64: ClassVar[frozenset[str]] = frozenset()
    """Keys whose component computes in float64, whatever the dtype of the run."""
    reads_test_rows: ClassVar[bool | None] = None
    """Whether it reads test rows; None: if its own methods call `evaluation.test` or `evaluation.reference`."""

    name: str | None = Field(
        None, min_length=1, pattern=r"^[A-Za-z0-9_]+$", description="key in metrics.json; defaults to the type"
    )

    @classmethod
    def lacking(cls) -> list[str]:
        """`draws_wanted` is the name of a key, if it is given."""
        right = cls.draws_wanted is None or isinstance(cls.draws_wanted, str)
        return [*super().lacking(), *([] if right else ["draws_wanted (the name of a key)"])]

    def key(self) -> str:
        return self.name or self.type

    def wanted(self) -> int:
        """Return how many of the run's own draws it reads."""
        return 0 if self.draws_wanted is None else int(getattr(self, self.draws_wanted) or 0)

    def reads_draws(self) -> bool:
        """Whether it reads the run's own draws, and so needs a sampler and the number of draws."""
        key = self.draws_wanted
        every_one = key is not None and getattr(self, key) is None
        return every_one or self.wanted() > 0 or self.reads_chains or any(n.kind == "sampler" for n in self.needs())

    def reads_rows(self, data: Data) -> bool:
        """Whether `measure` reads test rows of these data, so that a run must have some.

        `evaluation.reference` reads them only if the data cannot be sampled.
        """
        if self.reads_test_rows is not None:
            return self.reads_test_rows
        drawn = isinstance(data, Distribution) and "samples" in data.offers()
        return not {"test", *(() if drawn else ("reference",))}.isdisjoint(_names_used(type(self)))

    def unfit_rows(self, rows: Tensor) -> Iterator[Finding]:
        """Yield (key, message) for each value that cannot work with the rows (n, d), data units, that it would read.

        It is called before training, if the metric reads test rows.
        """
        yield from ()

    @abstractmethod
    def measure(self, evaluation: Evaluation) -> Measured:
        """Return the number for a trained model, with its standard error."""

    def watched(self, measured: Measured) -> float | None:
        """Return the number that `train.monitor` minimises: by default the value. None if there is none."""
        return measured.value

    def log_prob(self, evaluation: Evaluation, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log p (B,) float64 at points x (B, d), data units, as in `measure`, and its numerical error (B,).

        Only a metric that offers `log_prob` has it; a run then uses it for its log p. An unknown error is inf or NaN.
        """
        raise NotImplementedError

    def log_prob_gradient(self, evaluation: Evaluation, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return ∇log p (B, d) float64 at points x (B, d), data units, and a bound (B,) of its components' errors.

        By default it differentiates `log_prob`, and the bound is inf (unknown). RunFailed if `log_prob` has no graph.
        """
        import torch

        text = f"{self.label} gives a log p that cannot be differentiated: it computes it without a graph"
        refused = RunFailed(f"{text}; it may give the gradient itself, by log_prob_gradient")
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            try:
                value = self.log_prob(evaluation, x)[0].sum()
            except RuntimeError as error:  # from torch, if values are taken out of a tensor that has a graph
                raise refused from error
        slope = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
        if slope is None:
            raise refused
        return slope.double(), slope.new_full((len(x),), torch.inf, dtype=torch.float64)

    def solves_with(self) -> tuple[Trace, Solver] | None:
        """Return the trace estimator and the solver with which it computes log p from a velocity; None without them.

        Chains on a model whose log p follows from its velocity use the same two.
        """
        return None


def too_few_rows(who: str, part: str, left: int) -> str:
    """Return the message for a metric that has too few rows."""
    return f"{who} reads {part} rows, at least 2: 'split' in data leaves {left}"


def _names_used(metric: type[Metric]) -> set[str]:
    """Return the names that the methods of a metric's own classes use."""
    own = metric.__mro__[: metric.__mro__.index(Metric)]
    codes = [method.__code__ for one in own for method in vars(one).values() if isinstance(method, FunctionType)]
    return {name for code in codes for name in code.co_names}
