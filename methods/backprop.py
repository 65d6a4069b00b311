"""End-to-end back-propagation, the control of every local rule.

h_l = block_l(drop(h_{l-1})),   logits = V drop(h_L),   minimise  CE(logits, y)  over all weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, adamw, cosine, set_lr, steps_down, trainable
from methods.blocks import Blocks, BlockStyle, dropout
from methods.registry import register
from methods.space import LogUniform, Uniform


@dataclass(frozen=True)
class BackpropConfig:
    """Defaults are common practice for networks of this size, not one paper's.

    The other settings are there so that the control can be given what a paper gives its own:
    batch norm, dropout, a schedule in steps.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-4
    norm: Literal["default", "none", "batch"] = "default"
    dropout: float = 0.0  # behind every block; whole maps of convolutions
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75, 0.89, 0.94)  # of `steps`: shares of the budget
    factor: float = 0.25  # of `steps`: what the rate is multiplied by at each milestone


@register
class Backprop(Method):
    """A linear classifier on the last block, cross-entropy, one gradient through everything.

    Differs: AdamW and a cosine schedule, where the paper descends with momentum: as a control it
        gets the optimizer that most rules here have.
    """

    name = "backprop"
    label = "Backprop (end to end)"
    version = 2
    source = "Rumelhart, Hinton & Williams 1986"
    traits = Traits(local_updates=False)
    Config = BackpropConfig
    space: ClassVar = {"lr": LogUniform(1e-4, 1e-2), "weight_decay": Uniform(0.0, 0.1)}

    def __init__(self, blocks: Blocks, task: Task, config: BackpropConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        self.classifier = nn.Linear(blocks[-1].out_features, task.n_classes)
        self.optimizer = adamw(trainable(self), config.lr, config.weight_decay)

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        return BlockStyle(norm=config.norm)

    def _rate(self, progress: float) -> float:
        config = self.config
        if config.schedule == "steps":
            return steps_down(progress, config.milestones, config.factor)
        return cosine(progress) if config.schedule == "cosine" else 1.0

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        set_lr(self.optimizer, self.config.lr, self._rate(progress))
        for block in self.blocks:
            h = block(x)
            x = dropout(h, self.config.dropout, self.rng, per_channel=h.dim() == 4)
        loss = F.cross_entropy(self.classifier(x.flatten(1)), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        return self.classifier(self.blocks(x).flatten(1))
