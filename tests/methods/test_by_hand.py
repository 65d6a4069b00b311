"""Whole training steps against a second implementation."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from suites.auditing.sharing import double_precision
from tests.by_hand import STEPS, Step, made, noise


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    with double_precision():
        yield


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_the_second_implementation_makes_the_same_step(step: Step) -> None:
    images, y = noise(32)
    one = made(step.method, architecture=step.architecture, **step.config)
    with torch.no_grad():
        x = one.frozen(images.double(), step.phase)
    two = copy.deepcopy(one)
    before = [t.detach().clone() for t in tensors(one).values()]
    for _ in range(2):
        one.train_step(x, y, step.phase, 0.0)
        step.by_hand(two, x, y)
        for (path, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), f"gradient of {path} of {step}"
            if p.grad is not None and q.grad is not None:  # Adam would hide a factor on it
                same(p.grad, q.grad, f"gradient of {path} of {step}")
    after, other = tensors(one), tensors(two)
    for path, t in after.items():
        same(t, other[path], f"{path} of {step}")
    assert any(not torch.equal(a, b) for a, b in zip(before, after.values(), strict=True))
    assert torch.equal(one.rng.get_state(), two.rng.get_state())


def tensors(method: torch.nn.Module) -> dict[str, Tensor]:
    return {**dict(method.named_parameters()), **dict(method.named_buffers())}


def same(a: Tensor, b: Tensor, what: str) -> None:
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-8, msg=lambda m: f"{what}: {m}")
