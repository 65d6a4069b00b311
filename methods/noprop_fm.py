"""NoProp-FM (Li, Teh & Pascanu 2025, arXiv 2503.24322): flow matching from noise to the label.

One network for all t in [0, 1] learns the velocity of straight lines, z_1 = u_y = W_y.

    training (Alg. 3):  z_0 ~ N(0, 1),   t ~ U(0, 1),   z_t ~ N( t z_1 + (1 − t) z_0, σ² )
                        L = | v(z_t, x, t) − (z_1 − z_0) |²,   v = logits W, no softmax
                        W trained:  + CE(linear(z̃_1), y),   z̃_1 = z_t + (1 − t) v
    prediction:         K Euler steps on dz/dt = v from z_0 ~ N(0, 1); the class whose embedding is
                        nearest: logits_c = −|z − W_c|²

The added term anchors a trained W, which would else shrink to one point; it trains the network too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, trainable
from methods.blocks import Blocks, BlockStyle
from methods.denoising import (
    ClassEmbedding,
    ContinuousNet,
    Embedding,
    gaussian,
    too_deep_without_norm,
    uniform,
)
from methods.registry import register
from methods.space import LogUniform, Uniform


@dataclass(frozen=True)
class NoPropFMConfig:
    """Defaults from the paper's Table 3 and Figure 6, unless marked otherwise."""

    embedding: Embedding = "one-hot"
    sampling_steps: int = 1000  # K
    sigma: float = 1e-3  # inferred; the paper gives no value
    lr: float = 1e-3  # Adam, constant
    weight_decay: float = 1e-3  # as Adam has it: part of the gradient
    dropout: float = 0.2  # in the image encoder, behind each convolution and its pooling


@register
class NoPropFM(Method):
    """One network that learns the flow from noise to the label; back-propagation through all of it.

    Differs: σ and the frequencies of the embedding of t are inferred: the paper leaves them open.
    Differs: the image encoder is the architecture under test, and `cnn-small` is the paper's.
        Encoders that do not end in a dense layer behind convolutions get one of 256; residual
        networks keep their batch norm, which the paper's network in continuous time lacks.
    """

    name = "noprop-fm"
    label = "NoProp-FM"
    version = 1
    source = "arXiv 2503.24322"
    # no block has a loss of its own: one loss behind one network
    traits = Traits(local_updates=False, readouts=("sampled",), sampled=("sampled",))
    Config = NoPropFMConfig
    space: ClassVar = {
        "lr": LogUniform(1e-4, 1e-2),
        "weight_decay": LogUniform(1e-4, 1e-2),  # paper: 1e-3
        "dropout": Uniform(0.0, 0.4),  # paper: 0.2
    }

    def __init__(self, blocks: Blocks, task: Task, config: NoPropFMConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        self.embedding = ClassEmbedding(config.embedding, task)
        self.net = ContinuousNet(blocks, self.embedding, task, config.dropout, rng)
        if self.embedding.trained:
            self.aux["anchor"] = nn.Linear(self.embedding.size, task.n_classes)
        self.optimizer = torch.optim.Adam(
            trainable(self), config.lr, weight_decay=config.weight_decay, fused=True
        )

    @classmethod
    def style(cls, config: NoPropFMConfig) -> BlockStyle:
        return BlockStyle(norm="none")

    @classmethod
    def refuse(cls, blocks: Blocks, task: Task, config: Any) -> str | None:
        return too_deep_without_norm(blocks)

    def start(self, x: Tensor, y: Tensor) -> None:
        self.embedding.start(x, y)

    def velocity(self, z: Tensor, image: Tensor, time: Tensor) -> Tensor:
        """v(z, x, t), (B, d), from the terms of the image and of the time, each (B, 256)."""
        return self.embedding.mix(self.net(z, image, time))

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        end = self.embedding(y)
        start = gaussian(end, self.rng)
        t = uniform(x, self.rng)
        share = t[:, None]
        z = share * end + (1 - share) * start + self.config.sigma * gaussian(end, self.rng)
        v = self.velocity(z, self.net.image_term(x), self.net.time_term(t))
        loss = (v - (end - start)).square().sum(dim=1).mean()
        if self.embedding.trained:
            loss = loss + F.cross_entropy(self.aux["anchor"](z + (1 - share) * v), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def units(self) -> list[nn.Module]:
        return self.net.units()

    def logits(self, x: Tensor, readout: str = "sampled", rng: Generator | None = None) -> Tensor:
        if rng is None:
            raise ValueError("noprop-fm predicts from noise: logits(..., rng=generator)")
        steps = self.config.sampling_steps
        grid = torch.linspace(0, 1, steps + 1, device=x.device, dtype=x.dtype)
        image, times = self.net.image_term(x), self.net.time_term(grid[:-1])
        z = gaussian(x.new_empty((x.shape[0], self.embedding.size)), rng)
        for k in range(steps):
            z = z + self.velocity(z, image, times[k]) / steps
        return -self.embedding.distances(z)

    def eval_passes(self, readout: str) -> int:
        return self.net.passes(self.config.sampling_steps)

    def features(self, x: Tensor) -> list[Tensor]:
        return [self.net.encoder(x)]
