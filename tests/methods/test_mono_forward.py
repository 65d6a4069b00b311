"""Mono-Forward: closed forms, finite differences and second implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods import Method
from methods.mono_forward import PooledCosine
from tests.methods.toy import batch, make


def test_mono_forward_gradient_by_hand() -> None:
    """An independent derivation, in NumPy, of both gradients of both blocks."""
    method = make("mono-forward")
    x, y = batch()
    params = {k: v.detach().numpy().copy() for k, v in method.named_parameters()}
    method.train_step(x, y, "all", 0.0)
    grads = {k: v.grad.numpy() for k, v in method.named_parameters()}
    h_in, hot = x.flatten(1).numpy(), np.eye(5)[y.numpy()]
    for l, head_name in enumerate(["aux.head_0", "head"]):
        w, b = params[f"blocks.{l}.weights.weight"], params[f"blocks.{l}.weights.bias"]
        m, c = params[f"{head_name}.linear.weight"], params[f"{head_name}.linear.bias"]
        a = h_in @ w.T + b
        h = np.maximum(a, 0)
        scores = h @ m.T + c
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        delta = (p - hot) / len(y)
        back = (delta @ m) * (a > 0)
        assert np.allclose(grads[f"{head_name}.linear.weight"], delta.T @ h, atol=1e-5)
        assert np.allclose(grads[f"blocks.{l}.weights.weight"], back.T @ h_in, atol=1e-5)
        assert np.allclose(grads[f"blocks.{l}.weights.bias"], back.sum(0), atol=1e-5)
        h_in = h


# ----------------------------------------------------------------------- the cosine form


def test_cosine_mono_forward_scores_against_numpy() -> None:
    method = make("mono-forward-cosine", scale=7.0)
    x, _ = batch()
    z = method.blocks(x).detach().numpy()
    m = method.head.linear.weight.detach().numpy()
    angles = (z @ m.T) / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(m, axis=1)[None]
    assert np.allclose(method.logits(x).detach().numpy(), 7 * angles, atol=1e-5)


@pytest.mark.parametrize("architecture", ["mlp-2x500", "cnn-small"])
def test_cosine_mono_forward_ignores_all_lengths(architecture: str) -> None:
    head = make("mono-forward-cosine", architecture=architecture).aux["head_0"]
    h = torch.rand(3, *make("mono-forward", architecture=architecture).blocks[0].out_shape)
    before = head(h)
    with torch.no_grad():
        head.linear.weight.mul_(torch.rand(5, 1) + 0.5)
    assert torch.allclose(head(2.5 * h), before, atol=1e-5)


def test_cosine_mono_forward_gradients_against_finite_differences() -> None:
    head = make("mono-forward-cosine").head.double()
    h = torch.randn(3, 62, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h, weight: head(h), (h, *head.parameters()))


def twins() -> tuple[Method, Method]:
    """Cosine Mono-Forward, and HFF without its own parts, with the same weights."""
    mono = make("mono-forward-cosine", scale=9.0, weight_decay=0.01)
    hff = make(
        "hff", scale=9.0, weight_decay=0.01, prototypes=1, margin=0.0, between="none", loss="ce"
    )
    hff.blocks.load_state_dict(mono.blocks.state_dict())
    for theirs, ours in zip(heads(hff), heads(mono), strict=True):
        with torch.no_grad():
            theirs.prototypes.copy_(ours.linear.weight[:, None])
    return mono, hff


def heads(method: Method) -> list[torch.nn.Module]:
    return [method.aux["head_0"], method.head]


def test_cosine_mono_forward_is_hff_without_margin_prototypes_and_norm() -> None:
    mono, hff = twins()
    for seed in range(4):  # losses, gradients and what the optimizers make of them
        torch.manual_seed(seed)
        x, y = torch.randn(12, 1, 8, 8), torch.randint(5, (12,))
        one, two = (method.train_step(x, y, "all", seed / 4) for method in (mono, hff))
        assert torch.allclose(one["loss"], two["loss"], atol=1e-5)
        for p, q in zip(mono.blocks.parameters(), hff.blocks.parameters(), strict=True):
            assert p.grad.abs().max() > 0 and torch.allclose(p.grad, q.grad, atol=1e-5)
        for p, q in zip(heads(mono), heads(hff), strict=True):
            assert torch.allclose(p.linear.weight.grad, q.prototypes.grad[:, 0], atol=1e-5)
    for readout in ("last", "sum"):
        assert torch.allclose(mono.logits(x, readout), hff.logits(x, readout), atol=1e-3)


def test_cosine_mono_forward_that_forgets_a_length_is_not_hff(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A planted bug: class vectors of any length; the comparison with HFF must see it."""

    def forward(self: PooledCosine, h: torch.Tensor) -> torch.Tensor:
        return self.scale * self.linear(torch.nn.functional.normalize(h.flatten(1), dim=1))

    monkeypatch.setattr(PooledCosine, "forward", forward)
    with pytest.raises(AssertionError):
        test_cosine_mono_forward_is_hff_without_margin_prototypes_and_norm()
