"""Local error signals: closed forms, finite differences and second implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from methods.greedy import Greedy, similarity
from tests.methods.toy import batch, make


def test_similarity_is_the_correlation_matrix() -> None:
    z = torch.randn(9, 20)
    assert np.allclose(similarity(z).numpy(), np.corrcoef(z.numpy()), atol=1e-5)


def test_similarity_of_labels() -> None:
    """1 for equal classes, −1/(C−1) for different ones."""
    y = torch.tensor([0, 1, 0, 4])
    s = similarity(F.one_hot(y, 5).float())
    expected = torch.where(y[:, None] == y[None], 1.0, -1 / 4)
    assert torch.allclose(s, expected, atol=1e-5)


def test_similarity_of_maps_uses_the_spread_over_space() -> None:
    """Mean-pooled maps would be another target."""
    maps = torch.randn(5, 6, 4, 4)
    spread = maps.flatten(2).std(dim=2)
    assert np.allclose(similarity(maps).numpy(), np.corrcoef(spread.numpy()), atol=1e-5)
    shifted = maps + torch.randn(5, 6, 1, 1)  # a constant per map does not change its spread
    assert torch.allclose(similarity(shifted), similarity(maps), atol=1e-4)


def test_greedy_local_loss_does_not_see_dropout() -> None:
    """Dropout before the local loss changes the results of `predsim`."""
    x, y = batch(16)
    losses = []
    for p in (0.0, 0.9):
        method = make("greedy", loss="pred", dropout=p)
        with torch.no_grad():
            for l in range(2):
                method.aux[f"decoder_{l}"].linear.weight.normal_(
                    generator=Generator().manual_seed(3)
                )
        method.train_step(x, y, "all", 0.0)
        losses.append(method.blocks[0].weights.weight.grad.clone())
    assert torch.equal(losses[0], losses[1])  # block 0 has no noise in its input or loss


def numpy_correlations(z: np.ndarray) -> np.ndarray:
    """Entry by entry, from the definition."""
    if z.ndim == 4:
        z = np.array([[np.std(channel, ddof=1) for channel in sample] for sample in z])
    s = np.zeros((len(z), len(z)))
    for i, a in enumerate(z):
        for j, b in enumerate(z):
            a0, b0 = a - a.mean(), b - b.mean()
            s[i, j] = (a0 * b0).sum() / np.sqrt((a0**2).sum() * (b0**2).sum())
    return s


def similarity_problem(architecture: str) -> tuple[Greedy, torch.Tensor, torch.Tensor]:
    """A method with the loss `sim` in float64, activities of its block 0, and labels."""
    method = make("greedy", architecture=architecture, loss="sim").double()
    assert isinstance(method, Greedy)
    shape = method.blocks[0].out_shape
    rng = Generator().manual_seed(2)
    h = torch.randn(7, *shape, generator=rng, dtype=torch.float64)
    return method, h, torch.randint(5, (7,), generator=rng)


def similarity_loss(method: Greedy, h: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    target = similarity(F.one_hot(y, 5).to(h.dtype))
    return method._local_loss(h, y, target, 0)


@pytest.mark.parametrize("architecture", ["mlp-2x500", "cnn-small"])
def test_similarity_loss_against_numpy(architecture: str) -> None:
    method, h, y = similarity_problem(architecture)
    mapped = method.aux["similarity_0"](h).detach().numpy()
    targets = np.where(y.numpy()[:, None] == y.numpy()[None], 1.0, -1 / 4)
    expected = np.mean((numpy_correlations(mapped) - targets) ** 2)  # the diagonal counts
    assert similarity_loss(method, h, y).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("architecture", ["mlp-2x500", "cnn-small"])
def test_similarity_gradient_against_finite_differences(architecture: str) -> None:
    """With respect to activities and to the map, in random directions."""
    method, h, y = similarity_problem(architecture)
    weight = method.aux["similarity_0"].weight
    h.requires_grad_()
    similarity_loss(method, h, y).backward()
    for value in (h, weight):
        for seed in range(3):
            rng = Generator().manual_seed(seed)
            direction = torch.randn(value.shape, generator=rng, dtype=value.dtype)
            eps, ends = 1e-5, []
            for sign in (1, -1):
                with torch.no_grad():
                    value.add_(sign * eps * direction)
                    ends.append(float(similarity_loss(method, h, y)))
                    value.sub_(sign * eps * direction)
            slope = (ends[0] - ends[1]) / (2 * eps)
            found = float((value.grad * direction).sum())
            assert found == pytest.approx(slope, rel=1e-5, abs=1e-9)
