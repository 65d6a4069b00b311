"""Local error signals: closed forms, finite differences and second implementations."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator

from methods.greedy import similarity
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
