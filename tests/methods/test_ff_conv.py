"""Convolutional Forward-Forward: its labels, and second implementations of its rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from methods import METHODS, Method, Task
from methods.blocks import rms_norm
from methods.ff_conv import plane_waves, shifted_pixels
from methods.goodness import wrong_labels
from suites.engine.architectures import ARCHITECTURES
from tests.methods.toy import TASK, batch, make

KINDS = ("fourier", "morphological", "planes")
RGB = Task("rgb", (3, 8, 8), 5, mean=(0.3, 0.4, 0.5), std=(0.4, 0.3, 0.2))


def conv(kind: str, task: Task = TASK, **settings: object) -> Method:
    settings = {**METHODS["ff-conv"].variants[kind], **settings}
    return make("ff-conv", task, "cnn-small", **settings)


def images(n: int, task: Task = TASK) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised images, their pixels in [0, 1], and labels."""
    rng = Generator().manual_seed(1)
    pixels = torch.rand(n, *task.shape, generator=rng)
    mean, std = torch.tensor(task.mean).view(-1, 1, 1), torch.tensor(task.std).view(-1, 1, 1)
    return (pixels - mean) / std, pixels, torch.randint(task.n_classes, (n,), generator=rng)


def labelled_by_hand(kind: str, pixels: Tensor, c: int, classes: int, kappa: float) -> Tensor:
    """x ⊕ c before normalisation, pixel by pixel in the notation of the docstring."""
    channels, height, width = pixels.shape
    if kind == "planes":
        return torch.cat([pixels, torch.eye(classes)[c][:, None, None].expand(-1, height, width)])
    offsets = [(0, 1), (1, 0), (1, -1), (1, 1), (0, 2)]  # the shortest first, no two opposite
    out = torch.empty_like(pixels)
    for i in range(height):
        for j in range(width):
            if kind == "fourier":
                dy, dx = offsets[c]
                angle = 2 * math.pi * (dy * (i + 0.5) / height + dx * (j + 0.5) / width)
                pattern = torch.full((channels,), (1 + math.cos(angle)) / 2)
            else:
                dy, dx = offsets[c // 2]
                ii, jj = min(max(i - dy, 0), height - 1), min(max(j - dx, 0), width - 1)
                pair = torch.stack([pixels[:, i, j], pixels[:, ii, jj]])
                pattern = pair.amax(0) if c % 2 == 0 else pair.amin(0)
            out[:, i, j] = (1 - kappa) * pixels[:, i, j] + kappa * pattern
    return out


@pytest.mark.parametrize("task", [TASK, RGB], ids=["grey", "rgb"])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_mixed_in_ahead_of_the_normalisation(kind: str, task: Task) -> None:
    """An overlay after the normalisation would not have RMS 1, nor these values."""
    method = conv(kind, task)
    x, pixels, _ = images(5, task)
    y = torch.arange(5)
    found = method._labelled(method._pixels(x), y)
    assert torch.allclose(found.square().mean((1, 2, 3)), torch.ones(5), atol=1e-5)
    for i in range(5):
        by_hand = labelled_by_hand(kind, pixels[i], i, 5, method.config.kappa)
        assert torch.allclose(found[i], rms_norm(by_hand[None])[0], atol=1e-5)


@pytest.mark.parametrize(("classes", "side"), [(10, 8), (26, 28), (100, 28), (100, 32)])
def test_waves_cover_the_image_and_differ(classes: int, side: int) -> None:
    waves = plane_waves(classes, side, side)
    assert waves.shape == (classes, 1, side, side)
    assert float(waves.min()) >= 0 and float(waves.max()) <= 1
    flat = waves.flatten(1)
    assert torch.allclose(flat.mean(1), torch.full((classes,), 0.5), atol=1e-4)
    # different waves of whole periods are orthogonal, so none can be mistaken for another
    gram = (flat - 0.5) @ (flat - 0.5).T / side**2
    assert torch.allclose(gram, torch.eye(classes) / 8, atol=1e-4)
    for part in waves.unfold(2, side // 2, side // 2).unfold(3, side // 2, side // 2).unbind(2):
        assert bool((part.flatten(2).std(2) > 0.1).all())  # every quarter shows the wave


def test_waves_of_a_class_too_many_come_a_quarter_period_later() -> None:
    n = 24  # wave vectors on 8x8
    waves = plane_waves(2 * n, 8, 8).flatten(1) - 0.5
    assert torch.allclose(waves @ waves.T / 64, torch.eye(2 * n) / 8, atol=1e-5)


def test_morphological_labels_differ() -> None:
    for classes, side in ((10, 8), (100, 32)):
        sources = shifted_pixels(classes, side, side)
        assert int(sources.min()) >= 0 and int(sources.max()) < side**2
        labels = {(tuple(row.tolist()), c % 2) for c, row in enumerate(sources)}
        assert len(labels) == classes


@pytest.mark.parametrize("kind", KINDS)
def test_the_label_reaches_every_position(kind: str) -> None:
    """Where a feature map is the same under two labels, no loss can act on the label there."""
    method = conv(kind)
    x, _, _ = images(16)
    pixels = method._pixels(x)
    first = method.blocks[0]
    for c in range(1, 5):
        one, two = (method._labelled(pixels, torch.full((16,), k)) for k in (0, c))
        with torch.no_grad():
            moved = (first.weights(one) - first.weights(two)).abs().amax((0, 1))
        assert moved.shape == (8, 8)
        assert bool((moved > 1e-3).all())


@pytest.mark.parametrize("kind", KINDS)
def test_neutral_input_prefers_no_class(kind: str) -> None:
    method = conv(kind)
    x, pixels, _ = images(4)
    neutral = method._unlabelled(method._pixels(x))
    if kind == "morphological":
        expected = pixels
    else:
        expected = torch.stack(
            [
                torch.stack([labelled_by_hand(kind, p, c, 5, method.config.kappa) for p in pixels])
                for c in range(5)
            ]
        ).mean(0)
    assert torch.allclose(neutral, rms_norm(expected), atol=1e-5)


@pytest.mark.parametrize("readout", ["goodness", "goodness_all"])
@pytest.mark.parametrize("kind", KINDS)
def test_batched_prediction_is_the_loop_over_classes(
    kind: str, readout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.ff_conv.images_at_once", lambda *_: 2)  # several chunks
    method = conv(kind)
    x, pixels, _ = images(9)
    columns = []
    for c in range(5):
        h = torch.stack([labelled_by_hand(kind, p, c, 5, method.config.kappa) for p in pixels])
        total = torch.zeros(9)
        for l, block in enumerate(method.blocks):
            h = h / h.square().mean(tuple(range(1, h.dim())), keepdim=True).sqrt()
            if block.pool > 1:
                h = F.max_pool2d(h, 2)
            if block.kind == "conv":
                h = F.conv2d(h, block.weights.weight, block.weights.bias, padding=1)
                positions = h.shape[2] * h.shape[3]
            else:
                h, positions = F.linear(h.flatten(1), *block.weights.parameters()), 1
            h = torch.relu(h)
            if readout == "goodness_all" or l > 0:
                total += h.square().flatten(1).sum(1) / positions
        columns.append(total)
    with torch.no_grad():
        assert torch.allclose(method.logits(x, readout), torch.stack(columns, 1), rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_update_is_the_released_rule_summed_over_positions(kind: str) -> None:
    """As for ff, with p = σ((G − n) / T), T positions, and peer normalisation by channel."""
    method = conv(kind)
    b, peer = 6, method.config.peer
    x, _, y = images(b)
    before = [[p.detach().clone() for p in block.weights.parameters()] for block in method.blocks]
    rng = Generator()
    rng.set_state(method.rng.get_state())
    wrong = wrong_labels(y, torch.zeros(b, 5), "hard", rng)  # the readout starts at zero
    pixels = method._pixels(x)
    state = torch.cat([method._labelled(pixels, y), method._labelled(pixels, wrong)])
    method.train_step(x, y, "all", 0.0)

    for (weight, bias), block in zip(before, method.blocks, strict=True):
        entry = F.max_pool2d(state, 2) if block.pool > 1 else state
        if block.kind == "conv":  # a convolution as a matrix product over patches
            patches = F.unfold(entry, 3, padding=1).numpy()  # (2B, fan_in, positions)
        else:
            patches = entry.flatten(1)[:, :, None].numpy()
        kernel = weight.flatten(1).numpy()
        h = np.maximum(np.einsum("oi,bip->bop", kernel, patches) + bias.numpy()[None, :, None], 0)
        positions, n = h.shape[2], h[0].size
        p = 1 / (1 + np.exp(-((h**2).sum((1, 2), keepdims=True) - n) / positions))
        ascent = np.concatenate([(1 - p[:b]) * h[:b], -p[b:] * h[b:]])
        m = 0.9 * 0.5 + 0.1 * h[:b].mean((0, 2))
        ascent[:b] += peer * (m.mean() - m)[None, :, None]
        expected = -2 * np.einsum("bop,bip->oi", ascent, patches) / b / positions
        found = block.weights.weight.grad.flatten(1).numpy()
        assert np.allclose(found, expected, atol=1e-3 * np.abs(expected).max())
        expected_bias = -2 * ascent.sum((0, 2)) / b / positions
        assert np.allclose(block.weights.bias.grad.numpy(), expected_bias, atol=1e-3)
        out = torch.from_numpy(h).view(2 * b, -1, *(entry.shape[2:] if positions > 1 else ()))
        state = rms_norm(out)


@pytest.mark.parametrize("negatives", ["hard", "uniform"])
def test_negatives_carry_wrong_labels(negatives: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permuted labels would be true for one negative in C."""
    method = conv("fourier", negatives=negatives)
    x, _, y = images(64)
    used: list[Tensor] = []
    labelled = method._labelled

    def spy(pixels: Tensor, labels: Tensor) -> Tensor:
        used.append(labels)
        return labelled(pixels, labels)

    monkeypatch.setattr(method, "_labelled", spy)
    method.train_step(x, y, "all", 0.0)
    positive, negative = used
    assert torch.equal(positive, y)
    assert not bool((negative == y).any())


def test_training_raises_goodness_under_the_true_label() -> None:
    """A flipped sign of the goodness would lower it."""
    method = conv("planes")
    x, y = batch(32)
    for i in range(60):
        method.train_step(x, y, "all", i / 60)
    with torch.no_grad():
        scores = method.logits(x)
    true = scores.gather(1, y[:, None])
    others = (scores.sum(1, keepdim=True) - true) / 4
    assert float((true - others).mean()) > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["alexnet", "layercnn-8x128"])
def test_first_convolutions_of_other_shapes(kind: str, architecture: str) -> None:
    """11x11 with stride 4; behind a space-to-depth."""
    task = Task("photos", (3, 64, 64), 5, mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))
    settings = METHODS["ff-conv"].variants[kind]
    method = make("ff-conv", task, architecture, **settings)
    plain = make("ff-conv", task, architecture, label="fourier").blocks[0].weights
    first = method.blocks[0].weights
    assert (first.kernel_size, first.stride, first.padding) == (
        plain.kernel_size, plain.stride, plain.padding,
    )  # fmt: skip
    more = 5 * method.blocks[0].pool ** 2 if kind == "planes" else 0
    assert first.in_channels == plain.in_channels + more
    x, y = batch(4, task)
    assert torch.isfinite(method.train_step(x, y, "all", 0.0)["loss"])
    assert method.logits(x).shape == (4, 5)


def test_refusals() -> None:
    cls = METHODS["ff-conv"]

    def reason(architecture: str, kind: str = "fourier", classes: int = 10, side: int = 8) -> str:
        task = Task("t", (1, side, side), classes)
        config = cls.Config(label=kind)
        with torch.device("meta"):
            blocks = ARCHITECTURES[architecture].blocks(task, cls.style(config), 1 / 8)
        return cls.refuse(blocks, task, config) or ""

    assert "residual" in reason("resnet18")
    assert "fully connected" in reason("mlp-2x500")
    for kind in KINDS:
        assert not reason("cnn-small", kind)
        assert not reason("cnn-small", kind, classes=100, side=28)
    assert "48 morphological labels" in reason("cnn-small", "morphological", classes=49)
    assert "96 fourier labels" in reason("cnn-small", "fourier", classes=97)
