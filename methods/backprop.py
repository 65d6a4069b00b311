"""End-to-end back-propagation, the control of every local rule.

h_l = block_l(h_{l-1}),   logits = V h_L,   minimise  CE(logits, y)  over all weights at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, adamw, cosine, set_lr, trainable
from methods.blocks import Blocks, BlockStyle
from methods.registry import register


@dataclass(frozen=True)
class BackpropConfig:
    """Defaults are common practice for networks of this size, not one paper's."""

    lr: float = 1e-3
    weight_decay: float = 1e-4
    norm: Literal["default", "none", "batch"] = "default"


@register
class Backprop(Method):
    """A linear classifier on the last block, cross-entropy, one gradient through everything."""

    name = "backprop"
    label = "Backprop (end to end)"
    version = 1
    source = "Rumelhart, Hinton & Williams 1986"
    traits = Traits(local_updates=False)
    Config = BackpropConfig

    def __init__(self, blocks: Blocks, task: Task, config: BackpropConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        self.classifier = nn.Linear(blocks[-1].out_features, task.n_classes)
        self.optimizer = adamw(trainable(self), config.lr, config.weight_decay)

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        return BlockStyle(norm=config.norm)

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        set_lr(self.optimizer, self.config.lr, cosine(progress))
        loss = F.cross_entropy(self.logits(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        return self.classifier(self.blocks(x).flatten(1))
