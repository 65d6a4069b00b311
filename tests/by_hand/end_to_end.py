"""Rules whose error starts at the output; gradients of fully connected layers are written out."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.by_hand.convolutions import normed, pooled
from tests.by_hand.step import Step, keep, layers, probabilities_less_truth


def forward(m: Any, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor]:
    """All states, the image first, and the output error; the classifier gets its gradient."""
    states, head = [x.flatten(1)], m.classifier
    for w, b in layers(m):
        states.append(torch.addmm(b, states[-1], w.T).relu_())
    g = probabilities_less_truth(torch.addmm(head.bias, states[-1], head.weight.T), y)
    keep(head.weight, g.T @ states[-1])
    keep(head.bias, g.sum(0))
    return states, g


def returning(m: Any, x: Tensor, y: Tensor, ways_back: list[Tensor]) -> None:
    """The error goes back through one matrix a layer, the classifier's last."""
    states, g = forward(m, x, y)
    for l, (w, b) in reversed(list(enumerate(layers(m)))):
        g = (g @ ways_back[l + 1]).mul_(states[l + 1] > 0)
        keep(w, g.T @ states[l])
        keep(b, g.sum(0))
    m.optimizer.step()


def linear_layers(m: Any) -> list[Any]:
    return [*(block.weights for block in m.blocks), m.classifier]


@torch.no_grad()
def by_hand_backprop(m: Any, x: Tensor, y: Tensor) -> None:
    returning(m, x, y, [layer.weight for layer in linear_layers(m)])


@torch.no_grad()
def by_hand_fa(m: Any, x: Tensor, y: Tensor) -> None:
    first, *others = linear_layers(m)  # nothing returns to the image
    returning(m, x, y, [first.weight, *(layer.feedback.fixed for layer in others)])


@torch.no_grad()
def by_hand_usf(m: Any, x: Tensor, y: Tensor) -> None:
    first, *others = [layer.weight for layer in linear_layers(m)]
    signs = [w.sign().mul_(1 / math.sqrt(3 * w.shape[1])) for w in others]
    returning(m, x, y, [first, *signs])


@torch.no_grad()
def by_hand_dfa(m: Any, x: Tensor, y: Tensor) -> None:
    states, g = forward(m, x, y)
    for l, (w, b) in enumerate(layers(m)):
        sent = (g @ m.aux["feedback"][l]).mul_(states[l + 1] > 0)
        keep(w, sent.T @ states[l])
        keep(b, sent.sum(0))
    m.optimizer.step()


def by_hand_backprop_convolutions(m: Any, x: Tensor, y: Tensor) -> None:
    for block in m.blocks:
        x = F.relu_(normed(block, pooled(block, x)))
    m.optimizer.zero_grad()
    F.cross_entropy(F.linear(x, m.classifier.weight, m.classifier.bias), y).backward()
    m.optimizer.step()


STEPS = [
    Step("backprop", by_hand_backprop),
    Step("backprop", by_hand_backprop_convolutions, architecture="cnn-small"),
    Step("fa", by_hand_fa),
    Step("usf", by_hand_usf),
    Step("dfa", by_hand_dfa),
]
