"""Forward-Forward, on vectors and on feature maps, all gradients written out."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.by_hand.convolutions import keep_product, length, pooled, product
from tests.by_hand.step import TASK, Step, keep, layers, probabilities_less_truth


def readout_and_wrong_labels(m: Any, states: Tensor, y: Tensor) -> Tensor:
    """A wrong label for each image, drawn from the readout, which gets its gradient."""
    head = m.aux["readout"]
    scores = torch.addmm(head.bias, states, head.weight.T)
    g = probabilities_less_truth(scores, y)
    keep(head.weight, g.T @ states)
    keep(head.bias, g.sum(0))
    p = scores.scatter(1, y[:, None], -torch.inf).softmax(1)
    return (p / torch.empty_like(p).exponential_(generator=m.rng)).argmax(1)


@torch.no_grad()
def by_hand_ff(m: Any, x: Tensor, y: Tensor) -> None:
    config, c, n_rows = m.config, TASK.n_classes, len(y)
    pixels = (x.flatten(1) * TASK.std[0]).add_(TASK.mean[0])
    rest = pixels[:, c:]
    squares = rest.square().sum(1, keepdim=True)
    (w0, b0), *others = layers(m)
    product = rest @ w0[:, c:].T

    def normalised(h: Tensor) -> Tensor:
        rms = torch.linalg.vector_norm(h, dim=1, keepdim=True) / math.sqrt(h.shape[1])
        return h / rms.add_(1e-8)

    def scale(of_label: float) -> Tensor:
        return 1 / ((squares + of_label) / pixels.shape[1]).sqrt_().add_(1e-8)

    neutral = (product + w0[:, :c].mean(1)).mul_(scale(1 / c)).add_(b0).relu_()
    state, states = normalised(neutral), []
    for w, b in others:
        state = normalised(torch.addmm(b, state, w.T).relu_())
        states.append(state)
    labels = torch.cat([y, readout_and_wrong_labels(m, torch.cat(states, 1), y)])
    gain = scale(1.0).repeat(2, 1)
    a = (product.repeat(2, 1) + w0[:, :c].T[labels]).mul_(gain).add_(b0)
    for l, (w, b) in enumerate(layers(m)):
        if l:
            a = torch.addmm(b, state, w.T)
        h = a.relu_()
        n = h.shape[1]
        length = torch.linalg.vector_norm(h, dim=1, keepdim=True)
        goodness = length.square()
        push = torch.cat([-torch.sigmoid(n - goodness[:n_rows]),
                          torch.sigmoid(goodness[n_rows:] - n)])  # fmt: skip
        running = m.get_buffer(f"peer_mean_{l}")
        running.mul_(0.9).add_(h[:n_rows].mean(0), alpha=0.1)
        g = h * push.mul_(2 / n_rows)
        g[:n_rows] -= (running.mean() - running) * (2 * config.peer / n_rows)
        keep(b, g.sum(0))
        if l:
            keep(w, g.T @ state)
        else:
            g *= gain
            gradient = torch.empty_like(w)
            torch.mm((g[:n_rows] + g[n_rows:]).T, rest, out=gradient[:, c:])
            one_hot = F.one_hot(labels, c).to(g.dtype)
            gradient[:, :c] = g.T @ one_hot
            keep(w, gradient)
        state = h / (length / math.sqrt(n)).add_(1e-8)
    m.optimizer.step()
    m.readout_optimizer.step()


# periods of a class's wave in the height and the width of the image
PERIODS = [(0, 1), (1, 0), (1, -1), (1, 1), (0, 2), (2, 0), (1, -2), (1, 2), (2, -1), (2, 1)]


def waves() -> Tensor:
    _, height, width = TASK.shape
    row, column = (torch.arange(n).add(0.5).div(n) for n in (height, width))
    angles = [2 * math.pi * (fy * row[:, None] + fx * column) for fy, fx in PERIODS]
    return torch.stack(angles)[:, None].cos().add_(1).div_(2)


def rms(h: Tensor) -> Tensor:
    return length(h).div_(math.sqrt(h[0].numel())).add_(1e-8)


@torch.no_grad()
def by_hand_ff_conv(m: Any, x: Tensor, y: Tensor) -> None:
    c, n_rows = m.config, len(y)
    pixels, patterns = (x * TASK.std[0]).add_(TASK.mean[0]), waves()

    state, seen = pixels.lerp(patterns.mean(0), c.kappa), []
    gain = rms(state)
    for block in m.blocks:
        state = product(block, pooled(block, state).div_(gain)).relu_()
        gain = rms(state)
        seen.append((state.mean((2, 3)) if state.dim() == 4 else state) / gain.flatten(1))
    labels = torch.cat([y, readout_and_wrong_labels(m, torch.cat(seen[1:], 1), y)])
    h = pixels.repeat(2, 1, 1, 1).lerp_(patterns[labels], c.kappa)
    gain = rms(h)
    for l, block in enumerate(m.blocks):
        state = pooled(block, h).div_(gain)
        h = product(block, state).relu_()
        n, positions, lengths = h[0].numel(), h[0, 0].numel(), length(h)
        excess = lengths.square().sub_(n).div_(positions)
        push = torch.cat([-torch.sigmoid(-excess[:n_rows]), torch.sigmoid(excess[n_rows:])])
        running = m.get_buffer(f"peer_mean_{l}")
        running.mul_(0.9).add_(h[:n_rows].mean((0, *range(2, h.dim()))), alpha=0.1)
        share = 2 / (n_rows * positions)
        g = h * push.mul_(share)
        pull = (running.mean() - running).mul_(c.peer * share)
        g[:n_rows] -= pull.view(-1, *[1] * (h.dim() - 2))
        keep_product(block, state, g)
        gain = lengths.div_(math.sqrt(n)).add_(1e-8)
    m.optimizer.step()
    m.readout_optimizer.step()


STEPS = [
    Step("ff", by_hand_ff),
    Step("ff-conv", by_hand_ff_conv, architecture="cnn-small"),
]
