"""Rules with auxiliary networks, on bare functions.

Gradients are written out where there is no batch norm, and left to autograd where there is.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.by_hand.convolutions import normed, pooled
from tests.by_hand.step import TASK, Step, keep, layers, probabilities_less_truth


def linear(x: Tensor, part: Any) -> Tensor:
    return F.linear(x, part.weight, part.bias)


def batch_normed(a: Tensor, norm: Any) -> Tensor:
    norm.num_batches_tracked.add_(1)
    return F.batch_norm(a, norm.running_mean, norm.running_var, norm.weight, norm.bias,
                        training=True)  # fmt: skip


# ------------------------------------------------------------- local prediction and similarity


def similarity(z: Tensor) -> Tensor:
    z = z - z.mean(1, keepdim=True)
    z = z / (z.norm(dim=1, keepdim=True) + 1e-8)
    return (z @ z.T).clamp(-1, 1)


def spread(maps: Tensor) -> Tensor:
    """Standard deviation of each channel over space, which does not ask how the mean moves."""
    centred = maps - maps.detach().mean((2, 3), keepdim=True)
    return torch.linalg.vector_norm(centred, dim=(2, 3)) / math.sqrt(maps[0, 0].numel() - 1)


def averaged(h: Tensor, most: int) -> Tensor:
    """Averaged over windows that double in height and width by turns, up to `most` values."""
    (c, height, width), sides = h.shape[1:], [1, 1]
    for turn in itertools.cycle((0, 1)):
        if c * math.ceil(height / sides[0]) * math.ceil(width / sides[1]) <= most:
            break
        sides[turn] *= 2
    return F.avg_pool2d(h, sides, ceil_mode=True, count_include_pad=False).flatten(1)


def by_hand_greedy(m: Any, x: Tensor, y: Tensor) -> None:
    c = m.config
    beta = {"pred": 0.0, "sim": 1.0, "predsim": c.beta}[c.loss]
    target, state = similarity(F.one_hot(y, TASK.n_classes).float()), x
    m.optimizer.zero_grad()
    for l, block in enumerate(m.blocks):
        a = normed(block, pooled(block, state))
        maps = a.dim() == 4
        h = F.relu_(a) if c.loss == "pred" else F.leaky_relu_(a, 0.01)
        loss: Any = 0.0
        if beta < 1:
            seen = averaged(h, c.decoder_features) if maps else h
            loss = (1 - beta) * F.cross_entropy(linear(seen, m.aux[f"decoder_{l}"].linear), y)
        if beta > 0:
            w = m.aux[f"similarity_{l}"].weight
            z = spread(F.conv2d(h, w, padding=1)) if maps else F.linear(h, w)
            loss = loss + beta * F.mse_loss(similarity(z), target)
        loss.backward()
        shape = (*h.shape[:2], 1, 1) if maps else h.shape  # of maps, all or nothing
        kept = torch.empty(shape).bernoulli_(1 - c.dropout, generator=m.rng).div_(1 - c.dropout)
        state = h.detach().mul_(kept)
    F.cross_entropy(linear(state, m.output), y).backward()
    m.optimizer.step()


# --------------------------------------------------------------- auxiliary networks with layers


def scores_behind(h: Tensor, net: Any) -> Tensor:
    """Dense layers with batch norm and ReLU, then a linear one."""
    *hidden, last = [part for part in net if hasattr(part, "weight")]
    for part, norm in zip(hidden[::2], hidden[1::2], strict=True):
        h = batch_normed(linear(h, part), norm).relu_()
    return linear(h, last)


def by_hand_layerwise(m: Any, x: Tensor, y: Tensor) -> None:
    """The second layer, on the output of the first."""
    block, net = m.blocks[1], m.aux["net_1"]
    m.optimizers[1].zero_grad()
    h = normed(block, x).relu_()
    F.cross_entropy(scores_behind(h, net), y).backward()
    m.optimizers[1].step()


@torch.no_grad()
def by_hand_layerwise_k1(m: Any, x: Tensor, y: Tensor) -> None:
    layer, head = m.blocks[1].weights, m.aux["net_1"][-1]
    h = linear(x, layer).relu_()
    g = probabilities_less_truth(linear(h, head), y)
    keep(head.weight, g.T @ h)
    keep(head.bias, g.sum(0))
    g = (g @ head.weight).mul_(h > 0)
    keep(layer.weight, g.T @ x)
    keep(layer.bias, g.sum(0))
    m.optimizers[1].step()


def by_hand_decoupled(m: Any, x: Tensor, y: Tensor) -> None:
    state = x.flatten(1)
    m.optimizer.zero_grad()
    for l, block in enumerate(m.blocks):
        net = m.head if l == len(m.blocks) - 1 else m.aux[f"net_{l}"]
        h = normed(block, state).relu_()
        F.cross_entropy(scores_behind(h, net), y).backward()
        state = h.detach()
    m.optimizer.step()


# ------------------------------------------------------------------- linear classifiers


@torch.no_grad()
def by_hand_cafo(m: Any, x: Tensor, y: Tensor) -> None:
    """x: what all blocks say, side by side."""
    heads = [predictor.linear for predictor in m.predictors]
    for part, head in zip(x.split(1000, 1), heads, strict=True):
        g = probabilities_less_truth(linear(part, head), y)
        keep(head.weight, g.T @ part)
        keep(head.bias, g.sum(0))
    m.optimizer.step()


@torch.no_grad()
def by_hand_deep_supervision(m: Any, x: Tensor, y: Tensor) -> None:
    states = [x.flatten(1)]
    for w, b in layers(m):
        states.append(torch.addmm(b, states[-1], w.T).relu_())
    g = torch.zeros(())
    for l, (w, b) in reversed(list(enumerate(layers(m)))):
        state, h = states[l : l + 2]
        head = (m.head if l == len(m.blocks) - 1 else m.aux[f"head_{l}"]).linear
        own = probabilities_less_truth(linear(h, head), y)
        keep(head.weight, own.T @ h)
        keep(head.bias, own.sum(0))
        g = torch.addmm(g, own, head.weight).mul_(h > 0)
        keep(w, g.T @ state)
        keep(b, g.sum(0))
        if l:
            g = g @ w
    m.optimizer.step()


STEPS = [
    Step("greedy", by_hand_greedy),
    Step("greedy", by_hand_greedy, {"loss": "pred"}),
    Step("greedy", by_hand_greedy, {"loss": "sim"}),
    Step("greedy", by_hand_greedy, architecture="cnn-small"),
    Step("layerwise", by_hand_layerwise_k1, {"k": 1}, phase="block_1"),
    Step("layerwise", by_hand_layerwise, {"k": 2}, phase="block_1"),
    Step("layerwise", by_hand_layerwise, {"k": 3}, phase="block_1"),
    Step("decoupled", by_hand_decoupled),
    Step("cafo", by_hand_cafo),
    Step("deep-supervision", by_hand_deep_supervision),
]
