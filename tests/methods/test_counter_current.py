"""Counter-Current Learning: the alignment loss, its gradient, and where no gradient goes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.counter_current import alignment_loss
from suites.auditing import locality
from suites.case import Case, cases
from tests.methods.toy import batch, make


def by_hand(h: np.ndarray, g: np.ndarray, y: np.ndarray, target: str) -> float:
    """The loss, pair by pair."""
    total = 0.0
    columns = y if target == "identity" else range(len(g))
    for i in range(len(y)):
        for j, c in enumerate(columns):
            s = h[i] @ g[c] / np.linalg.norm(h[i]) / np.linalg.norm(g[c])
            total += (s - float(i == j if target == "identity" else y[i] == c)) ** 2
    return total / len(y) / len(columns)


@pytest.mark.parametrize("target", ["identity", "class"])
def test_alignment_loss_and_its_gradient(target: str) -> None:
    """Against a loop over pairs, and against finite differences of that loop."""
    h = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    g = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    loss = alignment_loss(h, g, y, target)
    loss.backward()
    values = {"h": h.detach().numpy(), "g": g.detach().numpy()}
    assert np.isclose(loss.item(), by_hand(**values, y=y.numpy(), target=target))
    for name, gradient in (("h", h.grad), ("g", g.grad)):
        for place in np.ndindex(values[name].shape):
            ends = []
            for sign in (1, -1):
                moved = {k: v.copy() for k, v in values.items()}
                moved[name][place] += sign * 1e-6
                ends.append(by_hand(**moved, y=y.numpy(), target=target))
            assert np.isclose(gradient[place], (ends[0] - ends[1]) / 2e-6, atol=1e-7)


def test_loss_vanishes_where_classes_are_told_apart() -> None:
    y = torch.tensor([0, 1, 1, 2])
    assert float(alignment_loss(torch.eye(3)[y], torch.eye(3), y, "class")) == 0
    # the paper's target asks two images of one class to be unlike each other's label
    assert float(alignment_loss(torch.eye(3)[y], torch.eye(3), y, "identity")) == 2 / 16


def gradients(method: torch.nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    method.train_step(x, y, "all", 0.0)
    return {name: p.grad.clone() for name, p in method.named_parameters()}


def test_stop_gradients_hold() -> None:
    """Every gradient is that of one loss over one layer, its input taken as a constant."""
    method = make("ccl")
    x, y = batch()
    state = copy.deepcopy(method.state_dict())
    found = gradients(method, x, y)
    method.load_state_dict(state)
    labels = torch.eye(5)
    with torch.no_grad():
        h = [x, method.blocks[0](x)]
        g = [method.feedback[0](method.feedback[1](labels)), method.feedback[1](labels)]
        above = [g[1], labels]
    for l in range(2):
        block, layer = method.blocks[l], method.feedback[l]
        loss = alignment_loss(block(h[l]), layer(above[l]), y, "class")
        parts = {"blocks": block.weights.weight, "aux.feedback": layer.weights.weight}
        alone = torch.autograd.grad(loss, list(parts.values()))
        for name, gradient in zip(parts, alone, strict=True):
            assert gradient.abs().max() > 0
            assert torch.allclose(found[f"{name}.{l}.weights.weight"], gradient, atol=1e-7)


def test_forward_blocks_do_not_reach_each_other() -> None:
    """What comes down comes through the feedback network, never from later forward blocks."""
    x, y = batch()
    plain = gradients(make("ccl"), x, y)
    changed = make("ccl")
    with torch.no_grad():
        changed.blocks[1].weights.weight.mul_(-2.0)
        changed.output.weight.mul_(3.0)
    after = gradients(changed, x, y)
    assert torch.equal(plain["blocks.0.weights.weight"], after["blocks.0.weights.weight"])
    with torch.no_grad():
        changed = make("ccl")
        changed.feedback[1].weights.weight.mul_(-2.0)
    after = gradients(changed, x, y)
    assert not torch.equal(plain["blocks.0.weights.weight"], after["blocks.0.weights.weight"])


def test_feedback_is_declared_and_measured() -> None:
    subject = Case(cases(["ccl"])[0].row, "mlp-2x500").subject()
    assert not locality.crossings(subject, trained=2)
    assert locality.influences(subject, trained=2)
    assert make("ccl").traits.feedback


@pytest.mark.parametrize("architecture", ["mlp-2x500", "cnn-small", "resnet18"])
def test_pairs_have_one_shape(architecture: str) -> None:
    """Sides of 9 pixels are not a multiple of the pooling."""
    task = make("ccl").task
    task = type(task)("odd", (1, 9, 9), 5)
    method = make("ccl", task=task, architecture=architecture).eval()
    x, _ = batch(3, task)
    for block, g in zip(method.blocks, method._feedback(), strict=True):
        x = block(x)
        assert g.shape[1:] == x.shape[1:] == block.out_shape and len(g) == 5
