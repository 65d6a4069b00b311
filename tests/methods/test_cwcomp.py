"""CwComp: second implementations of the groups and of the loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from methods import METHODS, Task
from methods.cwcomp import group_means
from suites.engine.architectures import ARCHITECTURES
from tests.methods.toy import batch, make


@pytest.mark.parametrize(("channels", "classes"), [(20, 5), (32, 10), (7, 5), (5, 5), (1000, 10)])
def test_groups_cover_all_channels_and_differ_by_one_at_most(channels: int, classes: int) -> None:
    members = group_means(channels, classes) > 0
    sizes = members.sum(0)
    assert bool((members.sum(1) == 1).all())  # each channel in one group
    assert int(sizes.min()) >= 1 and int(sizes.max() - sizes.min()) <= 1
    assert bool((members.int().argmax(1).diff() >= 0).all())  # neighbours together


@pytest.mark.parametrize("architecture", ["mlp-2x500", "cnn-small"])
def test_cwcomp_loss_is_cross_entropy_over_mean_squares(architecture: str) -> None:
    method = make("cwcomp", architecture=architecture)
    x, y = batch(12)
    losses, h = [], x
    with torch.no_grad():
        for block in method.blocks:
            h = block(h)
            squares = h.numpy().astype(np.float64) ** 2
            groups = np.arange(squares.shape[1]) * 5 // squares.shape[1]
            g = np.stack([squares[:, groups == c].reshape(12, -1).mean(1) for c in range(5)], 1)
            log_sum = np.log(np.exp(g).sum(1))
            losses.append((log_sum - g[np.arange(12), y.numpy()]).mean())
    fresh = make("cwcomp", architecture=architecture)  # the pass above moved batch-norm averages
    found = fresh.train_step(x, y, "all", 0.0)["loss"]
    assert float(found) == pytest.approx(float(np.mean(losses)), rel=1e-5)


def test_cwcomp_raises_the_true_group() -> None:
    """A flipped sign of the goodness would lower it and still send the loss somewhere."""
    method = make("cwcomp", lr=1e-3)
    x, y = batch(12)
    before = method.logits(x).softmax(1).gather(1, y[:, None]).mean()
    for _ in range(5):
        method.train_step(x, y, "all", 0.0)
    assert method.logits(x).softmax(1).gather(1, y[:, None]).mean() > before


def test_cwcomp_gradients_stay_in_their_block() -> None:
    """The gradient of each block is that of its own loss alone."""
    method = make("cwcomp")
    x, y = batch(12)
    method.train_step(x, y, "all", 0.0)
    twin = make("cwcomp")
    h = x
    for l, (block, trained) in enumerate(zip(twin.blocks, method.blocks, strict=True)):
        out = block(h.detach())
        nn.functional.cross_entropy(twin._scores(out, l), y).backward()
        assert torch.allclose(block.weights.weight.grad, trained.weights.weight.grad, atol=1e-7)
        h = out


def test_cwcomp_sum_adds_the_goodness_of_all_blocks() -> None:
    method = make("cwcomp", architecture="cnn-small").eval()
    x, _ = batch(4)
    with torch.no_grad():
        h, total = x, torch.zeros(4, 5)
        for l, block in enumerate(method.blocks):
            h = block(h)
            total += method._scores(h, l)
        assert torch.allclose(method.logits(x, "sum"), total)
        last = method._scores(h, len(method.blocks) - 1)
        assert torch.allclose(method.logits(x, "last"), last)


def test_cwcomp_refuses_fewer_channels_than_classes() -> None:
    cls = METHODS["cwcomp"]
    for classes, possible in ((10, True), (32, True), (33, False), (100, False)):
        task = Task("wide", (1, 8, 8), classes)
        reason = cls.refuse(ARCHITECTURES["cnn-small"].blocks(task), task, cls.Config())
        assert (reason is None) == possible
