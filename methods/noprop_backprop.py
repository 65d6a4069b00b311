"""NoProp's control (Li, Teh & Pascanu 2025, arXiv 2503.24322): its blocks, trained end to end.

    z_0 ~ N(0, 1),   z_t = (1 − w̃_t) z_{t-1} + w̃_t û_t(z_{t-1}, x),   w̃_t = tanh(w_t)  (Eqs. 17–19)
    minimise  CE(linear(z_T), y)  over all blocks, all w_t, the classifier and W, where W is trained

û_t = softmax(logits_t) W. The blocks are those of NoProp in discrete time, and each sees the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, adamw, trainable
from methods.blocks import Blocks, BlockStyle
from methods.denoising import (
    ClassEmbedding,
    DiscreteBlock,
    Embedding,
    align,
    discrete_blocks,
    gaussian,
)
from methods.registry import register
from methods.space import LogUniform, Uniform


@dataclass(frozen=True)
class NoPropBackpropConfig:
    """Defaults from the paper's Table 3 and Figure 6, unless marked otherwise."""

    embedding: Embedding = "one-hot"
    steps: int = 10  # T
    lr: float = 1e-3  # AdamW, constant
    weight_decay: float = 1e-3
    dropout: float = 0.2  # in the image encoder, behind each convolution and its pooling
    mixing: float = 0.5  # w_t at the start; inferred, about halves z_{t-1} in each step


@register
class NoPropBackprop(Method):
    """The blocks of NoProp-DT and their image skips under one cross-entropy, trained end to end.

    Differs: the paper does not say from which value w_t starts; 0.5 is inferred.
    Differs: the classifier starts with the class embeddings, at length 1, as its weights. From a
        random start, which the paper does not rule out, several classes share one embedding until
        the classifier has moved far: short budgets would show that, and not the blocks.
    Differs: the image encoder is the architecture under test, and `cnn-small` is the paper's. As
        there, the last dense layer of a convolutional encoder has no activation; other encoders
        get a linear layer of 256 behind them.
    Differs: no batch norm inside the encoder of convolutional architectures, as in the paper.
    """

    name = "noprop-backprop"
    label = "Backprop (NoProp's blocks)"
    version = 1
    source = "arXiv 2503.24322"
    traits = Traits(local_updates=False, readouts=("sampled", "mean"), sampled=("sampled",))
    Config = NoPropBackpropConfig
    space: ClassVar = {
        "lr": LogUniform(1e-4, 1e-2),
        "weight_decay": LogUniform(1e-4, 1e-2),  # paper: 1e-3
        "dropout": Uniform(0.0, 0.4),  # paper: 0.2
    }

    def __init__(
        self, blocks: Blocks, task: Task, config: NoPropBackpropConfig, rng: Generator
    ) -> None:
        super().__init__(blocks, task, config, rng)
        self.embedding = ClassEmbedding(config.embedding, task)
        self.denoisers = discrete_blocks(
            config.steps, blocks, self.embedding, task, config.dropout, rng
        )
        self.mixing = nn.Parameter(torch.full((config.steps,), config.mixing))
        self.classifier = nn.Linear(self.embedding.size, task.n_classes)
        align(self.classifier, self.embedding)
        self.optimizer = adamw(trainable(self), config.lr, config.weight_decay)

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        return BlockStyle(norm="none")

    @classmethod
    def refuse(cls, blocks: Blocks, task: Task, config: Any) -> str | None:
        if "residual" in blocks.kinds:
            return "it is a control for NoProp-DT, which needs small image encoders"
        return None

    def start(self, x: Tensor, y: Tensor) -> None:
        self.embedding.start(x, y)
        align(self.classifier, self.embedding)

    def _scores(self, z: Tensor, x: Tensor) -> Tensor:
        for block, w in zip(self.denoisers, self.mixing.tanh(), strict=True):
            estimate = self.embedding.mix(block(z, x).softmax(dim=1))
            z = (1 - w) * z + w * estimate
        return self.classifier(z)

    def _origin(self, x: Tensor) -> Tensor:
        return x.new_zeros((x.shape[0], self.embedding.size))

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        loss = F.cross_entropy(self._scores(gaussian(self._origin(x), self.rng), x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def units(self) -> list[nn.Module]:
        return [*self.denoisers, self.classifier]

    def logits(self, x: Tensor, readout: str = "sampled", rng: Generator | None = None) -> Tensor:
        """`sampled`: z_0 from rng. `mean`: z_0 = 0."""
        z = self._origin(x)
        if readout == "sampled":
            if rng is None:
                raise ValueError("noprop-backprop starts from noise: logits(..., rng=generator)")
            z = gaussian(z, rng)
        return self._scores(z, x)

    def eval_passes(self, readout: str) -> int:
        return sum(cast(DiscreteBlock, block).passes for block in self.denoisers)

    def features(self, x: Tensor) -> list[Tensor]:
        return [cast(DiscreteBlock, block).encoder(x) for block in self.denoisers]
