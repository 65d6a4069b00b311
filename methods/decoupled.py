"""Decoupled greedy learning, DGL (Belilovsky et al. 2020, arXiv 1901.08164).

    h_j = module_j(sg[h_{j-1}]),   minimise  CE(A_j(h_j), y)  over module j and A_j

All modules are updated on every mini-batch. A_j of the kind "mlp-sr" works at reduced resolution:

    A_j = linear ∘ 3 times [linear, BN, ReLU] ∘ average-pool to 2x2
          ∘ 3 times [conv1x1, BN, ReLU] ∘ average-pool to a quarter of the resolution

Prediction: A_J(h_J), where A_J has no convolutions and 2 hidden layers.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, set_lr, steps_down, trainable
from methods.blocks import Block, Blocks, BlockStyle, pool_to
from methods.registry import register
from methods.space import LogUniform

AuxKind = Literal["mlp-sr", "mlp", "cnn"]


@dataclass(frozen=True)
class DecoupledConfig:
    """Defaults of the released code's study of auxiliary networks on CIFAR-10."""

    aux: AuxKind = "mlp-sr"  # "mlp": no convolutions, "cnn": two of 3x3 and a linear map
    modules: int = 0  # K; 0 for one per block
    lr: float = 0.1  # SGD
    momentum: float = 0.9
    weight_decay: float = 5e-4
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)  # epochs 15, 30, 45 of 50; times 0.2


def auxiliary_net(block: Block, n_classes: int, kind: AuxKind, last: bool) -> nn.Sequential:
    """A_j: class scores, (B, C), from the activities, (B, *out_shape), of a module's last block.

    Differs: behind a dense block it is the multilayer perceptron alone, as wide as the block, so
        that it has several times the block's own parameters; the paper has convolutional networks
        only, and auxiliary networks of about 5 % of the work.
    Differs: windows of pooling do not overlap; those of the released code do where the map's side
        is no multiple.
    """
    layers: list[nn.Module] = []
    shape = block.out_shape
    maps = len(shape) == 3
    if maps and not last and kind == "mlp-sr":
        pool, shape = pool_to(shape, max(2, math.ceil(max(shape[1:]) / 4)))
        layers += [pool, *_convolutions(shape[0], kernel=1, n=3)]
    elif maps and not last and kind == "cnn":
        layers += _convolutions(shape[0], kernel=3, n=2)
    if maps:
        pool, shape = pool_to(shape, 2)
        layers.append(pool)
    features = math.prod(shape)
    if maps and not last and kind == "cnn":
        layers += [nn.BatchNorm2d(shape[0]), nn.Flatten()]
    else:
        layers.append(nn.Flatten())
        for _ in range(2 if last else 3):
            layers += [nn.Linear(features, features), nn.BatchNorm1d(features), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(features, n_classes))


def _convolutions(channels: int, kernel: int, n: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for _ in range(n):
        conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
    return layers


@register
class Decoupled(Method):
    """Modules with auxiliary networks, all updated on every mini-batch, detached from each other.

    Modules run one after the other here; in parallel, they would make the same updates.
    """

    name = "decoupled"
    label = "Decoupled (DGL)"
    version = 1
    source = "arXiv 1901.08164"
    traits = Traits(local_updates=True)
    Config = DecoupledConfig
    space: ClassVar = {"lr": LogUniform(0.01, 1.0), "weight_decay": LogUniform(5e-5, 5e-3)}

    def __init__(self, blocks: Blocks, task: Task, config: DecoupledConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        ends = [unit[-1] for unit in self.units()]
        for j, block in enumerate(ends[:-1]):
            self.aux[f"net_{j}"] = auxiliary_net(block, task.n_classes, config.aux, last=False)
        self.head = auxiliary_net(ends[-1], task.n_classes, config.aux, last=True)
        # Modules share no parameter and SGD treats each entry alone: one optimizer makes the same
        # updates as one per module.
        self.optimizer = torch.optim.SGD(
            trainable(self),
            config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            fused=True,
        )

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        return BlockStyle(norm="batch")

    @classmethod
    def refuse(cls, blocks: Blocks, task: Task, config: Any) -> str | None:
        if config.modules > len(blocks):
            return f"{config.modules} modules are asked for, and it has {len(blocks)} blocks"
        return None

    def units(self) -> list[Blocks]:  # type: ignore[override]
        """The modules: consecutive blocks, as equal in number as can be."""
        blocks = list(self.blocks)
        k = self.config.modules or len(blocks)
        bounds = [j * len(blocks) // k for j in range(k + 1)]
        return [Blocks(blocks[a:b]) for a, b in itertools.pairwise(bounds)]

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        set_lr(self.optimizer, self.config.lr, steps_down(progress, self.config.milestones, 0.2))
        self.optimizer.zero_grad()
        nets = [*self.aux.values(), self.head]
        losses = []
        for unit, net in zip(self.units(), nets, strict=True):
            h = unit(x)
            loss = F.cross_entropy(net(h), y)
            loss.backward()  # frees this module's graph before the next one is built
            losses.append(loss.detach())
            x = h.detach()
        self.optimizer.step()
        return {"loss": losses[-1], "local_loss": torch.stack(losses).mean()}

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        return self.head(self.blocks(x))
