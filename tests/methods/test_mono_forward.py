"""Mono-Forward: closed forms, finite differences and second implementations."""

from __future__ import annotations

import numpy as np

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
