"""vᵀ ∂f/∂x by reverse differentiation, with or without a graph behind it: what every trace is built from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def pullback(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """f(x) (B, d), and v (B, d) -> vᵀ ∂f/∂x (B, d), for f row by row at x (B, d).

    Plain autograd: as fast as torch.func's transforms or faster, and f may itself differentiate in either way. The
    results carry a graph if f(x) does: not under `torch.no_grad`, where they are the same.
    """
    import torch

    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if graph and x.requires_grad else x.detach().requires_grad_()
        value = f(at)
    graph = graph and (x.requires_grad or _leads_elsewhere(value, at))

    def pull(v: Tensor) -> Tensor:
        if not value.requires_grad:  # f depends neither on x nor on a parameter
            return torch.zeros_like(x)
        return torch.autograd.grad(value, at, v, create_graph=graph, retain_graph=True, materialize_grads=True)[0]

    return value if graph else value.detach(), pull


def _leads_elsewhere(value: Tensor, at: Tensor) -> bool:
    """Whether the graph of `value` has another leaf than `at`: a parameter that asks for its gradient."""
    nodes, seen = [value.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", at) is not at:
            return True
        nodes.extend(following for following, _ in node.next_functions)
    return False
