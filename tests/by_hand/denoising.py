"""NoProp and its kin with one-hot embeddings, on bare functions, with autograd for the networks."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from tests.by_hand.local_losses import batch_normed, linear
from tests.by_hand.step import TASK, Step, keep, layers, probabilities_less_truth


def one_hot(y: Tensor) -> Tensor:
    return F.one_hot(y, TASK.n_classes).float()


def dropout(x: Tensor, p: float, rng: Generator) -> Tensor:
    """16 random bits for every value, in the order of the memory."""
    dropped = round(p * 2**16)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=rng)
    keeps = bits.view(torch.int16).as_strided(x.shape, x.stride()) >= dropped - 2**15
    return x * keeps.to(x.dtype).mul_(2**16 / (2**16 - dropped))


def channels_last(x: Tensor) -> Tensor:
    """Images of one channel in the order that convolutions and pooling are fastest in on a CPU."""
    return x.view(len(x), *TASK.shape[1:], 1).permute(0, 3, 1, 2)


def encoded(encoder: Any, x: Tensor, p: float, rng: Generator) -> Tensor:
    """Image features, ahead of the norm or the activation that they end in."""
    if encoder.blocks[0].kind == "dense":
        h = x.flatten(1)
        for w, b in layers(encoder):
            h = F.linear(h, w, b).relu_()
        return linear(h, encoder.end[0])
    h = channels_last(x)
    for block, after in itertools.pairwise(encoder.blocks):
        h = F.conv2d(h, block.weights.weight, block.weights.bias, padding=1)
        if after.pool > 1:  # ahead of ReLU, which then has a quarter of the values to see to
            h = F.max_pool2d(h, 2)
        h = dropout(h.relu_(), p, rng)
    return linear(h.flatten(1), after.weights)


def logits_at_once(block: Any, z: Tensor, x: Tensor, p: float, rng: Generator) -> Tensor:
    """Figure 6 in discrete time."""
    end, first, skip, head = block.encoder.end, block.label.first, block.label.skip, block.head
    norm = end[1] if isinstance(end, nn.Sequential) else end
    image = batch_normed(encoded(block.encoder, x, p, rng), norm)
    label = batch_normed(linear(z, first[0]), first[1]).relu_()
    h = batch_normed(linear(label, skip[0]), skip[1]).relu_()
    label = label + batch_normed(linear(h, skip[3]), skip[4])
    h = batch_normed(linear(torch.cat([image, label], 1), head[0]), head[1]).relu_()
    h = batch_normed(linear(h, head[3]), head[4]).relu_()
    return linear(h, head[6])


def by_hand_noprop(m: Any, x: Tensor, y: Tensor) -> None:
    c, u, head = m.config, one_hot(y), m.classifier
    angles = [((c.steps - t) / c.steps + c.schedule_offset) / (1 + c.schedule_offset) * math.pi / 2
              for t in range(1, c.steps + 1)]  # fmt: skip
    bars = [0.0, *(min(c.max_alpha, math.cos(angle) ** 2) for angle in angles)]

    def noised(t: int) -> Tensor:
        z = torch.randn(u.shape, generator=m.rng).mul_(math.sqrt(1 - bars[t]))
        return z.add_(u, alpha=math.sqrt(bars[t]))

    m.optimizer.zero_grad()
    for t, block in enumerate(m.denoisers, 1):
        p = logits_at_once(block, noised(t - 1), x, c.dropout, m.rng).softmax(1)
        gain = bars[t] / (1 - bars[t]) - bars[t - 1] / (1 - bars[t - 1])
        (0.5 * c.steps * c.eta * gain / len(y) * (p - u).square().sum()).backward()
        with torch.no_grad():
            z = noised(c.steps)
            g = probabilities_less_truth(linear(z, head), y)
            keep(head.weight, g.T @ z)
            keep(head.bias, g.sum(0))
        m.shared_optimizer.step()
    m.optimizer.step()


def by_hand_noprop_backprop(m: Any, x: Tensor, y: Tensor) -> None:
    z = torch.randn(len(y), TASK.n_classes, generator=m.rng)
    for block, w in zip(m.denoisers, m.mixing.tanh(), strict=True):
        z = (1 - w) * z + w * logits_at_once(block, z, x, m.config.dropout, m.rng).softmax(1)
    m.optimizer.zero_grad()
    F.cross_entropy(linear(z, m.classifier), y).backward()
    m.optimizer.step()


def logits_in_time(m: Any, z: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Figure 6 in continuous time."""
    net = m.net
    image = encoded(net.encoder, x, m.config.dropout, m.rng).relu_()
    label = linear(z, net.label[0]).relu_()
    angles = t[:, None] * 1000 * 10_000 ** -torch.linspace(0, 1, 32)
    time = linear(torch.cat([angles.sin(), angles.cos()], 1), net.time[0]).relu_()
    h = linear(torch.cat([image, label, time], 1), net.joint).relu_()
    return linear(linear(h, net.head[1]).relu_(), net.head[3])


def by_hand_noprop_ct(m: Any, x: Tensor, y: Tensor) -> None:
    u, s = one_hot(y), m.schedule
    t = torch.rand(len(y), generator=m.rng)
    # γ~ at both ends and at t, and its derivative
    inner, outer = F.softplus(s.first), F.softplus(s.second)
    h = torch.sigmoid(torch.cat([torch.tensor([0.0, 1.0]), t])[:, None] * inner + s.bias)
    raw, rise = h @ outer, (h * (1 - h)) @ (inner * outer)
    fall = (s.gamma_1 - s.gamma_0) / (raw[1] - raw[0])
    gamma, slope = s.gamma_1 - fall * (raw[2:] - raw[0]), -fall * rise[2:]

    def noised(gamma: Tensor) -> Tensor:
        noise = torch.randn(u.shape, generator=m.rng)
        return torch.sigmoid(-gamma).sqrt() * u + torch.sigmoid(gamma).sqrt() * noise

    p = logits_in_time(m, noised(gamma[:, None]), x, t).softmax(1)
    weights = 0.5 * m.config.eta * -slope * torch.exp(-gamma)
    denoising = weights @ (p - u).square().sum(1) / len(y)
    scores = linear(noised(s.gamma_0), m.classifier)
    bar, d = torch.sigmoid(-s.gamma_1), TASK.n_classes
    kl = 0.5 * (bar * (1 - d) - d * F.logsigmoid(s.gamma_1))  # |u|² = 1
    m.optimizer.zero_grad()
    (denoising + F.cross_entropy(scores, y) + kl).backward()
    m.optimizer.step()


def by_hand_noprop_fm(m: Any, x: Tensor, y: Tensor) -> None:
    u = one_hot(y)
    start = torch.randn(u.shape, generator=m.rng)
    t = torch.rand(len(y), generator=m.rng)
    z = start.lerp(u, t[:, None])
    z.add_(torch.randn(u.shape, generator=m.rng), alpha=m.config.sigma)
    v = logits_in_time(m, z, x, t)
    m.optimizer.zero_grad()
    (F.mse_loss(v, u - start) * TASK.n_classes).backward()  # a sum over classes
    m.optimizer.step()


STEPS = [
    Step("noprop", by_hand_noprop),
    Step("noprop", by_hand_noprop, architecture="cnn-small"),
    Step("noprop-ct", by_hand_noprop_ct),
    Step("noprop-ct", by_hand_noprop_ct, architecture="cnn-small"),
    Step("noprop-fm", by_hand_noprop_fm),
    Step("noprop-backprop", by_hand_noprop_backprop),
]
