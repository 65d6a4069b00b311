"""HFF: Hyperspherical Forward-Forward with prototypical representations (arXiv 2605.00082).

Every block solves a C-way classification on the unit sphere, against its own learned prototypes:

    h_l   = block_l(N(sg[h_{l-1}]))                       N: length normalisation between blocks
    z_l   = e_l(h_l) / |e_l(h_l)|                         e_l: flatten, or pooling + 1x1 AuxConv
    s_lc  = (1/beta) log sum_k exp(beta <z_l, p_lck>)     p_lck: unit-norm prototypes, K a class
    L_l   = CE(scale (s_l - m onehot(y)), y)              m: additive margin on the true class

For m = 0 this loss equals softplus(LSE_{j≠y} scale s_lj − scale s_ly). One pass predicts: the
class of the nearest prototypes in the last block, or by the sum of the blocks' scores.

The paper's method section was not available when this was written. The objective in words is the
paper's; its exact form below, and every default, is an inference and is marked so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, adamw, cosine, set_lr, trainable
from methods.blocks import Block, Blocks, pool_until, pooled_shape, rms_norm
from methods.registry import register


@dataclass(frozen=True)
class HFFConfig:
    """All defaults are inferred: the paper's values are not public in readable form."""

    prototypes: int = 2  # K per class; hand-set in the paper, value unknown
    scale: float = 16.0  # of the cosines; below about 6 (C = 10) the loss cannot approach 0
    beta: float = 16.0  # sharpness of the pooling over the K prototypes of a class
    margin: float = 0.1  # in cosine units; usual range of additive margins 0 to 0.35
    between: Literal["rms", "none"] = "rms"  # what a block's input is divided by
    aux_channels: int = 128  # output channels of AuxConv
    aux_positions: int = 16  # feature maps are pooled to at most this many positions before it
    lr: float = 1e-3
    weight_decay: float = 1e-4


class PrototypeHead(nn.Module):
    """Class scores of one block: embedding on the unit sphere against unit-norm prototypes.

    Differs: AuxConv acts after average pooling, not before. Both are linear, so the order does
        not change the result, but it is as many times cheaper as pixels are pooled.
    """

    def __init__(self, block: Block, n_classes: int, config: HFFConfig) -> None:
        super().__init__()
        self.beta = config.beta
        self.max_values = 0
        self.aux_conv: nn.Module = nn.Identity()
        dim = block.out_features
        if len(block.out_shape) == 3:
            channels = block.out_shape[0]
            self.max_values = channels * config.aux_positions
            self.aux_conv = nn.Conv2d(channels, config.aux_channels, kernel_size=1)
            _, height, width = pooled_shape(block.out_shape, self.max_values)
            dim = config.aux_channels * height * width
        # Gaussian directions are uniform on the sphere; the length is divided out in use.
        self.prototypes = nn.Parameter(torch.randn(n_classes, config.prototypes, dim))
        with torch.no_grad():
            self.prototypes.copy_(F.normalize(self.prototypes, dim=2))

    def forward(self, h: Tensor) -> Tensor:
        """Scores in cosine units, (B, C), from the block's activities, (B, *out_shape)."""
        if self.max_values:
            h = self.aux_conv(pool_until(h, self.max_values))
        z = F.normalize(h.flatten(1), dim=1)
        n_classes, k, dim = self.prototypes.shape
        directions = F.normalize(self.prototypes, dim=2)
        cosines = (z @ directions.reshape(n_classes * k, dim).T).view(-1, n_classes, k)
        if k == 1:
            return cosines.squeeze(2)
        # minus log K, so that K equal prototypes score exactly as one of them would
        return (torch.logsumexp(self.beta * cosines, dim=2) - math.log(k)) / self.beta


@register
class HFF(Method):
    """Learned unit-norm prototypes, margin cross-entropy per block, detached blocks.

    Differs: the form of the margin loss (softmax cross-entropy with an additive margin) is
        inferred; the paper names a smooth margin loss and log-sum-exp matching.
    Differs: K, scale, margin, optimizer and schedule are ours; the paper's are unknown.
    Differs: activities are divided by their root mean square between blocks; unknown in the paper.
    """

    name = "hff"
    label = "HFF"
    version = 1
    source = "arXiv 2605.00082"
    traits = Traits(local_updates=True, readouts=("last", "sum", "sum_except_first"))
    Config = HFFConfig

    def __init__(self, blocks: Blocks, task: Task, config: HFFConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        heads = [PrototypeHead(block, task.n_classes, config) for block in blocks]
        self.head = heads[-1]
        # the headline readout needs only the last
        self.aux.update({f"head_{l}": head for l, head in enumerate(heads[:-1])})
        self.optimizer = adamw(trainable(self), config.lr, config.weight_decay)

    def _head(self, l: int) -> nn.Module:
        return self.head if l == len(self.blocks) - 1 else self.aux[f"head_{l}"]

    def _between(self, h: Tensor) -> Tensor:
        return rms_norm(h) if self.config.between == "rms" else h

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        set_lr(self.optimizer, self.config.lr, cosine(progress))
        self.optimizer.zero_grad()
        margin = self.config.margin * F.one_hot(y, self.task.n_classes)
        total = x.new_zeros(())
        for l, block in enumerate(self.blocks):
            h = block(x)
            scores = self._head(l)(h)
            loss = F.cross_entropy(self.config.scale * (scores - margin), y)
            loss.backward()  # frees this block's graph before the next one is built
            total += loss.detach()
            x = self._between(h.detach())
        self.optimizer.step()
        return {"loss": total / len(self.blocks)}

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        last = len(self.blocks) - 1
        first = {"last": last, "sum": 0, "sum_except_first": min(1, last)}[readout]
        scores = x.new_zeros(())
        for l, block in enumerate(self.blocks):
            h = block(x)
            if l >= first:
                scores = scores + self._head(l)(h)
            x = self._between(h)
        return self.config.scale * scores

    def features(self, x: Tensor) -> list[Tensor]:
        activities = []
        for block in self.blocks:
            h = block(x)
            activities.append(h.flatten(1))
            x = self._between(h)
        return activities
