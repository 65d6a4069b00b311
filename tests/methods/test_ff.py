"""Forward-Forward: closed forms, finite differences and second implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from methods import Method, Task
from methods.blocks import rms_norm
from methods.goodness import goodness_gradient, peer_gradient, wrong_labels
from tests.methods.toy import batch, make


def overlay(method: Method, x: Tensor, label: Tensor) -> Tensor:
    """The network's input as the paper writes it: overwrite C pixels, then divide by the RMS."""
    pixels = (x * method.std + method.mean).flatten(1).clone()
    pixels[:, : label.shape[1]] = label
    return rms_norm(pixels)


def test_ff_shared_first_layer_is_the_overlay() -> None:
    """The product shared between labels must give what C separate passes give.

    An overlay after the normalisation would give another input, whose strength of the label
    depends on the image.
    """
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
    n, rng = 60_000, Generator().manual_seed(0)
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]).expand(n, 5)
    y = torch.full((n,), 2)
    drawn = wrong_labels(y, scores, "hard", rng)
    assert not bool((drawn == y).any())
    p = scores[0].softmax(0)
    p[2] = 0
    p /= p.sum()
    share = torch.bincount(drawn, minlength=5) / n
    assert torch.allclose(share, p, atol=0.01)
    extreme = torch.tensor([0.0, 0.0, 500.0, 0.0, 0.0]).expand(100, 5)  # all mass on the true one
    assert not bool((wrong_labels(y[:100], extreme, "hard", rng) == 2).any())
    uniform = torch.bincount(wrong_labels(y, scores, "uniform", rng), minlength=5) / n
    assert torch.allclose(uniform, torch.tensor([0.25, 0.25, 0.0, 0.25, 0.25]), atol=0.01)


@pytest.mark.parametrize("negatives", ["hard", "uniform"])
def test_ff_trains_on_wrong_labels_that_are_wrong(
    negatives: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step with permuted labels as negatives, 1/C of them true, is caught by what it feeds."""
    method = make("ff", negatives=negatives)
    x, y = batch(64)
    fed: list[Tensor] = []
    first = method._first

    def spy(image: tuple[Tensor, Tensor], label: Tensor) -> Tensor:
        fed.append(label)
        return first(image, label)

    monkeypatch.setattr(method, "_first", spy)
    method.train_step(x, y, "all", 0.0)
    neutral, labelled = fed
    assert torch.equal(neutral, torch.full((64, 5), 0.2))
    assert torch.equal(labelled[:64], F.one_hot(y, 5).float())  # positives
    assert bool((labelled[64:].sum(1) == 1).all())  # negatives: one label each
    assert not bool((labelled[64:].argmax(1) == y).any())


def loss_by_hand(h: Tensor, temperature: float) -> Tensor:
    """−log p(positive) − log(1 − p(negative)), p = σ((G − n) / T), mean over the pairs."""
    p = torch.sigmoid((h.square().flatten(1).sum(1) - h[0].numel()) / temperature)
    positive, negative = p.chunk(2)
    return -(torch.log(positive) + torch.log(1 - negative)).mean()


@pytest.mark.parametrize("shape", [(7,), (3, 2, 2)])
@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_ff_gradient_is_that_of_the_loss(shape: tuple[int, ...], temperature: float) -> None:
    """With respect to pre-activations, some of them negative, by autograd."""
    a = torch.randn(6, *shape, dtype=torch.float64, requires_grad=True)
    expected = loss_by_hand(torch.relu(a), temperature)
    loss, gradient = goodness_gradient(torch.relu(a.detach()), temperature)
    assert torch.allclose(loss, expected, rtol=1e-9)
    assert torch.allclose(gradient, torch.autograd.grad(expected, a)[0], rtol=1e-8)


@pytest.mark.parametrize("shape", [(7,), (3, 2, 2)])
@pytest.mark.parametrize("temperature", [1.0, 7.0])
def test_goodness_threshold_is_the_number_of_units(
    shape: tuple[int, ...], temperature: float
) -> None:
    """Activities of mean square 1 sit on the boundary; more is positive, less is negative."""
    h = rms_norm(torch.rand(5, *shape, dtype=torch.float64), eps=0.0)

    def loss(positive: float, negative: float) -> float:
        return float(goodness_gradient(torch.cat([positive * h, negative * h]), temperature)[0])

    assert loss(1.0, 1.0) == pytest.approx(2 * np.log(2))
    # a flipped sign of the goodness would turn both of these round
    assert loss(1.1, 0.9) < loss(1.0, 1.0) < loss(0.9, 1.1)


def test_ff_sum_and_mean_goodness_decide_alike() -> None:
    """Sum of squares against n and mean of squares against 1: one boundary, one prediction."""
    n = 7
    h = torch.rand(100, n, dtype=torch.float64) * 2
    means = h.square().mean(1)
    by_hand = (F.softplus(1 - means[:50]) + F.softplus(means[50:] - 1)).mean()
    assert float(goodness_gradient(h, n)[0]) == pytest.approx(float(by_hand), rel=1e-12)
    assert torch.equal(h.square().sum(1) > n, means > 1)
    by_sum, by_mean = make("ff"), make("ff", goodness="mean")
    x, y = batch(16)
    by_sum.train_step(x, y, "all", 0.0)
    by_mean.load_state_dict(by_sum.state_dict())
    for readout in by_sum.traits.readouts:
        assert torch.equal(by_sum.logits(x, readout), by_mean.logits(x, readout))


def test_ff_mean_goodness_is_the_sum_at_a_smaller_rate() -> None:
    """At the boundary the gradient of the mean is 1/n of the sum's: same direction."""
    n = 6
    h = rms_norm(torch.rand(8, n, dtype=torch.float64), eps=0.0)
    of_sum, of_mean = (goodness_gradient(h, temperature)[1] for temperature in (1.0, float(n)))
    assert torch.allclose(of_sum, n * of_mean)


@pytest.mark.parametrize("peer", [0.0, 0.03])
def test_ff_update_is_the_released_rule(peer: float) -> None:
    """All gradients of one step against the released rule, written out in numpy.

    Ascent direction on the pre-activation: (1 − p) h for positives, −p h for negatives, plus
    λ (mean_k m_k − m_j) for positives, whether the unit is active or not. Ours is the descent on a
    loss, which keeps the factor 2 of d(h²)/dh: −2 times that, averaged over the batch.
    """
    method = make("ff", peer=peer)
    b = 12
    x, y = batch(b)
    parameters = [
        (block.weights.weight.detach().numpy().copy(), block.weights.bias.detach().numpy().copy())
        for block in method.blocks
    ]
    rng = Generator()
    rng.set_state(method.rng.get_state())
    wrong = wrong_labels(y, torch.zeros(b, 5), "hard", rng)  # the readout starts at zero
    method.train_step(x, y, "all", 0.0)

    labels = F.one_hot(torch.cat([y, wrong]), 5).float()
    state = overlay(method, torch.cat([x, x]), labels).numpy()
    for (weight, bias), block in zip(parameters, method.blocks, strict=True):
        a = state @ weight.T + bias
        h = np.maximum(a, 0)
        p = 1 / (1 + np.exp(-((h**2).sum(1, keepdims=True) - h.shape[1])))
        ascent = np.concatenate([(1 - p[:b]) * h[:b], -p[b:] * h[b:]])
        m = 0.9 * 0.5 + 0.1 * h[:b].mean(0)
        ascent[:b] += peer * (m.mean() - m)
        expected_weight = -2 * ascent.T @ state / b
        expected_bias = -2 * ascent.sum(0) / b
        assert np.allclose(block.weights.weight.grad.numpy(), expected_weight, atol=2e-4)
        assert np.allclose(block.weights.bias.grad.numpy(), expected_bias, atol=2e-4)
        state = h / np.sqrt((h**2).mean(1, keepdims=True))


def test_peer_normalisation_is_per_unit_and_ungated() -> None:
    """An average over units would be n times weaker: off, in effect."""
    h = torch.relu(torch.randn(20, 4, generator=Generator().manual_seed(0)))
    running = torch.tensor([0.1, 0.2, 0.6, 0.3])
    m = 0.9 * running + 0.1 * h.mean(0)
    gradient = peer_gradient(running, h, 0.03)
    assert torch.allclose(running, m)
    assert torch.allclose(gradient, -2 * 0.03 * (m.mean() - m) / 20)


def test_ff_peer_normalisation_revives_dead_units() -> None:
    """Gated by the ReLU, it could never bring back a unit that is always off."""
    method = make("ff")
    with torch.no_grad():
        method.blocks[0].weights.bias[0] = -1e3  # off for every input
    x, y = batch(32)
    method.train_step(x, y, "all", 0.0)
    assert float(method.blocks[0].weights.bias.grad[0]) < 0  # descent raises the bias


def test_ff_says_how_much_of_the_image_the_label_hides() -> None:
    for classes, share in ((10, 10 / 3072), (100, 100 / 3072)):
        assert make("ff", Task("rgb", (3, 32, 32), classes)).overwritten == pytest.approx(share)
