"""Whole training steps against a second implementation, with all gradients written out."""

from __future__ import annotations

import copy

import pytest

from tests.by_hand import BY_HAND, made, noise


@pytest.mark.parametrize("name", BY_HAND)
def test_the_second_implementation_makes_the_same_step(name: str) -> None:
    x, y = noise(128)
    by_hand, config = BY_HAND[name]
    one = made(name, **config)
    two = copy.deepcopy(one)
    for _ in range(2):
        one.train_step(x, y, "all", 0.0)
        by_hand(two, x, y)
    other = dict(two.named_parameters())
    for path, p in one.named_parameters():
        change = (p - other[path]).detach().abs()
        moved = float(change.max())
        # Adam divides by the size of the gradient: where that is nearly zero, its sign is chance
        share = float((change > 2e-4).float().mean())
        assert moved < 5e-3 and share < 1e-3, f"{path} of {name}: {moved}, {share}"
