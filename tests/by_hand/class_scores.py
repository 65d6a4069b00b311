"""Rules that score classes in every block, all gradients written out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.by_hand.common import Step, keep, layers, probabilities_less_truth


@torch.no_grad()
def by_hand_mono_forward(m: Any, x: Tensor, y: Tensor) -> None:
    state = x.flatten(1)
    for l, (w, b) in enumerate(layers(m)):
        h = torch.addmm(b, state, w.T).relu_()
        head = (m.head if l == len(m.blocks) - 1 else m.aux[f"head_{l}"]).linear
        g = probabilities_less_truth(torch.addmm(head.bias, h, head.weight.T), y)
        keep(head.weight, g.T @ h)
        keep(head.bias, g.sum(0))
        g = (g @ head.weight).mul_(h > 0)
        keep(w, g.T @ state)
        keep(b, g.sum(0))
        state = h
    m.optimizer.step()


@torch.no_grad()
def by_hand_hff(m: Any, x: Tensor, y: Tensor) -> None:
    c = m.config
    state = x.flatten(1)
    for l, (w, b) in enumerate(layers(m)):
        h = torch.addmm(b, state, w.T).relu_()
        head = m.head if l == len(m.blocks) - 1 else m.aux[f"head_{l}"]
        n, k, dim = head.prototypes.shape
        points = head.prototypes.view(n * k, dim)
        lengths = torch.linalg.vector_norm(points, dim=1, keepdim=True)
        d = points / lengths
        r = torch.linalg.vector_norm(h, dim=1, keepdim=True)
        z = h / r
        cosines = (z @ d.T).view(-1, n, k).mul_(c.beta)
        s = cosines.logsumexp(2).sub_(math.log(k)).div_(c.beta)
        s[torch.arange(len(y)), y] -= c.margin
        g = probabilities_less_truth(s.mul_(c.scale), y).mul_(c.scale)
        g = cosines.softmax(2).mul_(g[:, :, None]).view(len(y), n * k)
        toward = g.T @ z
        toward -= d * (toward * d).sum(1, keepdim=True)
        keep(head.prototypes, toward.div_(lengths).view(n, k, dim))
        g = g @ d
        g -= z * (g * z).sum(1, keepdim=True)
        g.div_(r).mul_(h > 0)
        keep(w, g.T @ state)
        keep(b, g.sum(0))
        state = z.mul_(math.sqrt(dim))
    m.optimizer.step()


STEPS = [
    Step("mono-forward", by_hand_mono_forward),
    Step("hff", by_hand_hff),
]
