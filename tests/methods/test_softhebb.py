"""SoftHebb: the update as a plain loop, its fixed point, and who learns when."""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from methods.softhebb import Triangle, competition, hebbian_change, standardised
from suites.auditing.subject import step
from tests.methods.toy import batch, make


def looped(w: np.ndarray, patches: np.ndarray, tau: float, anti: bool) -> np.ndarray:
    """Σ y_k (x − u_k W_k), one input vector after another.

    Args:
        w: (K, D). patches: (N, D).
    """
    change = np.zeros_like(w)
    for x in patches:
        u = w @ x
        y = np.exp(tau * (u - u.max()))
        y /= y.sum()
        if anti:
            sign = -np.ones(len(y))
            sign[np.argmax(u)] = 1
            y *= sign
        for k in range(len(w)):
            change[k] += y[k] * (x - u[k] * w[k])
    return change


@pytest.mark.parametrize("anti", [True, False])
def test_dense_change_is_the_loop(anti: bool) -> None:
    layer = nn.Linear(7, 4, bias=False).double()
    x = torch.randn(9, 7, dtype=torch.float64)
    with torch.no_grad():
        u = layer(x)
        change = hebbian_change(layer, x, u, competition(u, 1.3, anti))
    assert np.allclose(change, looped(layer.weight.detach().numpy(), x.numpy(), 1.3, anti))


@pytest.mark.parametrize("anti", [True, False])
def test_conv_change_is_the_loop_over_positions(anti: bool) -> None:
    layer = nn.Conv2d(3, 4, kernel_size=3, padding=1, bias=False).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        u = layer(x)
        change = hebbian_change(layer, x, u, competition(u, 0.7, anti))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = [
        padded[b, :, i : i + 3, j : j + 3].ravel()
        for b in range(2)
        for i in range(5)
        for j in range(6)
    ]
    expected = looped(layer.weight.detach().numpy().reshape(4, -1), np.stack(patches), 0.7, anti)
    assert np.allclose(change.flatten(1), expected)


def test_norms_come_to_rest_at_one() -> None:
    """For plain soft winner-take-all: |W_k|² = E[y u] / E[y u] wherever the change vanishes."""
    layer = nn.Linear(6, 3, bias=False)
    x = torch.randn(200, 6, generator=Generator().manual_seed(0))
    with torch.no_grad():
        layer.weight.mul_(3.0)
        assert float((layer.weight.norm(dim=1) - 1).abs().max()) > 0.2
        for _ in range(4000):
            u = layer(x)
            change = hebbian_change(layer, x, u, competition(u, 2.0, anti_hebbian=False))
            layer.weight += 0.1 * change / len(x)
    assert float(change.abs().max()) / len(x) < 1e-4
    assert torch.allclose(layer.weight.norm(dim=1), torch.ones(3), atol=1e-3)


@pytest.mark.parametrize("losers", ["anti-hebbian", "hebbian"])
def test_one_step_by_hand(losers: Literal["anti-hebbian", "hebbian"]) -> None:
    """Standardised input, change scaled to at most 1, rate by each weight vector's norm."""
    method = make("softhebb", losers=losers, radius=1.5).train()
    x, y = batch(20)
    w = method.blocks[0].weights.weight.detach().double().numpy().copy()
    step(method, x, y, "block 0", 0.0)
    z = x.flatten(1).double().numpy()
    z = (z - z.mean()) / np.sqrt(z.var() + 1e-5)  # one channel
    change = looped(w, z, method.config.inverse_temperature, losers == "anti-hebbian")
    rate = method.config.rate * np.sqrt(np.abs(np.linalg.norm(w, axis=1) - 1))
    expected = w + rate[:, None] * change / np.abs(change).max()
    assert np.allclose(method.blocks[0].weights.weight, expected, atol=1e-4)


def test_norms_approach_one_in_training() -> None:
    method = make("softhebb", architecture="cnn-small", losers="hebbian").train()
    x, y = batch(32)
    losses = [float(step(method, x, y, "block 0", 0.0)["loss"]) for _ in range(400)]
    assert losses[0] > 15 and losses[-1] < 0.5


def test_only_the_block_whose_turn_it_is_moves() -> None:
    """Statistics of its input among it; nothing of the others, nothing of the readout."""
    method = make("softhebb", architecture="cnn-small").train()
    x, y = batch(16)
    names = [name for name, _ in method.phases(40)]
    assert names == ["block 0", "block 1", "block 2", "block 3", "readout"]
    for phase in names:
        before = copy.deepcopy(dict(method.state_dict()))
        step(method, x, y, phase, 0.5)
        moved = {
            name.split(".")[1] if "." in name and not name.startswith("output") else "output"
            for name, value in method.state_dict().items()
            if isinstance(value, Tensor) and not torch.equal(value, before[name])
        }
        assert moved == {"output" if phase == "readout" else phase.split()[1]}


@pytest.mark.parametrize("steps", [1, 3, 5, 12, 1000])
def test_every_block_gets_a_turn(steps: int) -> None:
    phases = make("softhebb", architecture="cnn-small").phases(steps)
    assert sum(n for _, n in phases) == steps
    assert steps < 5 or all(n > 0 for _, n in phases)


def test_no_label_reaches_a_block() -> None:
    one, two = make("softhebb").train(), make("softhebb").train()
    x, y = batch()
    step(one, x, y, "block 0", 0.0)
    step(two, x, (y + 1) % 5, "block 0", 0.0)
    assert torch.equal(one.blocks[0].weights.weight, two.blocks[0].weights.weight)


def test_triangle() -> None:
    u = torch.tensor([[1.0, 2.0, 6.0]])
    assert torch.allclose(Triangle(2.0)(u), torch.tensor([[0.0, 0.0, 9.0]]))


@pytest.mark.parametrize("shape", [(16, 5), (16, 5, 3, 4)])
def test_statistics_are_those_of_batch_norm_with_a_plain_average(shape: tuple[int, ...]) -> None:
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    ours, theirs = (kind(5, affine=False, momentum=None) for _ in range(2))
    rng = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = 3 * torch.randn(shape, generator=rng) + 1
        torch.testing.assert_close(standardised(x, ours), theirs.train()(x))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
