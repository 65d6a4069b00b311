"""NoProp-DT: closed forms, finite differences and second implementations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from methods.noprop import noise_schedule, posterior
from tests.methods.toy import make


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_noprop_step_keeps_the_forward_process(steps: int) -> None:
    """If these fail, sampling drifts away from the distributions the blocks were trained on."""
    bars = noise_schedule(steps, 0.008, 0.999)
    assert bars[0] == 0 and all(a < b for a, b in itertools.pairwise(bars))
    for t in range(1, steps + 1):
        a, b, c = posterior(bars, t)
        assert a + b * math.sqrt(bars[t - 1]) == pytest.approx(math.sqrt(bars[t]), abs=1e-12)
        assert b**2 * (1 - bars[t - 1]) + c == pytest.approx(1 - bars[t], abs=1e-12)


def test_noprop_loss_weights_are_positive() -> None:
    """A schedule that runs backwards maximises the loss of nearly every block."""
    method = make("noprop")
    weights = [method.block_weight(t) for t in range(1, 11)]
    assert all(w > 0 for w in weights)
    # they telescope: the sum is (T/2) η SNR(T)
    assert sum(weights) == pytest.approx(0.5 * 10 * 0.1 * 0.999 / 0.001, rel=1e-9)


def test_noprop_perfect_estimates_lead_to_the_label() -> None:
    """With û = u_y at every step, z_T has mean sqrt(ᾱ_T) u_y and variance 1 − ᾱ_T."""
    bars = noise_schedule(10, 0.008, 0.999)
    rng = Generator().manual_seed(0)
    u = F.one_hot(torch.tensor(2), 5).double()
    z = torch.randn(40_000, 5, generator=rng, dtype=torch.float64)
    for t in range(1, 11):
        a, b, c = posterior(bars, t)
        z = a * u + b * z + math.sqrt(c) * torch.randn(z.shape, generator=rng, dtype=torch.float64)
    assert torch.allclose(z.mean(0), math.sqrt(bars[10]) * u, atol=1e-3)
    assert torch.allclose(z.var(0), torch.full((5,), 1 - bars[10], dtype=torch.float64), rtol=0.05)


def test_noprop_noised_labels_have_the_stated_moments() -> None:
    method = make("noprop")
    u = F.one_hot(torch.full((50_000,), 1), 5).float()
    for t in (0, 4, 10):
        z = method._noised(u, t)
        assert torch.allclose(z.mean(0), math.sqrt(method.bars[t]) * u[0], atol=0.02)
        assert torch.allclose(z.var(0), torch.full((5,), 1 - method.bars[t]), atol=0.02)


def test_noprop_encoders_start_apart() -> None:
    """Equal copies would be one block T times."""
    method = make("noprop")
    first = [next(block.encoder.parameters()) for block in method.denoisers]
    assert not any(torch.equal(first[0], other) for other in first[1:])
