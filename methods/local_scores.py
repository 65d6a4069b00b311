"""Blocks that each learn to classify by scores of their own: the loop that such rules share.

h_l = block_l(sg[h_{l-1}]),   minimise  CE(scores_l(h_l), y)  over block l and what scores it
"""

from __future__ import annotations

from abc import abstractmethod

import torch.nn.functional as F
from torch import Generator, Tensor
from torch.optim import Optimizer

from methods.base import Method, cosine, set_lr


class LocalScores(Method):
    """All blocks on every mini-batch, one cosine schedule; readouts `last` and `sum`.

    A subclass sets `optimizer` and gives `_scores`; its configuration has `lr`.
    """

    optimizer: Optimizer

    @abstractmethod
    def _scores(self, h: Tensor, l: int) -> Tensor:
        """Class scores of block l, (B, C), from its activities, (B, *out_shape)."""

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        set_lr(self.optimizer, self.config.lr, cosine(progress))
        self.optimizer.zero_grad()
        total = x.new_zeros(())
        for l, block in enumerate(self.blocks):
            h = block(x)
            loss = F.cross_entropy(self._scores(h, l), y)
            loss.backward()  # frees this block's graph before the next one is built
            total += loss.detach()
            x = h.detach()
        self.optimizer.step()
        return {"loss": total / len(self.blocks)}

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        if readout == "last":
            return self._scores(self.blocks(x), len(self.blocks) - 1)
        scores = []
        for l, block in enumerate(self.blocks):
            x = block(x)
            scores.append(self._scores(x, l))
        return sum(scores[1:], start=scores[0])
