"""PEPITA: one update by hand, and what it may depend on."""

from __future__ import annotations

import numpy as np
import torch

from methods.base import trainable
from tests.methods.toy import batch, make


def softmax(scores: np.ndarray) -> np.ndarray:
    p = np.exp(scores - scores.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def test_update_by_hand() -> None:
    """Two passes in NumPy; the first step of SGD with momentum is plain gradient descent."""
    method = make("pepita", dropout=0.0)
    x, y = batch()
    before = [p.detach().double().numpy().copy() for p in trainable(method)]
    f = method.aux["projection"].weight.detach().double().numpy()
    method.train_step(x, y, "all", 0.0)

    def run(x: np.ndarray) -> list[np.ndarray]:
        h1 = np.maximum(x @ before[0].T, 0)
        h2 = np.maximum(h1 @ before[1].T, 0)
        return [x, h1, h2, softmax(h2 @ before[2].T)]

    hot = np.eye(5)[y.numpy()]
    plain = run(x.flatten(1).double().numpy())
    second = run(plain[0] + (plain[3] - hot) @ f.T)
    changes = [plain[1] - second[1], plain[2] - second[2], second[3] - hot]
    for l, (old, new) in enumerate(zip(before, trainable(method), strict=True)):
        step = sum(np.outer(c, h) for c, h in zip(changes[l], second[l], strict=True)) / len(y)
        moved = (new.detach().double().numpy() - old) / -method.config.lr
        assert np.abs(step).max() > 1e-4
        assert np.allclose(moved, step, atol=2e-4 * np.abs(step).max() + 1e-5)


def test_no_error_moves_no_hidden_weight() -> None:
    """Without the projection of the error, the two passes are one."""
    method = make("pepita", feedback_scale=0.0)
    x, y = batch()
    before = [p.detach().clone() for p in trainable(method)]
    method.train_step(x, y, "all", 0.0)
    moved = [not torch.equal(a, b) for a, b in zip(before, trainable(method), strict=True)]
    assert moved == [False, False, True]


def test_both_passes_share_the_dropout_mask() -> None:
    """Without an error signal, other masks would show up as a difference of activities."""
    method = make("pepita", feedback_scale=0.0, dropout=0.5)
    x, y = batch()
    method.train_step(x, y, "all", 0.0)
    for block in method.blocks:
        assert torch.equal(block.weights.weight.grad, torch.zeros_like(block.weights.weight))


def test_momentum_and_milestones() -> None:
    method = make("pepita")
    x, y = batch()
    method.train_step(x, y, "all", 0.0)
    assert method.optimizer.param_groups[0]["momentum"] == 0.9
    for progress, lr in ((0.59, 0.01), (0.6, 0.001), (0.95, 0.0001)):
        method.train_step(x, y, "all", progress)
        assert np.isclose(method.optimizer.param_groups[0]["lr"], lr)
