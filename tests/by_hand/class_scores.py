"""Rules that score classes in every block; those of convolutions leave the blocks to autograd."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.by_hand.convolutions import length, normed, pooled
from tests.by_hand.step import Step, keep, layers, probabilities_less_truth


def head_of(m: Any, l: int) -> Any:
    return m.head if l == len(m.blocks) - 1 else m.aux[f"head_{l}"]


def through_length(g: Tensor, unit: Tensor, lengths: Tensor) -> Tensor:
    """Gradient of vectors from that of their directions; in place."""
    return g.sub_(unit * (g * unit).sum(1, keepdim=True)).div_(lengths)


# --------------------------------------------------------------------------------- heads
#
# Each keeps its own gradients and returns that of what it reads, h.


@torch.no_grad()
def linear_scores(m: Any, l: int, h: Tensor, y: Tensor) -> Tensor:
    head = head_of(m, l).linear
    g = probabilities_less_truth(torch.addmm(head.bias, h, head.weight.T), y)
    keep(head.weight, g.T @ h)
    keep(head.bias, g.sum(0))
    return g @ head.weight


@torch.no_grad()
def cosine_scores(m: Any, l: int, h: Tensor, y: Tensor) -> Tensor:
    points, scale = head_of(m, l).linear.weight, m.config.scale
    r, lengths = length(h), length(points)
    z, d = h / r, points / lengths
    g = probabilities_less_truth((z @ d.T).mul_(scale), y).mul_(scale)
    keep(points, through_length(g.T @ z, d, lengths))
    return through_length(g @ d, z, r)


@torch.no_grad()
def prototype_scores(m: Any, l: int, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient, and the lengths of h."""
    c, prototypes = m.config, head_of(m, l).prototypes
    n, k, dim = prototypes.shape
    points = prototypes.view(n * k, dim)
    r, lengths = length(h), length(points)
    z, d = h / r, points / lengths
    cosines = (z @ d.T).view(-1, n, k).mul_(c.beta)
    s = cosines.logsumexp(2).sub_(math.log(k)).div_(c.beta)
    s[torch.arange(len(y)), y] -= c.margin
    g = probabilities_less_truth(s.mul_(c.scale), y).mul_(c.scale)
    g = cosines.softmax(2).mul_(g[:, :, None]).view(len(y), n * k)
    keep(prototypes, through_length(g.T @ z, d, lengths).view(n, k, dim))
    return through_length(g @ d, z, r), r


# ------------------------------------------------------------------- fully connected blocks


@torch.no_grad()
def by_hand_mono_forward(m: Any, x: Tensor, y: Tensor) -> None:
    scores = cosine_scores if m.name == "mono-forward-cosine" else linear_scores
    state = x.flatten(1)
    for l, (w, b) in enumerate(layers(m)):
        h = torch.addmm(b, state, w.T).relu_()
        g = scores(m, l, h, y).mul_(h > 0)
        keep(w, g.T @ state)
        keep(b, g.sum(0))
        state = h
    m.optimizer.step()


@torch.no_grad()
def by_hand_hff(m: Any, x: Tensor, y: Tensor) -> None:
    state = x.flatten(1)
    for l, (w, b) in enumerate(layers(m)):
        h = torch.addmm(b, state, w.T).relu_()
        g, lengths = prototype_scores(m, l, h, y)
        g.mul_(h > 0)
        keep(w, g.T @ state)
        keep(b, g.sum(0))
        state = h.div_(lengths.div_(math.sqrt(h.shape[1])).add_(1e-8))
    m.optimizer.step()


# ------------------------------------------------------------------------- convolutions


def averaged(h: Tensor, *kernel: int) -> Tensor:
    return F.avg_pool2d(h, kernel, ceil_mode=True, count_include_pad=False)


def by_hand_mono_forward_convolutions(m: Any, x: Tensor, y: Tensor) -> None:
    m.optimizer.zero_grad()
    kernels = [(4, 4), (4, 2), (4, 4)]  # leave at most 2048 values a sample
    for l, block in enumerate(m.blocks):
        h = F.relu_(normed(block, pooled(block, x)))
        read = averaged(h, *kernels[l]).flatten(1) if h.dim() == 4 else h
        read.backward(linear_scores(m, l, read, y))
        x = h.detach()
    m.optimizer.step()


def by_hand_hff_convolutions(m: Any, x: Tensor, y: Tensor) -> None:
    m.optimizer.zero_grad()
    sides, rms = [8, 4, 4], 1.0  # leave 4x4 positions
    for l, block in enumerate(m.blocks):
        h = F.relu_(normed(block, pooled(block, x) / rms))
        read = h
        if h.dim() == 4:
            aux = head_of(m, l).aux_conv
            read = F.conv2d(averaged(h, sides[l]), aux.weight, aux.bias).flatten(1)
        read.backward(prototype_scores(m, l, read, y)[0])
        x = h.detach()
        rms = length(x).div_(math.sqrt(x[0].numel())).add_(1e-8)
    m.optimizer.step()


STEPS = [
    Step("mono-forward", by_hand_mono_forward),
    Step("mono-forward", by_hand_mono_forward_convolutions, architecture="cnn-small"),
    Step("mono-forward-cosine", by_hand_mono_forward),
    Step("hff", by_hand_hff),
    Step("hff", by_hand_hff_convolutions, architecture="cnn-small"),
]
