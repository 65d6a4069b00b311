"""Forward-Forward: closed forms, finite differences and second implementations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods import Method
from methods.blocks import rms_norm
from methods.ff import goodness_loss
from tests.methods.toy import batch, make


def overlay(method: Method, x: Tensor, label: Tensor) -> Tensor:
    """The network's input as the paper writes it: overwrite C pixels, then divide by the RMS."""
    pixels = (x * method.std + method.mean).flatten(1).clone()
    pixels[:, : label.shape[1]] = label
    return rms_norm(pixels)


def test_ff_shared_first_layer_is_the_overlay() -> None:
    """The product shared between labels must give what C separate passes give."""
    method = make("ff")
    x, y = batch()
    for label in (F.one_hot(y, 5).float(), torch.full((len(y), 5), 0.2)):
        direct = method.blocks[0].weights(overlay(method, x, label))
        assert torch.allclose(method._first(method._image_part(x), label), direct, atol=1e-5)


@pytest.mark.parametrize("readout", ["goodness", "goodness_all"])
def test_ff_batched_prediction_is_the_loop_over_classes(readout: str) -> None:
    method = make("ff")
    x, _ = batch(9)
    columns = []
    for c in range(5):
        h = overlay(method, x, F.one_hot(torch.full((9,), c), 5).float())
        total = torch.zeros(9)
        for l, block in enumerate(method.blocks):
            a = torch.relu(h @ block.weights.weight.T + block.weights.bias)
            if readout == "goodness_all" or l > 0:
                total += (a**2).sum(1)
            h = a / (1e-8 + (a**2).mean(1, keepdim=True).sqrt())
        columns.append(total)
    with torch.no_grad():
        assert torch.allclose(method.logits(x, readout), torch.stack(columns, 1), rtol=1e-4)


def test_ff_wrong_labels_are_wrong_and_follow_the_readout() -> None:
    """Negatives that are right one time in C teach the opposite of the objective."""
    method = make("ff")
    n = 60_000
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]).expand(n, 5)
    y = torch.full((n,), 2)
    drawn = method._wrong_labels(y, scores)
    assert not bool((drawn == y).any())
    p = scores[0].softmax(0)
    p[2] = 0
    p /= p.sum()
    share = torch.bincount(drawn, minlength=5) / n
    assert torch.allclose(share, p, atol=0.01)
    extreme = torch.tensor([0.0, 0.0, 500.0, 0.0, 0.0]).expand(100, 5)  # all mass on the true one
    assert not bool((method._wrong_labels(y[:100], extreme) == 2).any())


def test_ff_goodness_loss_by_finite_differences() -> None:
    """The gradient of −log p(positive) − log(1 − p(negative)), p = σ(G − θ)."""
    h = torch.rand(2, 3, 4, dtype=torch.float64) * 1.5
    variable = h.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: goodness_loss(v[0], v[1]), (variable,))
    g = h.square().sum(2)
    p = torch.sigmoid(g - 4)
    expected = -(torch.log(p[0]) + torch.log(1 - p[1])).mean()
    assert float(goodness_loss(h[0], h[1])) == pytest.approx(float(expected), rel=1e-9)


def test_ff_sum_and_mean_goodness_decide_alike() -> None:
    """Sum of squares against the width = mean of squares against 1."""
    h = torch.rand(50, 7) * 2
    assert torch.equal(h.square().sum(1) > 7, h.square().mean(1) > 1)


def test_ff_peer_normalisation_revives_dead_units() -> None:
    """Gated by the ReLU, it could never bring back a unit that is always off."""
    method = make("ff")
    with torch.no_grad():
        method.blocks[0].weights.bias[0] = -1e3  # off for every input
    x, y = batch(32)
    method.train_step(x, y, "all", 0.0)
    assert float(method.blocks[0].weights.bias.grad[0]) < 0  # descent raises the bias
