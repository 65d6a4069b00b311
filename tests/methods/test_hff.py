"""HFF: closed forms, finite differences and second implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from methods import METHODS, Task
from methods.base import resolve_config
from methods.hff import PrototypeHead
from suites.architectures import ARCHITECTURES
from tests.methods.toy import make


def head(k: int, n_classes: int = 5, dim: int = 12) -> PrototypeHead:
    blocks = ARCHITECTURES["mlp-2x500"].blocks(Task("t", (1, 2, 2), 5), width=dim / 500)
    return PrototypeHead(blocks[0], n_classes, resolve_config(METHODS["hff"], {"prototypes": k}))


def test_hff_loss_is_the_softplus_margin_form() -> None:
    """CE(s − m onehot) = softplus(m + LSE over wrong classes − s_y): the smooth margin loss."""
    s, m = torch.randn(7, 5, dtype=torch.float64), 0.3
    y = torch.randint(5, (7,))
    hot = F.one_hot(y, 5)
    ce = F.cross_entropy(s - m * hot, y, reduction="none")
    wrong = s.masked_fill(hot.bool(), -math.inf).logsumexp(1)
    assert torch.allclose(ce, F.softplus(m + wrong - s[hot.bool()]), atol=1e-12)


def test_hff_equal_prototypes_score_like_one() -> None:
    several, one = head(4), head(1)
    with torch.no_grad():
        several.prototypes.copy_(one.prototypes.expand(-1, 4, -1))
    h = torch.randn(6, 12)
    assert torch.allclose(several(h), one(h), atol=1e-6)


def test_hff_scores_are_cosines_against_numpy() -> None:
    one = head(1)
    h = torch.randn(6, 12)
    p = one.prototypes.detach().numpy()[:, 0]
    z = h.numpy()
    expected = (z @ p.T) / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(p, axis=1)[None]
    assert np.allclose(one(h).detach().numpy(), expected, atol=1e-6)
    assert torch.allclose(one(3.7 * h), one(h), atol=1e-6)  # length carries no information


def test_hff_pooling_before_auxconv_changes_nothing() -> None:
    method = make("hff", architecture="cnn-small")
    aux = method.aux["head_0"].aux_conv
    h = torch.randn(3, method.blocks[0].out_shape[0], 8, 8)
    assert torch.allclose(aux(F.avg_pool2d(h, 2)), F.avg_pool2d(aux(h), 2), atol=1e-6)


def test_hff_floor_of_the_loss() -> None:
    """With unit vectors the loss cannot fall below log(1 + (C−1) exp(−s C/(C−1)))."""
    c, scale = 5, 4.0
    simplex = (
        torch.eye(c, dtype=torch.float64) - 1 / c
    )  # vertices of a simplex: the best possible prototypes
    p = F.normalize(simplex, dim=1)
    loss = F.cross_entropy(scale * p @ p.T, torch.arange(c))
    floor = math.log1p((c - 1) * math.exp(-scale * c / (c - 1)))
    assert float(loss) == pytest.approx(floor, rel=1e-9)
