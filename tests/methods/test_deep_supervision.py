"""Deep supervision: its gradient as a sum over classifiers, and what its locality looks like."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from suites.auditing import locality
from suites.case import Case
from suites.suite import Row
from tests.methods.toy import batch, make


@pytest.mark.parametrize("architecture", ["mlp-2x500", "cnn-small"])
def test_gradient_is_the_sum_over_all_classifiers(architecture: str) -> None:
    """Each classifier's loss is differentiated on its own, through a forward pass of its own."""
    method = make("deep-supervision", architecture=architecture)
    x, y = batch()
    weights = list(method.blocks.parameters())
    heads = [*method.aux.values(), method.head]
    expected = [torch.zeros_like(w) for w in weights]
    for l, head in enumerate(heads):
        h = x
        for block in list(method.blocks)[: l + 1]:
            h = block(h)
        own = torch.autograd.grad(F.cross_entropy(head(h), y), weights, allow_unused=True)
        expected = [e if g is None else e + g for e, g in zip(expected, own, strict=True)]
    method.train_step(x, y, "all", 0.0)
    for weight, gradient in zip(weights, expected, strict=True):
        assert torch.allclose(weight.grad, gradient, atol=1e-6)


def test_it_is_mono_forward_without_the_detach() -> None:
    """Same start, same classifiers: only what a later loss says of an earlier block differs."""
    global_rule, local_rule = make("deep-supervision"), make("mono-forward")
    x, y = batch()
    for method in (global_rule, local_rule):
        method.train_step(x, y, "all", 0.0)
    gradients = {n: p.grad for n, p in local_rule.named_parameters()}
    assert gradients.keys() == dict(global_rule.named_parameters()).keys()
    for name, parameter in global_rule.named_parameters():
        same = torch.allclose(parameter.grad, gradients[name], atol=1e-6)
        assert same == (not name.startswith("blocks.0.")), name


def test_readout_sum_adds_all_scores() -> None:
    method = make("deep-supervision").eval()
    x, _ = batch()
    h0 = method.blocks[0](x)
    h1 = method.blocks[1](h0)
    last = method.head(h1)
    assert torch.equal(method.logits(x), last)
    assert torch.allclose(method.logits(x, "sum"), method.aux["head_0"](h0) + last)


def test_loss_falls() -> None:
    method = make("deep-supervision")
    x, y = batch(64)
    losses = [float(method.train_step(x, y, "all", 0.0)["loss"]) for _ in range(100)]
    assert losses[-1] < 0.5 * losses[0]


def test_gradients_cross_all_blocks_and_a_loss_is_near() -> None:
    """As long a chain as backprop's, yet every block has a classifier one layer away."""
    found = {
        name: locality.chains(Case(Row(name, name, name, {}), "mlp-3x1000").subject())
        for name in ("deep-supervision", "backprop", "mono-forward")
    }
    assert found["deep-supervision"].longest == found["backprop"].longest == 4
    assert found["deep-supervision"].nearest == found["mono-forward"].nearest == 2
    assert found["backprop"].nearest == 4
