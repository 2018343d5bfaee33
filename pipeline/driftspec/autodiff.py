"""Derivatives by automatic differentiation, row by row: ∇h of a scalar function h, and vᵀ ∂f/∂x."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return h(x) (B,) and ∇h(x) (B, d) for x (B, d); both have a graph if gradients are enabled."""
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x if graph and x.requires_grad else x.detach().requires_grad_()
        value = function(x)
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=graph)
    return (value, slope) if graph else (value.detach(), slope)


def pullback(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return f(x) (B, d) and the function v (B, d) -> vᵀ ∂f/∂x (B, d), at x (B, d); f acts on each row alone.

    It uses plain autograd, which is as fast as the transforms of torch.func or faster; f may differentiate by either.
    The results have a graph if f(x) has one. Under `torch.no_grad` they have no graph and the same values.
    """
    graph = torch.is_grad_enabled()
    with torch.enable_grad():
        at = x if graph and x.requires_grad else x.detach().requires_grad_()
        value = f(at)
    graph = graph and (x.requires_grad or _leads_elsewhere(value, at))

    def vjp(v: Tensor) -> Tensor:
        if not value.requires_grad:  # f depends neither on x nor on a parameter
            return torch.zeros_like(x)
        return torch.autograd.grad(value, at, v, create_graph=graph, retain_graph=True, materialize_grads=True)[0]

    return value if graph else value.detach(), vjp


def _leads_elsewhere(value: Tensor, at: Tensor) -> bool:
    """Whether the graph of `value` has a leaf other than `at`: a parameter that requires its gradient."""
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
