"""Whole training steps against a second implementation."""

from __future__ import annotations

import copy

import pytest

from tests.by_hand import STEPS, Step, made, noise


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_the_second_implementation_makes_the_same_step(step: Step) -> None:
    x, y = noise(128)
    one = made(step.method, architecture=step.architecture, **step.config)
    two = copy.deepcopy(one)
    for _ in range(2):
        one.train_step(x, y, step.phase, 0.0)
        step.by_hand(two, x, y)
    other = dict(two.named_parameters())
    for path, p in one.named_parameters():
        change = (p - other[path]).detach().abs()
        moved = float(change.max())
        # Adam divides by the size of the gradient: where that is nearly zero, its sign is chance
        share = float((change > 2e-4).float().mean())
        assert moved < 5e-3 and share < 1e-3, f"{path} of {step}: {moved}, {share}"
