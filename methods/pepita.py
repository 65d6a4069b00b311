"""PEPITA (Dellaferrera & Kreiman 2022, arXiv 2201.11665): a second pass in place of the backward.

    first pass    h_l  = m_l ⊙ φ(W_l h_{l-1}),    h_0 = x,          p  = softmax(V h_L),   e = p − y
    second pass   h'_l = m_l ⊙ φ(W_l h'_{l-1}),   h'_0 = x + F e,   p' = softmax(V h'_L)
    updates       ΔW_l = −η (h_l − h'_l) h'_{l-1}ᵀ,                 ΔV = −η (p' − y) h'_Lᵀ

F is random and fixed, y one-hot, m_l a dropout mask that both passes share. Every update is a
product of the activities on the two sides of a weight; no gradient is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, set_lr, steps_down, trainable
from methods.blocks import Blocks, BlockStyle, dropout
from methods.registry import register
from methods.space import LogUniform, Uniform


@dataclass(frozen=True)
class PepitaConfig:
    """Defaults of the released code (its notebook on fully connected networks)."""

    lr: float = 0.01  # 0.01 on CIFAR-10, 0.1 on MNIST
    momentum: float = 0.9
    milestones: tuple[float, ...] = (0.6, 0.9)  # shares of the budget; times 0.1 at each
    dropout: float = 0.1  # on hidden activities
    feedback_scale: float = 0.05  # F is uniform within this many times sqrt(6 / inputs)


@register
class Pepita(Method):
    """Weights move by the difference between a plain pass and one with the error on the input.

    Differs: inputs are standardised, where the paper scales pixels to [0, 1].
    Differs: one learning rate for all data, where the released code takes 0.1 on MNIST and 0.01 on
        CIFAR; and as many layers as the architecture has, where the paper's networks have one
        hidden layer.
    """

    name = "pepita"
    label = "PEPITA"
    version = 1
    source = "arXiv 2201.11665"
    traits = Traits(
        local_updates=True, feedback="the output error, through a fixed random map to the input"
    )
    Config = PepitaConfig
    space: ClassVar = {
        "lr": LogUniform(1e-3, 0.1),  # released: 0.01 and 0.1
        "feedback_scale": LogUniform(5e-3, 0.5),
        "dropout": Uniform(0.0, 0.3),
    }

    def __init__(self, blocks: Blocks, task: Task, config: PepitaConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        self.output = nn.Linear(blocks[-1].out_features, task.n_classes, bias=False)
        for layer in self._layers():
            layer.register_parameter("bias", None)  # the paper's networks have none
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        inputs = math.prod(task.shape)
        projection = nn.Linear(task.n_classes, inputs, bias=False)  # F
        bound = config.feedback_scale * math.sqrt(6 / inputs)
        nn.init.uniform_(projection.weight, -bound, bound)
        self.aux["projection"] = projection.requires_grad_(False)
        # the rule writes its updates into .grad; the optimizer adds momentum
        self.optimizer = torch.optim.SGD(trainable(self), config.lr, config.momentum, fused=True)

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        return BlockStyle(norm="none")

    @classmethod
    def refuse(cls, blocks: Blocks, task: Task, config: Any) -> str | None:
        if blocks.kinds != {"dense"}:
            return "needs fully connected blocks: the paper's convolutional rule is for one layer"
        return None

    def _layers(self) -> list[nn.Linear]:
        return [*(cast(nn.Linear, block.weights) for block in self.blocks), self.output]

    def _pass(self, x: Tensor, masks: list[Tensor]) -> list[Tensor]:
        """Input, hidden activities and class probabilities."""
        h = [x]
        for block, mask in zip(self.blocks, masks, strict=True):
            h.append(block(h[-1]) * mask)
        return [*h, F.softmax(self.output(h[-1]), dim=1)]

    @torch.no_grad()
    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        config = self.config
        set_lr(self.optimizer, config.lr, steps_down(progress, config.milestones, 0.1))
        x, target = x.flatten(1), F.one_hot(y, self.task.n_classes).to(x.dtype)
        masks = [
            dropout(x.new_ones(len(x), block.out_features), config.dropout, self.rng)
            for block in self.blocks
        ]
        plain = self._pass(x, masks)
        error = plain[-1] - target
        modulated = self._pass(x + self.aux["projection"](error), masks)
        # the output layer moves by its error, the others by the difference of the two passes
        changes = [h - m for h, m in zip(plain[1:-1], modulated[1:-1], strict=True)]
        changes.append(modulated[-1] - target)
        for layer, before, change in zip(self._layers(), modulated[:-1], changes, strict=True):
            layer.weight.grad = (change.T @ before / len(x)).to(layer.weight.dtype)
        self.optimizer.step()
        return {"loss": F.nll_loss(plain[-1].clamp_min(1e-12).log(), y)}

    def units(self) -> list[nn.Module]:
        return [*self.blocks, self.output]

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        return self.output(self.blocks(x))
