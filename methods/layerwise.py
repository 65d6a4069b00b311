"""Greedy layerwise learning (Belilovsky et al. 2019, arXiv 1812.11446) with k = 1, 2, 3.

    h_j = block_j(sg[h_{j-1}])
    z_j = C_j(h_j) = linear ∘ BN ∘ average-pool to 2x2 ∘ (k − 1) times [conv3x3, BN, ReLU]
    phase j: minimise  CE(z_j, y)  over block j and C_j; all blocks before j stand still

Each phase solves a problem with k hidden layers, of which the block is one; C_j has the other
k − 1; with k = 1 there is no batch norm (BN).

    prediction:  z_J, or the ensemble  Z = sum_j 2^j z_j / sum_j 2^j
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, set_lr, steps_down, trainable
from methods.blocks import Block, Blocks, BlockStyle, pool_to
from methods.registry import register
from methods.space import LogUniform


@dataclass(frozen=True)
class LayerwiseConfig:
    """Defaults of the paper for CIFAR-10 (section 4; released code, cifar.py)."""

    k: int = 3  # hidden layers of each phase's problem, the block included
    # channels, or units, of the hidden layers of C_1; those of C_j grow as the blocks' own do
    aux_width: int = 128
    lr: float = 0.1  # SGD
    dense_factor: float = 0.2  # ours, of the rate, for dense blocks behind convolutions if k = 1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    # epochs 15, 30, 45 of the 50 that each layer gets; times 0.2
    milestones: tuple[float, ...] = (0.3, 0.6, 0.9)


def auxiliary_net(block: Block, n_classes: int, k: int, width: int) -> nn.Sequential:
    """C_j: class scores, (B, C), from a block's activities, (B, *out_shape).

    Differs: behind a dense block the k − 1 hidden layers are dense ones; the paper has none.
    """
    layers: list[nn.Module] = []
    shape = block.out_shape
    for _ in range(k - 1):
        if len(shape) == 3:
            layers.append(nn.Conv2d(shape[0], width, kernel_size=3, padding=1, bias=False))
            layers.append(nn.BatchNorm2d(width))
        else:
            layers.append(nn.Linear(shape[0], width, bias=False))
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        shape = (width, *shape[1:])
    if len(shape) == 3:
        pool, shape = pool_to(shape, 2)
        layers.append(pool)
        if k > 1:
            layers.append(nn.BatchNorm2d(width))  # as in the released code
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(math.prod(shape), n_classes))


@register
class Layerwise(Method):
    """Blocks trained to completion one after the other, each with an auxiliary network.

    Differs: the budget of training steps is split equally between the blocks, where the paper
        gives every layer 50 epochs of its own.
    Differs: with k = 1, which has no batch norm, dense blocks behind convolutions are trained at a
        fifth of the rate, since nearly all their units die at 0.1; the paper has no dense blocks.
    Differs: with k = 1 convolutions have biases, and residual units keep their batch norm; in the
        released code only the first convolution has a bias, and the paper has no residual units.
    Differs: momentum carries on where the learning rate steps down; the released code starts it
        anew there.
    """

    name = "layerwise"
    label = "Layerwise"
    version = 3
    source = "arXiv 1812.11446"
    traits = Traits(local_updates=True, readouts=("last", "ensemble"))
    Config = LayerwiseConfig
    space: ClassVar = {"lr": LogUniform(0.01, 1.0), "weight_decay": LogUniform(5e-5, 5e-3)}
    variants: ClassVar = {"k1": {"k": 1}, "k2": {"k": 2}, "k3": {"k": 3}}

    def __init__(self, blocks: Blocks, task: Task, config: LayerwiseConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        nets = []
        for block in blocks:
            # the released code doubles both at each downsampling
            first = next(b.out_shape[0] for b in blocks if len(b.out_shape) == len(block.out_shape))
            width = config.aux_width * block.out_shape[0] // first
            nets.append(auxiliary_net(block, task.n_classes, config.k, width))
        self.head = nets[-1]
        # needed in training, and by the readout `ensemble`
        self.aux.update({f"net_{j}": net for j, net in enumerate(nets[:-1])})
        mixed = config.k == 1 and blocks.kinds != {"dense"}
        self.rates = [
            config.lr * (config.dense_factor if mixed and block.kind == "dense" else 1.0)
            for block in blocks
        ]
        self.optimizers = [
            torch.optim.SGD(
                trainable(block, net),
                rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                fused=True,
            )
            for block, net, rate in zip(blocks, nets, self.rates, strict=True)
        ]
        # The last block trained so far. A number on the host: reading a buffer would wait for the
        # device at each prediction.
        self.deepest = 0

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        return BlockStyle(norm="none" if config.k == 1 else "batch")

    def _auxiliary(self, j: int) -> nn.Module:
        return self.head if j == len(self.blocks) - 1 else self.aux[f"net_{j}"]

    # ------------------------------------------------------------------- training

    def phases(self, steps: int) -> list[tuple[str, int]]:
        n = len(self.blocks)
        # step i belongs to phase floor(i n / steps), so that progress alone tells how far it is
        begins = [math.ceil(j * steps / n) for j in range(n + 1)]
        return [(f"block_{j}", begins[j + 1] - begins[j]) for j in range(n)]

    @torch.no_grad()
    def frozen(self, x: Tensor, phase: str) -> Tensor:
        for block in list(self.blocks)[: _number(phase)]:
            x = block.eval()(x)  # statistics of batch norm stand still, too
        return x

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        self.deepest = j = _number(phase)
        optimizer = self.optimizers[j]
        # share of this phase; a milestone that a step falls on is reached, whatever the rounding
        done = progress * len(self.blocks) - j + 1e-9
        set_lr(optimizer, self.rates[j], steps_down(done, self.config.milestones, 0.2))
        optimizer.zero_grad()
        loss = F.cross_entropy(self._auxiliary(j)(self.blocks[j](x)), y)
        loss.backward()
        optimizer.step()
        return {"loss": loss.detach()}

    # ----------------------------------------------------------------- prediction

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        scores = x.new_zeros(())
        for j in range(self.deepest + 1):
            x = self.blocks[j](x)
            if readout == "ensemble":
                scores = scores + 2**j * self._auxiliary(j)(x)
        if readout == "ensemble":
            return scores / (2 ** (self.deepest + 1) - 1)
        return self._auxiliary(self.deepest)(x)

    # ---------------------------------------------------------------------- state

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "deepest": self.deepest}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.deepest = state["deepest"]
        super().set_extra_state({k: v for k, v in state.items() if k != "deepest"})


def _number(phase: str) -> int:
    """Index of the block that a phase trains."""
    return int(phase.removeprefix("block_"))
