"""Rules whose channels compete, on convolutions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.by_hand.convolutions import convolution_gradients, length, normed, pooled
from tests.by_hand.step import TASK, Step, keep, probabilities_less_truth


def members(channels: int) -> Tensor:
    """Neighbours share a class: what each channel adds to the mean of each class, (K, C)."""
    classes = F.one_hot(torch.arange(channels) * TASK.n_classes // channels, TASK.n_classes)
    return classes / classes.sum(0)


def by_hand_cwcomp(m: Any, x: Tensor, y: Tensor) -> None:
    m.optimizer.zero_grad()
    for block in m.blocks:
        a = normed(block, pooled(block, x))
        with torch.no_grad():
            h = a.detach().relu_()
            per_channel = h.view(*h.shape[:2], -1)
            positions, means = per_channel.shape[2], members(h.shape[1])
            squares = torch.linalg.vector_norm(per_channel, dim=2).square_().div_(positions)
            push = probabilities_less_truth(squares @ means, y) @ means.T
            g = h * push.mul_(2 / positions).view(*h.shape[:2], *[1] * (h.dim() - 2))
        a.backward(g)
        x = h
    m.optimizer.step()


@torch.no_grad()
def by_hand_softhebb(m: Any, x: Tensor, y: Tensor) -> None:
    """The turn of the second block, on the output of the first."""
    block, norm = m.blocks[1], m.norms[1]
    w = block.weights.weight
    x = pooled(block, x)
    n = x.numel() // x.shape[1]
    mean = x.mean((0, 2, 3))
    x = x - mean.view(-1, 1, 1)
    var = torch.linalg.vector_norm(x, dim=(0, 2, 3)).square_()
    norm.num_batches_tracked += 1
    norm.running_mean.lerp_(mean, 1 / norm.num_batches_tracked)
    norm.running_var.lerp_(var / (n - 1), 1 / norm.num_batches_tracked)
    x.mul_(var.div_(n).add_(1e-5).rsqrt_().view(-1, 1, 1))
    u = F.conv2d(x, w, padding=1)
    winner = u.max(1, keepdim=True).indices
    p = u.softmax(1).neg_()
    p.scatter_(1, winner, p.gather(1, winner).neg_())
    change = convolution_gradients(x, p, w, bias=False)[0]
    change -= p.mul_(u).sum((0, 2, 3)).view(-1, 1, 1, 1) * w
    rate = (length(w) - 1).abs_().sqrt_().mul_(m.config.rate)
    w.addcmul_(change, rate.div_(change.abs().max()))


@torch.no_grad()
def by_hand_readout(m: Any, x: Tensor, y: Tensor) -> None:
    kept = 1 - m.config.dropout
    x = torch.empty_like(x).bernoulli_(kept, generator=m.rng).div_(kept).mul_(x)
    w, b = m.output.weight, m.output.bias
    g = probabilities_less_truth(torch.addmm(b, x, w.T), y)
    keep(w, g.T @ x)
    keep(b, g.sum(0))
    m.optimizer.step()


STEPS = [
    Step("cwcomp", by_hand_cwcomp, architecture="cnn-small"),
    Step("softhebb", by_hand_softhebb, architecture="cnn-small", phase="block 1"),
    Step("softhebb", by_hand_readout, architecture="cnn-small", phase="readout"),
]
