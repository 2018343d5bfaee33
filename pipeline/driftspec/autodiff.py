"""Derivatives of functions of rows: ∇h of a scalar function, and vᵀ ∂f/∂x, by automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return h(x) (B,) and ∇h(x) (B, d); both carry a graph where gradients are recorded."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if graph and x.requires_grad else x.detach().requires_grad_()
        value = function(x)
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=graph)
    return (value, slope) if graph else (value.detach(), slope)


def pullback(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """f(x) (B, d), and v (B, d) -> vᵀ ∂f/∂x (B, d), for f row by row at x (B, d).

    Plain autograd: as fast as torch.func's transforms or faster, and f may itself differentiate in either way. The
    results carry a graph if f(x) does: not under `torch.no_grad`, where they are the same.
    """
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


__all__ = ["gradient", "pullback"]
