"""Mono-Forward (arXiv 2501.09238): each block classifies on its own, with plain linear scores.

    h_l = block_l(sg[h_{l-1}]),   G_l = M_l v(h_l),   minimise  CE(G_l, y)  over block l and M_l

sg is stop-gradient, v flattens (feature maps are average-pooled first). HFF with one prototype a
class, no margin and no normalisation is this rule; so it is HFF's control.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Generator, Tensor

from methods.base import Method, Task, Traits, adamw, cosine, set_lr, trainable
from methods.blocks import Blocks, PooledLinear
from methods.registry import register


@dataclass(frozen=True)
class MonoForwardConfig:
    """Defaults: Adam at about the rate of the independent re-evaluation (arXiv 2511.01061)."""

    lr: float = 1e-3  # re-evaluation: 1.6e-3 on MNIST, 3.2e-4 on CIFAR-10
    weight_decay: float = 0.0
    head_features: int = 2048  # feature maps are pooled to at most this many values before M_l


@register
class MonoForward(Method):
    """Local cross-entropy on linear class scores of every block, all blocks on every mini-batch.

    Differs: blocks are trained together on each mini-batch, with a cosine schedule, where the
        re-evaluation trains one layer after the other with early stopping.
    Differs: feature maps are average-pooled before M_l, so that M_l stays affordable.
    """

    name = "mono-forward"
    label = "Mono-Forward"
    version = 1
    source = "arXiv 2501.09238"
    traits = Traits(local_updates=True, readouts=("last", "sum"))
    Config = MonoForwardConfig

    def __init__(
        self, blocks: Blocks, task: Task, config: MonoForwardConfig, rng: Generator
    ) -> None:
        super().__init__(blocks, task, config, rng)
        heads = [PooledLinear(block, task.n_classes, config.head_features) for block in blocks]
        self.head = heads[-1]
        # only the readout `sum` needs the others
        self.aux.update({f"head_{l}": head for l, head in enumerate(heads[:-1])})
        self.optimizer = adamw(trainable(self), config.lr, config.weight_decay)

    def _scores(self, h: Tensor, l: int) -> Tensor:
        head = self.head if l == len(self.blocks) - 1 else self.aux[f"head_{l}"]
        return head(h)

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
