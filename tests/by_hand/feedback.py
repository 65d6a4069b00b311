"""Rules that bring the error or the label back by a pass of its own; no gradient goes back."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.by_hand.class_scores import through_length
from tests.by_hand.step import TASK, Step, keep, layers, probabilities_less_truth


@torch.no_grad()
def by_hand_pepita(m: Any, x: Tensor, y: Tensor) -> None:
    n, kept = len(y), 1 - m.config.dropout
    weights, last = [block.weights.weight for block in m.blocks], m.output.weight
    masks = [
        torch.empty(n, len(w)).bernoulli_(kept, generator=m.rng).div_(kept) for w in weights
    ]  # both passes share them

    def run(state: Tensor) -> tuple[list[Tensor], Tensor]:
        """All states, the input first, and the output error."""
        states = [state]
        for w, mask in zip(weights, masks, strict=True):
            states.append((states[-1] @ w.T).relu_().mul_(mask))
        p = (states[-1] @ last.T).softmax(1)
        p[torch.arange(n), y] -= 1
        return states, p

    plain, error = run(x.flatten(1))
    modulated, error = run(torch.addmm(plain[0], error, m.aux["projection"].weight.T))
    for l, w in enumerate(weights, 1):
        keep(w, plain[l].sub_(modulated[l]).div_(n).T @ modulated[l - 1])
    keep(last, error.div_(n).T @ modulated[-1])
    m.optimizer.step()


@torch.no_grad()
def by_hand_ccl(m: Any, x: Tensor, y: Tensor) -> None:
    true = F.one_hot(y, TASK.n_classes).float()
    share = 2 / true.numel()
    ways_down = [layer.weights for layer in m.aux["feedback"]]
    sent = [F.elu_(ways_down[-1].weight.T + ways_down[-1].bias)]  # of each class, from one-hot
    for way in ways_down[-2::-1]:
        sent.insert(0, F.elu_(F.linear(sent[0], way.weight, way.bias)))
    state = x.flatten(1)
    for l, (w, b) in enumerate(layers(m)):
        h, g = torch.addmm(b, state, w.T).relu_(), sent[l]
        lengths = [torch.linalg.vector_norm(a, dim=1, keepdim=True) for a in (h, g)]
        z, d = h / lengths[0], g / lengths[1]
        push = (z @ d.T).sub_(true).mul_(share)
        up = through_length(push @ d, z, lengths[0]).mul_(h > 0)
        keep(w, up.T @ state)
        keep(b, up.sum(0))
        down = through_length(push.T @ z, d, lengths[1])
        down.mul_(g.clamp(max=0).add_(1))  # the slope of ELU
        above = sent[l + 1 : l + 2]
        keep(ways_down[l].weight, down.T @ above[0] if above else down.T.contiguous())
        keep(ways_down[l].bias, down.sum(0))
        state = h
    g = probabilities_less_truth(F.linear(state, m.output.weight, m.output.bias), y)
    keep(m.output.weight, g.T @ state)
    keep(m.output.bias, g.sum(0))
    m.optimizer.step()


STEPS = [
    Step("pepita", by_hand_pepita),
    Step("ccl", by_hand_ccl),
]
