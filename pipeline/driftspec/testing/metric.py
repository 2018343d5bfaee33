"""Checks of a metric: it returns a number with its error or a reason, the same each time, and changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from driftspec.components import Evaluation, Measured, Metric, Sampler, Setting
from driftspec.errors import RunFailed
from driftspec.experiment.build import Experiment, build
from driftspec.experiment.evaluate import as_json, evaluate, evaluation_of, once, sample
from driftspec.source.files import Files
from driftspec.spec import Sample, Spec
from driftspec.testing.checks import apart, expect, no_global_draws, slope, unfit
from driftspec.testing.component import ComponentTests
from driftspec.testing.network import moved
from driftspec.testing.samplers import Push, Steps, Walk
from driftspec.testing.worlds import (
    DATA,
    Energy,
    Flow,
    Noising,
    Rows,
    Score,
    Spirals,
    Target,
    TwoNormals,
    misfit,
    unmet,
)

COUNT = 400
"""The least number of draws of the run."""
SECTIONS: tuple[Mapping[str, Any], ...] = (
    {"dynamics": Score(), "data": DATA, "sampler": Steps(steps=20)},
    {"dynamics": Target(target=DATA), "sampler": Walk(chains=20, burn_in=20)},
    {"dynamics": Target(target=DATA), "sampler": Steps(steps=20, start=DATA)},
    {"dynamics": Energy(), "data": DATA, "sampler": Walk(steps=20)},
    {"dynamics": Flow(), "data": DATA, "sampler": Push()},
    {"dynamics": Flow(), "data": TwoNormals(samples=1000), "sampler": Push()},
    {"dynamics": Flow(), "data": Rows(), "sampler": Push()},
    {"dynamics": Flow(), "data": Spirals()},
    {"dynamics": Noising(), "data": DATA, "sampler": Push()},
)
"""Sections of small specs; every metric should fit one of them."""


class Witness(Metric):
    """A metric whose value depends on everything that another metric might change."""

    type = "kit_witness"

    def measure(self, evaluation: Evaluation) -> Measured:
        total = torch.rand((), generator=evaluation.streams.generator("witness"), dtype=torch.float64)
        for value in evaluation.model.module.state_dict().values():
            total = total + value.double().sum()
        if evaluation.setting.sampler is not None:
            total = total + evaluation.drawn().values.double().square().sum()
        if evaluation.setting.data is not None:
            total = total + evaluation.test().square().sum() + evaluation.dataset.train.square().sum()
        flags = [torch.is_grad_enabled(), evaluation.model.module.training]
        flags += [p.requires_grad and p.grad is None for p in evaluation.model.parameters()]
        return Measured(float(total), None, "", 0, {"flags": flags}, "it is no estimate")


def _has_chains(sampler: Sampler | None) -> bool:
    """Whether the sampler makes several draws per chain."""
    many = 10**6
    return sampler is not None and sampler.layout(many)[0] < many


class MetricTests(ComponentTests):
    """Checks of a metric, with the first of the kit's own small specs that it fits."""

    kind = "metric"
    around: ClassVar[Mapping[str, Any] | None] = None
    """The sections of a spec (dynamics, data, sampler, estimator), if the metric fits none of the kit's own."""

    def sections(self) -> Mapping[str, Any]:
        """Return the sections of the spec whose model the tested metric measures."""
        made: Metric = self.made()
        if self.around is not None:
            return {kind: self.make(kind, body) for kind, body in self.around.items()}
        of_chains = [sections for sections in SECTIONS if _has_chains(sections.get("sampler"))]
        own = (*of_chains, *SECTIONS) if made.reads_chains else SECTIONS
        lacks = [self.lack(made, sections) for sections in own]
        if None not in lacks:
            reasons = "; ".join(dict.fromkeys(lack for lack in lacks if lack))
            unfit(f"{made.label} fits none of the kit's small specs ({reasons}): give the sections in `around`")
        return own[lacks.index(None)]

    def lack(self, made: Metric, sections: Mapping[str, Any]) -> str | None:
        """Return what the metric needs and these sections lack, in words; None if they lack nothing."""
        data = sections.get("data") or sections["dynamics"].target_law()
        reads_draws = made.wanted() > 0 or made.reads_chains
        if reads_draws and "sampler" not in sections:
            return "draws"
        own, sampler, estimator = (sections.get(kind) for kind in ("data", "sampler", "estimator"))
        setting = Setting(sections["dynamics"], own, sampler, self.count(made), estimator)
        return unmet(made, {**sections, "data": data}) or misfit(made, setting)

    def count(self, made: Metric) -> int:
        """Return the number of draws of the run."""
        return max(COUNT, -(-made.wanted() // 20) * 20)

    def experiment(self, *metrics: Metric) -> Experiment:
        """Return the experiment of the small spec with these metrics."""
        sample = Sample(count=self.count(self.made()))
        sections = {"evaluate": metrics, "sample": sample, **self.sections()}
        spec = Spec.model_validate({"version": 1, "name": "kit", **sections})
        made = build(spec, Files(self.folder()))
        moved(made.model.module)
        return made

    def measured(self, *metrics: Metric) -> dict[str, Measured]:
        """Return each metric's result from a new experiment."""
        made = self.experiment(*metrics)
        model = made.model
        return dict(evaluate(made, model, once(lambda: sample(made, model))))

    def test_it_gives_a_number_with_its_error_or_the_reason_why_none(self) -> None:
        made: Metric = self.made()
        one = self.measured(made)[made.key()]
        if one.value is None:
            expect(one.stderr_reason, "it gives no value, and stderr_reason is empty: give the reason")
        else:
            expect(math.isfinite(one.value), f"its value is {one.value}: give None and the reason")
        if one.stderr is None:
            expect(one.stderr_reason, "it gives no standard error, and stderr_reason is empty: give the reason")
        else:
            expect(math.isfinite(one.stderr) and one.stderr >= 0, f"its standard error is {one.stderr}")
        expect(type(one.n) is int and one.n >= 0, f"n must be the number of things measured, not {one.n!r}")
        expect(isinstance(one.unit, str), f"unit must be text, not {one.unit!r}")
        try:
            json.dumps(as_json(one), allow_nan=False)
        except (TypeError, ValueError) as error:
            expect(False, f"its result is not strict JSON: {error}")

    def test_its_log_p_has_the_gradient_it_gives(self) -> None:
        """For a metric that offers log_prob; a metric whose gradient raises RunFailed passes."""
        made: Metric = self.made()
        if "log_prob" not in made.offers():
            unfit(f"{made.label} offers no log_prob")
        experiment = self.experiment(made)
        model = experiment.model
        evaluation = evaluation_of(experiment, model, experiment.streams, once(lambda: sample(experiment, model)))
        x = evaluation.test()[:4]
        try:
            gradient, error = made.log_prob_gradient(evaluation, x)
        except RunFailed:
            return
        expect(gradient.shape == x.shape and error.shape == (len(x),), "log_prob_gradient must give (B, d) and (B,)")
        off = apart(gradient, slope(lambda y: made.log_prob(evaluation, y)[0].detach(), x, 1e-2))
        expect(
            off < 1e-2, f"log_prob_gradient differs from the slope of log_prob by {off:.1e}, relative to 1 + |slope|"
        )

    def test_it_is_the_same_each_time(self) -> None:
        made: Metric = self.made()
        with no_global_draws(made.label):
            first, second = (json.dumps(as_json(self.measured(made)[made.key()])) for _ in range(2))
        expect(first == second, "measured twice, it gives two results: draw only from evaluation.streams")

    def test_it_disturbs_no_other_metric(self) -> None:
        """It changes neither the draws, the data nor the model, and leaves torch's gradient mode as it was."""
        made, witness = self.made(), Witness()
        alone, after = self.measured(witness), self.measured(made, witness)
        text = "a metric measured after it gives another result: it changes draws, data, model or gradient mode"
        expect(alone[witness.key()] == after[witness.key()], text)


__all__ = ["MetricTests"]
