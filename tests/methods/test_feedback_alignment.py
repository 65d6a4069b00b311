"""Feedback alignment, sign-symmetric and direct: definitions, limits, finite differences."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from methods import Method
from methods.feedback_alignment import Feedback
from suites.auditing import locality
from suites.auditing.subject import Subject
from suites.case import Case
from suites.suite import Row
from tests.methods.toy import batch, make

CONV = ("cnn-small", "resnet18")


def gradients(method: Method, n: int = 6) -> dict[str, Tensor]:
    """Gradient of every trained parameter in one training step."""
    method.train_step(*batch(n), "all", 0.0)
    return {name: p.grad for name, p in method.named_parameters() if p.requires_grad}


def softmax(scores: np.ndarray) -> np.ndarray:
    p = np.exp(scores - scores.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


class Forward:
    """The forward pass of an MLP with two hidden layers, in NumPy."""

    def __init__(self, method: Method) -> None:
        x, y = batch()
        p = {k: v.detach().numpy().astype(np.float64) for k, v in method.named_parameters()}
        self.x = x.flatten(1).numpy()
        self.a0 = self.x @ p["blocks.0.weights.weight"].T + p["blocks.0.weights.bias"]
        self.h0 = np.maximum(self.a0, 0)
        self.a1 = self.h0 @ p["blocks.1.weights.weight"].T + p["blocks.1.weights.bias"]
        self.h1 = np.maximum(self.a1, 0)
        scores = self.h1 @ p["classifier.weight"].T + p["classifier.bias"]
        self.error = (softmax(scores) - np.eye(5)[y.numpy()]) / len(y)

    def gradients(self, delta0: np.ndarray, delta1: np.ndarray) -> dict[str, np.ndarray]:
        """Gradients of all parameters, given those of both layers' z."""
        return {
            "blocks.0.weights.weight": delta0.T @ self.x,
            "blocks.0.weights.bias": delta0.sum(0),
            "blocks.1.weights.weight": delta1.T @ self.h0,
            "blocks.1.weights.bias": delta1.sum(0),
            "classifier.weight": self.error.T @ self.h1,
            "classifier.bias": self.error.sum(0),
        }


def assert_same(found: dict[str, Tensor], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert np.abs(expected[name]).max() > 1e-4, name  # a comparison of zeros shows nothing
        assert np.allclose(gradient.numpy(), expected[name], atol=1e-6), name


# ------------------------------------------------------------------ layer by layer: FA, uSF


def test_fa_gradient_by_hand() -> None:
    """An independent derivation, in NumPy, of all gradients of a network of two hidden layers."""
    method, f = make("fa"), Forward(make("fa"))
    b1 = method.blocks[1].weights.feedback.fixed.detach().numpy()
    b_out = method.classifier.feedback.fixed.detach().numpy()
    delta1 = (f.error @ b_out) * (f.a1 > 0)
    delta0 = (delta1 @ b1) * (f.a0 > 0)
    assert_same(gradients(method), f.gradients(delta0, delta1))


def test_usf_gradient_by_hand() -> None:
    """The same with the signs of the weights, of one magnitude a layer."""
    method, f = make("usf"), Forward(make("usf"))
    w1 = method.blocks[1].weights.weight.detach().numpy()
    w_out = method.classifier.weight.detach().numpy()
    delta1 = (f.error @ np.sign(w_out) / np.sqrt(3 * w_out.shape[1])) * (f.a1 > 0)
    delta0 = (delta1 @ np.sign(w1) / np.sqrt(3 * w1.shape[1])) * (f.a0 > 0)
    assert_same(gradients(method), f.gradients(delta0, delta1))


@pytest.mark.parametrize("architecture", ["mlp-3x1000", *CONV])
def test_feedback_equal_to_the_weights_is_backprop(architecture: str) -> None:
    """Dense, convolutional and residual: autograd's own gradients."""
    backprop = make("backprop", architecture=architecture)
    method = make("fa", architecture=architecture)
    with torch.no_grad():
        for name, parameter in backprop.named_parameters():
            method.get_parameter(name).copy_(parameter)
        for layer in method.modules():
            if isinstance(getattr(layer, "feedback", None), Feedback):
                layer.feedback.fixed.copy_(layer.weight)
    expected = gradients(backprop)
    found = gradients(method)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, expected[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("architecture", CONV)
def test_every_layer_but_the_first_has_feedback_of_its_own(architecture: str) -> None:
    """Another B changes the gradients below it, and those alone. No error goes to the image."""
    method = make("fa", architecture=architecture)
    layers = [m for m in method.modules() if isinstance(getattr(m, "feedback", None), Feedback)]
    plain = [m for m in method.modules() if type(m) in (nn.Linear, nn.Conv2d)]
    assert plain == [method.blocks[0].weights]
    assert len(layers) == {"cnn-small": 4, "resnet18": 20}[architecture]
    assert len(method.aux["feedback"]) == len(layers)  # those are what is counted
    for layer in layers:
        assert layer.feedback.fixed.shape == layer.weight.shape
        assert not torch.equal(layer.feedback.fixed, layer.weight)
    before = gradients(make("fa", architecture=architecture))
    with torch.no_grad():
        last_conv = [m for m in method.blocks[2].modules() if hasattr(m, "feedback")][-1]
        last_conv.feedback.fixed.neg_()
    after = gradients(method)
    for name, gradient in after.items():
        above = not name.startswith("blocks.") or int(name.split(".")[1]) > 2
        if above:
            assert torch.equal(gradient, before[name]), name
        if name in ("blocks.0.weights.weight", "blocks.1.weights.weight"):
            assert not torch.allclose(gradient, before[name], atol=1e-7), name


def test_feedback_has_the_scale_of_the_weights() -> None:
    """Of the framework's own initial weights, for the drawn B and for the signs alike."""
    drawn = nn.Conv2d(16, 200, kernel_size=3).weight
    assert float(Feedback(drawn, signs=True).magnitude) == pytest.approx(
        float(drawn.detach().square().mean().sqrt()), rel=0.02
    )
    method = make("fa", architecture="mlp-4x2000")
    for block in list(method.blocks)[1:]:
        b, w = block.weights.feedback.fixed, block.weights.weight.detach()
        assert float(b.std()) == pytest.approx(float(w.std()), rel=0.03)
        assert abs(float((b * w).mean())) < 0.03 * float(w.var())  # drawn on its own


def test_signs_of_usf_follow_the_weights_while_they_learn() -> None:
    method = make("usf")
    layer = method.blocks[1].weights
    start = layer.feedback(layer.weight)
    for _ in range(40):
        method.train_step(*batch(), "all", 0.0)
    back = layer.feedback(layer.weight)
    assert torch.equal(back.sign(), layer.weight.detach().sign())
    assert not torch.equal(back.sign(), start.sign())
    assert torch.equal(back.abs(), torch.full_like(back, layer.feedback.magnitude))
    assert not back.requires_grad


# ------------------------------------------------------------------------------- direct: DFA


def test_dfa_gradient_by_hand() -> None:
    """δ_l = (B_l e) ⊙ φ'(z_l), in NumPy."""
    method, f = make("dfa"), Forward(make("dfa"))
    delta1 = (f.error @ method.aux["feedback"][1].detach().numpy()) * (f.a1 > 0)
    delta0 = (f.error @ method.aux["feedback"][0].detach().numpy()) * (f.a0 > 0)
    assert_same(gradients(method), f.gradients(delta0, delta1))


@pytest.mark.parametrize("architecture", ["mlp-2x500", *CONV])
def test_dfa_gradient_by_finite_differences(architecture: str) -> None:
    """It is the gradient of ⟨B_l e, h_l(W_l)⟩ with e and the block's input held constant."""
    method = make("dfa", architecture=architecture).double()
    x, y = batch()
    x = x.double()
    outputs = [x]
    with torch.no_grad():
        for block in copy.deepcopy(method.blocks):
            outputs.append(block(outputs[-1]))
        scores = method.classifier(outputs[-1].flatten(1))
        error = (scores.softmax(1) - torch.eye(5, dtype=x.dtype)[y]) / len(y)
    blocks = copy.deepcopy(method.blocks)
    method.train_step(x, y, "all", 0.0)
    rng = Generator().manual_seed(2)
    for l, block in enumerate(blocks):
        sent = error @ method.aux["feedback"][l]
        towards = [torch.randn(p.shape, generator=rng).double() for p in block.parameters()]
        ahead, behind = (
            float((sent * moved(block, towards, step)(outputs[l]).flatten(1)).sum())
            for step in (1e-7, -1e-7)
        )
        found = [p.grad for p in method.blocks[l].parameters()]
        slope = sum(float((g * d).sum()) for g, d in zip(found, towards, strict=True))
        assert abs(slope) > 1e-6
        assert slope == pytest.approx((ahead - behind) / 2e-7, rel=1e-3), l


@torch.no_grad()
def moved(block: nn.Module, towards: list[Tensor], step: float) -> nn.Module:
    """A copy of a block, its parameters a step further in a direction."""
    twin = copy.deepcopy(block).requires_grad_(False)
    for parameter, d in zip(twin.parameters(), towards, strict=True):
        parameter.add_(step * d)
    return twin


# ------------------------------------------------------------------------------ all of them


def feedback_of(method: Method) -> dict[str, Tensor]:
    """All fixed matrices."""
    return {k: v.clone() for k, v in method.named_parameters() if not v.requires_grad}


@pytest.mark.parametrize("architecture", ["mlp-2x500", "cnn-small"])
@pytest.mark.parametrize("name", ["fa", "dfa"])
def test_feedback_never_changes_and_is_restored(name: str, architecture: str) -> None:
    method = make(name, architecture=architecture)
    start = feedback_of(method)
    # fa: of all layers but the first, the classifier among them; dfa: of all but the classifier
    assert len(start) == len(method.blocks)
    for _ in range(5):
        method.train_step(*batch(), "all", 0.0)
    now = feedback_of(method)
    assert all(torch.equal(now[k], start[k]) for k in start)
    assert sum(p.numel() for p in method.aux.parameters()) == sum(p.numel() for p in now.values())
    other = make(name, architecture=architecture)
    with torch.no_grad():
        for buffer in other.parameters():
            buffer.zero_()
    other.load_state_dict(method.state_dict())
    restored = feedback_of(other)
    assert restored.keys() == start.keys()
    assert all(torch.equal(restored[k], start[k]) for k in start)


def test_locality_tells_the_rules_apart() -> None:
    """FA's errors pass all layers; DFA's pass none, but its blocks hear of the output's weights."""

    def subject(name: str) -> Subject:
        return Case(Row(name, name, name, {}), "mlp-3x1000").subject()

    longest = {n: locality.chains(subject(n)).longest for n in ("backprop", "fa", "usf", "dfa")}
    assert longest == {"backprop": 4, "fa": 4, "usf": 4, "dfa": 1}
    assert (
        locality.crossings(subject("fa"), 0) == locality.crossings(subject("backprop"), 0) != set()
    )
    assert locality.crossings(subject("dfa"), 0) == set()
    # block 0 of DFA hears of blocks 1 and 2 and of the classifier, and the others likewise
    assert len(locality.influences(subject("dfa"), 0)) == 6
    assert len(locality.influences(subject("fa"), 0)) == 3


@pytest.mark.parametrize("name", ["fa", "usf"])
def test_the_way_back_costs_no_further_products(name: str) -> None:
    """As many FLOPs as backprop: B takes the place of W, nothing is computed twice."""
    flops = []
    for method in (
        make("backprop", architecture="cnn-small"),
        make(name, architecture="cnn-small"),
    ):
        with FlopCounterMode(display=False) as counter:
            method.train_step(*batch(), "all", 0.0)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1]
