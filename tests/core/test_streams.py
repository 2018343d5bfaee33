"""Random streams are functions of (seed, scope, name, step), and of nothing else."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from driftspec.streams import Streams


def test_a_stream_is_the_same_in_every_version_of_the_program() -> None:
    assert Streams(0).number("init") == 5960766871280616928
    assert Streams(3).under("train").at(7).number("probes") == 3969344288611299033


def test_a_stream_asked_for_twice_starts_twice() -> None:
    streams = Streams(5).under("a")
    first, second = (torch.randn(3, generator=streams.generator("b")) for _ in range(2))
    assert torch.equal(first, second)


def test_no_stream_touches_the_global_generator() -> None:
    before = torch.random.get_rng_state()
    torch.randn(3, generator=Streams(5).generator("b"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_seed_scope_name_and_step_each_make_another_stream() -> None:
    numbers = [
        Streams(seed).under(outer).at(step).under(inner).at(block).number(name)
        for seed, outer, step, inner, block, name in itertools.product(
            range(3), ("a", "b"), range(3), ("a", "b"), range(3), ("x", "y")
        )
    ]
    assert len(set(numbers)) == len(numbers)
    assert all(0 <= number < 2**63 for number in numbers)


def test_a_part_of_a_step_keeps_the_step() -> None:
    streams = Streams(0).under("train")
    assert streams.at(1).under("part").number("x") != streams.at(2).under("part").number("x")


@pytest.mark.parametrize("move", ["step", "name", "seed"])
def test_neighbouring_streams_are_independent(move: str) -> None:
    """Mean, variance and correlation of the first normal of 4,000 neighbours."""
    n = 4000
    neighbours = {
        "step": lambda i: Streams(0).at(i).generator("x"),
        "name": lambda i: Streams(0).generator(f"x{i}"),
        "seed": lambda i: Streams(i).generator("x"),
    }[move]
    x = torch.stack([torch.randn((), generator=neighbours(i), dtype=torch.float64) for i in range(n)])
    assert abs(x.mean() * math.sqrt(n)) < 4
    assert abs((x.square().mean() - 1) * math.sqrt(n / 2)) < 4
    assert abs((x[1:] * x[:-1]).mean() * math.sqrt(n - 1)) < 4
