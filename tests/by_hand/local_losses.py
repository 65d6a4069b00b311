"""Rules with auxiliary networks, on bare functions, with autograd for the blocks."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tests.by_hand.common import TASK, Step


def by_hand_greedy(m: Any, x: Tensor, y: Tensor) -> None:
    """`predsim`, with autograd, which knows the gradients of batch norm and correlations."""

    def similarity(z: Tensor) -> Tensor:
        z = z - z.mean(1, keepdim=True)
        z = z / (z.norm(dim=1, keepdim=True) + 1e-8)
        return (z @ z.T).clamp(-1, 1)

    target, state = similarity(F.one_hot(y, TASK.n_classes).float()), x.flatten(1)
    beta = m.config.beta
    m.optimizer.zero_grad()
    for l, block in enumerate(m.blocks):
        w, b, norm = block.weights.weight, block.weights.bias, block.norm
        a = F.batch_norm(F.linear(state, w, b), norm.running_mean, norm.running_var, norm.weight,
                         norm.bias, training=True)  # fmt: skip
        norm.num_batches_tracked += 1
        h = F.leaky_relu(a, 0.01)
        decoder = m.aux[f"decoder_{l}"].linear
        loss = (1 - beta) * F.cross_entropy(F.linear(h, decoder.weight, decoder.bias), y)
        similar = similarity(F.linear(h, m.aux[f"similarity_{l}"].weight))
        (loss + beta * F.mse_loss(similar, target)).backward()
        state = h.detach()
    F.cross_entropy(F.linear(state, m.output.weight, m.output.bias), y).backward()
    m.optimizer.step()


STEPS = [
    Step("greedy", by_hand_greedy, {"loss": "predsim", "dropout": 0.0}),
]
