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
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, adamw, cosine, set_lr, trainable
from methods.blocks import Blocks, BlockStyle, PooledLinear, pool_until
from methods.registry import register
from methods.space import LogUniform, Uniform

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
        takes 5000 steps of gradient descent on the whole training set at a constant rate, one
        predictor after another, from weights that are all 1, and without a bias.
    Differs: blocks are the architecture's, fully connected ones too; the paper's networks have
        three convolutional blocks.
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
    space: ClassVar = {
        "lr": LogUniform(3e-4, 3e-2),
        "weight_decay": Uniform(0.0, 0.1),  # of AdamW: below 1e-3 it is next to nothing
    }

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

    def _seen_by(self, seen: Tensor) -> list[tuple[nn.Linear, Tensor]]:
        """Each predictor with its part, (B, D_l), of the output of `frozen`."""
        readers = [cast(PooledLinear, predictor).linear for predictor in self.predictors]
        parts = seen.split([reader.in_features for reader in readers], dim=1)
        return list(zip(readers, parts, strict=True))

    @torch.no_grad()
    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        """Gradients in closed form, dCE/dz = (softmax(z) − onehot(y)) / B, dV = dzᵀ v."""
        set_lr(self.optimizer, self.config.lr, cosine(progress))
        losses = []
        for reader, part in self._seen_by(x):
            exact = reader.weight.dtype  # products may come in less
            chances = F.log_softmax(reader(part).to(exact), dim=1)
            losses.append(F.nll_loss(chances, y))
            gradient = chances.exp_()
            gradient.scatter_add_(1, y[:, None], gradient.new_full((len(y), 1), -1.0)).div_(len(y))
            reader.weight.grad = (gradient.T @ part).to(exact)
            reader.bias.grad = gradient.sum(dim=0)
        self.optimizer.step()
        return {"loss": torch.stack(losses).mean()}

    def units(self) -> list[nn.Module]:
        return list(self.predictors)

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        scores = [reader(part) for reader, part in self._seen_by(self.frozen(x, "all"))]
        if readout == "last":
            return scores[-1]
        # the logarithm of the mean probability, so that the loss of these scores means something
        chances = torch.stack([F.log_softmax(z, dim=1) for z in scores])
        return torch.logsumexp(chances, dim=0) - math.log(len(scores))
