"""Rules whose error starts at the output, all gradients written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.by_hand.common import Step, keep, layers, probabilities_less_truth


def forward(m: Any, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor]:
    """All states, the image first, and the output error; the classifier gets its gradient."""
    states, head = [x.flatten(1)], m.classifier
    for w, b in layers(m):
        states.append(torch.addmm(b, states[-1], w.T).relu_())
    g = probabilities_less_truth(torch.addmm(head.bias, states[-1], head.weight.T), y)
    keep(head.weight, g.T @ states[-1])
    keep(head.bias, g.sum(0))
    return states, g


@torch.no_grad()
def by_hand_backprop(m: Any, x: Tensor, y: Tensor) -> None:
    states, g = forward(m, x, y)
    g = (g @ m.classifier.weight).mul_(states[-1] > 0)
    for l, (w, b) in reversed(list(enumerate(layers(m)))):
        keep(w, g.T @ states[l])
        keep(b, g.sum(0))
        if l:
            g = (g @ w).mul_(states[l] > 0)
    m.optimizer.step()


@torch.no_grad()
def by_hand_dfa(m: Any, x: Tensor, y: Tensor) -> None:
    states, g = forward(m, x, y)
    for l, (w, b) in enumerate(layers(m)):
        sent = (g @ m.aux["feedback"][l]).mul_(states[l + 1] > 0)
        keep(w, sent.T @ states[l])
        keep(b, sent.sum(0))
    m.optimizer.step()


STEPS = [
    Step("backprop", by_hand_backprop),
    Step("dfa", by_hand_dfa),
]
