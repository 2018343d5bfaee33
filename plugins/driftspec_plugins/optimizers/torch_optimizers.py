"""The optimisers of torch.optim by name, with torch's keys, defaults and bounds.

Some keys are left out: those that choose an implementation (foreach, fused, capturable, differentiable), maximize, and
Adam's decoupled_weight_decay, which is `adamw`. Some optimisers are left out: LBFGS, which evaluates the loss several
times in one step, Muon, which takes only weight matrices, and SparseAdam, which takes only sparse gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from driftspec.components import Optimizer

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer as TorchOptimizer

Beta = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]

RATE = "learning rate"
EPS = "added to the denominator"
DECAY = "factor of an L2 penalty, whose gradient is added"
DECOUPLED = "each step multiplies the weights by 1 - lr · weight_decay"
BETAS = "decay of the averages of the gradient and of the squared gradient"


class FromTorch(Optimizer):
    """The optimiser of torch.optim that has the name of this class, with the keys of this class."""

    fused: ClassVar[bool] = False
    """Whether torch has one CPU kernel for the whole step: the same result up to rounding, 2 to 3 times as fast."""

    def build(self, parameters: Sequence[nn.Parameter]) -> TorchOptimizer:
        import torch

        keys: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields}
        if self.fused and all(p.is_cpu and p.is_floating_point() for p in parameters):
            keys["fused"] = True
        return getattr(torch.optim, type(self).__name__)(list(parameters), **keys)


class Adadelta(FromTorch):
    """Steps scaled by running means of squared gradients and of squared steps.

    Matthew Zeiler, "ADADELTA: An adaptive learning rate method", 2012.
    """

    type = "adadelta"

    lr: NotNegative = Field(1.0, description=RATE)
    rho: float = Field(0.9, ge=0, le=1, description="decay of the averages of squared gradient and squared step")
    eps: NotNegative = Field(1e-6, description="added under both roots")
    weight_decay: NotNegative = Field(0.0, description=DECAY)


class Adafactor(FromTorch):
    """Adam with a second moment that is stored by rows and columns, to save memory.

    Noam Shazeer, Mitchell Stern, "Adafactor: Adaptive learning rates with sublinear memory cost", 2018.
    """

    type = "adafactor"

    lr: NotNegative = Field(0.01, description="largest relative step")
    beta2_decay: float = Field(-0.8, le=0, description="exponent c of the second moment's decay 1 - step^c")
    eps: tuple[NotNegative | None, NotNegative] = Field(
        (None, 1e-3), description="ε1, under the root (null: the epsilon of the dtype), and ε2, smallest weight norm"
    )
    d: float = Field(1.0, ge=1, description="largest root mean square of an update; larger updates are clipped")
    weight_decay: NotNegative = Field(0.0, description=DECOUPLED)


class Adagrad(FromTorch):
    """Steps divided by the root of the sum of all squared gradients so far.

    John Duchi, Elad Hazan, Yoram Singer, "Adaptive subgradient methods", 2011.
    """

    type = "adagrad"
    fused = True

    lr: NotNegative = Field(0.01, description=RATE)
    lr_decay: NotNegative = Field(0.0, description="the rate is lr / (1 + (step - 1) · lr_decay)")
    weight_decay: NotNegative = Field(0.0, description=DECAY)
    initial_accumulator_value: NotNegative = Field(0.0, description="first value of the sum of squared gradients")
    eps: NotNegative = Field(1e-10, description=EPS)


class Adam(FromTorch):
    """Running mean of the gradient, divided by the root of its running mean square.

    Diederik Kingma, Jimmy Ba, "Adam: A method for stochastic optimization", 2014.
    """

    type = "adam"
    fused = True

    lr: NotNegative = Field(1e-3, description=RATE)
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description=BETAS)
    eps: NotNegative = Field(1e-8, description=EPS)
    weight_decay: NotNegative = Field(0.0, description=DECAY)
    amsgrad: bool = Field(False, description="divide by the largest second moment so far (Reddi et al. 2018)")


class Adamax(FromTorch):
    """Adam with the largest absolute gradient in place of the second moment; Kingma and Ba 2014, section 7."""

    type = "adamax"

    lr: NotNegative = Field(2e-3, description=RATE)
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="decay of the average gradient and of the largest one")
    eps: NotNegative = Field(1e-8, description=EPS)
    weight_decay: NotNegative = Field(0.0, description=DECAY)


class AdamW(FromTorch):
    """Adam with weight decay that does not pass through the gradient.

    Ilya Loshchilov, Frank Hutter, "Decoupled weight decay regularization", 2017.
    """

    type = "adamw"
    fused = True

    lr: NotNegative = Field(1e-3, description=RATE)
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description=BETAS)
    eps: NotNegative = Field(1e-8, description=EPS)
    weight_decay: NotNegative = Field(1e-2, description=DECOUPLED)
    amsgrad: bool = Field(False, description="divide by the largest second moment so far (Reddi et al. 2018)")


class ASGD(FromTorch):
    """Stochastic gradient descent that also averages the parameters.

    Boris Polyak, Anatoli Juditsky, "Acceleration of stochastic approximation by averaging", 1992.

    torch keeps the averaged weights only in its state: the model has the last weights (`train.ema` averages them).
    """

    type = "asgd"

    lr: NotNegative = Field(0.01, description=RATE)
    lambd: NotNegative = Field(1e-4, description="λ: weights shrink by 1 - λ η, and η = lr / (1 + λ lr step)^alpha")
    alpha: float = Field(0.75, description="exponent of the rate η")
    t0: float = Field(1e6, description="step at which averaging starts")
    weight_decay: NotNegative = Field(0.0, description=DECAY)


class NAdam(FromTorch):
    """Adam with Nesterov momentum.

    Timothy Dozat, "Incorporating Nesterov momentum into Adam", 2016.
    """

    type = "nadam"

    lr: NotNegative = Field(2e-3, description=RATE)
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description=BETAS)
    eps: NotNegative = Field(1e-8, description=EPS)
    weight_decay: NotNegative = Field(0.0, description=DECAY)
    momentum_decay: NotNegative = Field(4e-3, description="ψ: the momentum is β1 (1 - 0.96^(step ψ) / 2)")
    decoupled_weight_decay: bool = Field(False, description="weight_decay as in adamw")

    def build(self, parameters: Sequence[nn.Parameter]) -> TorchOptimizer:
        """Return torch's NAdam. On restoring a checkpoint `mu_product` keeps its dtype, which torch would change."""
        optimizer = super().build(parameters)

        def to_first_dtype(restored: TorchOptimizer) -> None:
            for state in restored.state.values():
                state["mu_product"] = state["mu_product"].to(state["step"].dtype)

        optimizer.register_load_state_dict_post_hook(to_first_dtype)
        return optimizer


class RAdam(FromTorch):
    """Adam with smaller first steps, while its mean square is uncertain.

    Liyuan Liu et al., "On the variance of the adaptive learning rate and beyond", 2019.
    """

    type = "radam"

    lr: NotNegative = Field(1e-3, description=RATE)
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description=BETAS)
    eps: NotNegative = Field(1e-8, description=EPS)
    weight_decay: NotNegative = Field(0.0, description=DECAY)
    decoupled_weight_decay: bool = Field(False, description="weight_decay as in adamw")


class RMSprop(FromTorch):
    """The gradient divided by the root of its running mean square.

    Geoffrey Hinton, "Neural networks for machine learning", lecture 6, 2012; Graves 2013 for `centered`.
    """

    type = "rmsprop"

    lr: NotNegative = Field(0.01, description=RATE)
    alpha: float = Field(0.99, ge=0, le=1, description="decay of the average squared gradient")
    eps: NotNegative = Field(1e-8, description=EPS)
    weight_decay: NotNegative = Field(0.0, description=DECAY)
    momentum: NotNegative = Field(0.0, description="momentum of the step")
    centered: bool = Field(False, description="divide by the gradient's standard deviation")


class Rprop(FromTorch):
    """Resilient propagation, for full batches: it uses only the sign of each gradient.

    Martin Riedmiller, Heinrich Braun, "RPROP: a direct adaptive method", 1993.
    """

    type = "rprop"

    lr: NotNegative = Field(0.01, description="first step size")
    etas: tuple[Annotated[float, Field(gt=0, lt=1)], Annotated[float, Field(gt=1)]] = Field(
        (0.5, 1.2), description="factors of a step size if the sign of the gradient changes, and if it stays the same"
    )
    step_sizes: tuple[NotNegative, NotNegative] = Field((1e-6, 50.0), description="smallest and largest step size")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.step_sizes[0] > self.step_sizes[1]:
            raise ValueError(f"step_sizes are [smallest, largest], not {list(self.step_sizes)}")
        return self


class SGD(FromTorch):
    """Stochastic gradient descent, with momentum if asked for.

    Herbert Robbins, Sutton Monro, "A stochastic approximation method", 1951; `nesterov` after Sutskever 2013.
    """

    type = "sgd"
    fused = True

    lr: NotNegative = Field(1e-3, description=RATE)
    momentum: NotNegative = Field(0.0, description="the step follows v ← momentum · v + (1 - dampening) · gradient")
    dampening: float = Field(0.0, description="reduces the gradient in v, see momentum")
    weight_decay: NotNegative = Field(0.0, description=DECAY)
    nesterov: bool = Field(False, description="Nesterov's momentum; it needs momentum > 0 and dampening 0")

    @model_validator(mode="after")
    def _nesterov(self) -> Self:
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise ValueError("nesterov needs momentum above 0 and dampening 0")
        return self
