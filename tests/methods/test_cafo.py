"""CaFo: frozen blocks, one convex problem a predictor, probabilities that add up."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from methods.base import Method
from suites.auditing.subject import step
from tests.methods.toy import TASK, batch, make


def started(architecture: str = "cnn-small", **settings: object) -> tuple[Method, Tensor, Tensor]:
    x, y = batch(60)
    method = make("cafo", architecture=architecture, **settings).train()
    method.start(x, y)
    return method, x, y


@pytest.mark.parametrize("architecture", ["mlp-2x500", "cnn-small", "resnet18"])
def test_blocks_never_move(architecture: str) -> None:
    """Bit for bit, statistics of batch normalisation among them."""
    method, x, y = started(architecture)
    before = copy.deepcopy(method.blocks.state_dict())
    for i in range(3):
        step(method, x, y, "all", i / 3)
        method.eval()
        method.logits(x)
        method.train()
    after = method.blocks.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradient_by_hand() -> None:
    method, x, y = started("mlp-2x500")
    seen = method.frozen(x, "all").numpy()
    assert seen.shape == (60, 62 + 62)  # both blocks side by side
    states = [copy.deepcopy(p.linear.state_dict()) for p in method.predictors]
    step(method, x, y, "all", 0.0)
    for l, (predictor, old) in enumerate(zip(method.predictors, states, strict=True)):
        h = seen[:, 62 * l : 62 * (l + 1)]
        scores = h @ old["weight"].numpy().T + old["bias"].numpy()
        p = np.exp(scores - scores.max(1, keepdims=True))
        delta = (p / p.sum(1, keepdims=True) - np.eye(5)[y.numpy()]) / len(y)
        assert np.allclose(predictor.linear.weight.grad.numpy(), delta.T @ h, atol=1e-5)
        assert np.allclose(predictor.linear.bias.grad.numpy(), delta.sum(0), atol=1e-5)


def test_predictors_approach_the_convex_optimum() -> None:
    """More steps come ever nearer to what another solver finds on the same features."""
    x, y = batch(600)  # labels at random: the classes are not separable, the optimum is finite
    method = make("cafo", lr=0.01)
    method.start(x, y)
    h = method.frozen(x, "all")[:, :62]
    # another penalty than none would move the optimum; this one is as good as none
    solver = LogisticRegression(C=1e6, max_iter=5000, tol=1e-8).fit(h.numpy(), y.numpy())
    best = torch.from_numpy(solver.predict_log_proba(h.numpy())).float()
    optimum = float(F.nll_loss(best, y))
    gaps = []
    for i in range(1000):
        step(method, x, y, "all", i / 1000)
        if i in (20, 200, 999):
            scores = method.predictors[0](h).detach()
            gaps.append(float(F.cross_entropy(scores, y)) - optimum)
    assert gaps[0] > gaps[1] > gaps[2] > -1e-4
    assert gaps[2] < 1e-3, gaps


def test_sum_adds_probabilities() -> None:
    method, x, _ = started()
    method.eval()
    seen = method.frozen(x, "all")
    each = [reader(part) for reader, part in method._seen_by(seen)]
    assert len(each) == 4
    mean = sum(z.softmax(1) for z in each) / 4
    assert torch.allclose(method.logits(x, "sum").exp(), mean, atol=1e-6)
    assert torch.equal(method.logits(x, "last"), each[-1])


def test_statistics_are_those_of_the_training_images() -> None:
    """Of the first block, on one part: mean and variance of what its weights put out."""
    method, x, _ = started("mlp-2x500")
    z = method.blocks[0].weights(x.flatten(1)).detach()
    norm = method.blocks[0].norm
    assert torch.allclose(norm.running_mean, z.mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, z.var(0), rtol=1e-4)
    assert TASK.n_classes == 5 and not norm.training
