"""CaFo, the cascaded forward algorithm (Zhao et al. 2023, arXiv 2303.09728): random blocks.

    h_l = block_l(h_{l-1})              drawn once and never trained
    z_l = V_l v(h_l),   minimise CE(z_l, y) over V_l alone
    prediction: the class with the largest sum over blocks of softmax(z_l)

v flattens; feature maps are average-pooled first. The problem of each predictor V_l is convex, and
no predictor knows of another. As every block is random, this is the control for what local rules
gain by training theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, adamw, cosine, set_lr, trainable
from methods.blocks import Blocks, BlockStyle, PooledLinear, pool_until
from methods.registry import register

CALIBRATION_BATCH = 256  # images at a time through the blocks, to bound the memory


@dataclass(frozen=True)
class CaFoConfig:
    """Released code where it has a value, else ours."""

    lr: float = 3e-3  # Adam; ours, the released code takes 0.01 with plain gradient descent
    weight_decay: float = 0.0  # released code
    predictor_features: int = 2048  # feature maps are pooled to at most this many values


@register
class CaFo(Method):
    """A linear predictor on each of several random, frozen blocks; their probabilities are added.

    Differs: of the paper's variants this is random blocks with cross-entropy; predictors in closed
        form (mean squared error), sparsemax, and blocks trained by random feedback are not here.
    Differs: predictors are trained together by Adam on mini-batches, where the released code
        takes 5000 steps of gradient descent on the whole training set, one predictor after
        another, from weights that are all 1, and without a bias.
    Differs: feature maps are average-pooled before the predictor, which the paper's are not; and
        normalisation comes before ReLU and pooling, where the paper's blocks normalise last.
    Differs: statistics for normalisation are averages over parts of the training set, where the
        released code takes those of the whole of it, and of the test set for the test.
    """

    name = "cafo"
    label = "CaFo (random blocks)"
    version = 2
    source = "arXiv 2303.09728"
    traits = Traits(local_updates=True, readouts=("sum", "last"))
    Config = CaFoConfig

    def __init__(self, blocks: Blocks, task: Task, config: CaFoConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        self.blocks.requires_grad_(False)
        self.predictors = nn.ModuleList(
            PooledLinear(block, task.n_classes, config.predictor_features) for block in blocks
        )
        self.optimizer = adamw(trainable(self.predictors), config.lr, config.weight_decay)

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        return BlockStyle(norm="batch")

    @torch.no_grad()
    def start(self, x: Tensor, y: Tensor) -> None:
        """Gives batch normalisation the statistics of the training images, once and for all."""
        for part in self.blocks.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.reset_running_stats()
                part.momentum = None  # plain averages over all it is shown
        self.blocks.train()
        for images in x.tensor_split(max(1, len(x) // CALIBRATION_BATCH)):
            self.blocks(images)
        self.blocks.eval()

    def train(self, mode: bool = True) -> CaFo:
        """Training mode, in which the blocks stand still all the same."""
        super().train(mode)
        self.blocks.eval()
        return self

    def frozen(self, x: Tensor, phase: str) -> Tensor:
        """What the predictors see of all blocks, side by side, (B, sum of their inputs)."""
        seen = []
        for block in self.blocks:
            x = block(x)
            seen.append(pool_until(x, self.config.predictor_features).flatten(1))
        return torch.cat(seen, dim=1)

    def _scores(self, seen: Tensor) -> list[Tensor]:
        """Of each predictor, (B, C), from the output of `frozen`."""
        parts = seen.split([p.linear.in_features for p in self._predictors()], dim=1)
        return [p(part) for p, part in zip(self._predictors(), parts, strict=True)]

    def _predictors(self) -> list[PooledLinear]:
        return [cast(PooledLinear, predictor) for predictor in self.predictors]

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        set_lr(self.optimizer, self.config.lr, cosine(progress))
        losses = torch.stack([F.cross_entropy(z, y) for z in self._scores(x)])
        self.optimizer.zero_grad()
        losses.sum().backward()  # no two predictors share a parameter
        self.optimizer.step()
        return {"loss": losses.detach().mean()}

    def units(self) -> list[nn.Module]:
        return list(self.predictors)

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        scores = self._scores(self.frozen(x, "all"))
        if readout == "last":
            return scores[-1]
        # the logarithm of the mean probability, so that the loss of these scores means something
        chances = torch.stack([F.log_softmax(z, dim=1) for z in scores])
        return torch.logsumexp(chances, dim=0) - math.log(len(scores))
