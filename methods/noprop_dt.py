"""NoProp-DT (Li, Teh & Pascanu 2025, arXiv 2503.24322): denoising the label in discrete time.

T blocks each learn to denoise the label on their own. z_T is the clean end, z_0 pure noise, and
ᾱ_t grows with t (the reverse of the usual diffusion index). SNR = ᾱ / (1 − ᾱ), u_y = W_y.

    block t:     z_{t-1} ~ N( sqrt(ᾱ_{t-1}) u_y, 1 − ᾱ_{t-1} ),   û_t = softmax(logits_t) W
                 L_t = (T/2) η (SNR(t) − SNR(t−1)) | û_t(z_{t-1}, x) − u_y |²             (Eq. 8)
    classifier:  z_T ~ N( sqrt(ᾱ_T) u_y, 1 − ᾱ_T ),   CE(linear(z_T), y) + KL( q(z_0|y) || N(0, 1) )
    prediction:  z_0 ~ N(0, 1),   z_t = a_t û_t(z_{t-1}, x) + b_t z_{t-1} + sqrt(c_t) ε   (Eq. 3)

Every block has its own copy of the architecture as its image encoder. With one-hot embeddings
blocks share nothing. A trained W is shared: its gradient is the sum of L_t, cross-entropy and KL
(constant here, since ᾱ_0 = 0), and through W each block hears of the others from step to step.
"""

from __future__ import annotations

import math
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
    discrete_blocks,
    gaussian,
    noise_schedule,
    posterior,
    prior_kl,
)
from methods.registry import register
from methods.space import LogUniform, Uniform


@dataclass(frozen=True)
class NoPropConfig:
    """Defaults from the paper's Table 3 and Figure 6, unless marked otherwise."""

    embedding: Embedding = "one-hot"  # the one that keeps blocks independent of each other
    steps: int = 10  # T
    eta: float = 0.1
    lr: float = 1e-3  # AdamW, constant
    weight_decay: float = 1e-3
    dropout: float = 0.2  # in the image encoder, behind each convolution and its pooling
    schedule_offset: float = 0.008  # s; inferred, the paper gives no formula
    max_alpha: float = 0.999  # inferred; the last block has 96.5 % of all weight, else 99.5 %


@register
class NoPropDT(Method):
    """Blocks that denoise the label independently; back-propagation inside each block only.

    Differs: all blocks are trained on every mini-batch, where the paper loops over t outside the
        mini-batches. With one-hot embeddings blocks share nothing, so each block's update rule is
        unchanged; trained embeddings move in another order, since here every block sees them after
        a T-th of the updates that the paper's later blocks see. Classifier and embeddings are
        updated T times per mini-batch, as often as in the paper.
    Differs: the paper names a cosine schedule without its formula; offset and clip are inferred.
    Differs: the image encoder is the architecture under test, and `cnn-small` is the paper's. As
        there, the last dense layer of a convolutional encoder has no activation; other encoders
        get a linear layer of 256 behind them.
    Differs: no batch norm inside the encoder of convolutional architectures, as in the paper.
    """

    name = "noprop"
    label = "NoProp-DT"
    version = 2
    source = "arXiv 2503.24322"
    traits = Traits(local_updates=True, readouts=("sampled", "mean"), sampled=("sampled",))
    Config = NoPropConfig
    space: ClassVar = {
        "lr": LogUniform(1e-4, 1e-2),
        "weight_decay": LogUniform(1e-4, 1e-2),  # paper: 1e-3
        # as its control has; η cancels under Adam, where embeddings are not trained
        "dropout": Uniform(0.0, 0.4),  # paper: 0.2; without convolutions it is nowhere
    }

    def __init__(self, blocks: Blocks, task: Task, config: NoPropConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        self.embedding = ClassEmbedding(config.embedding, task)
        self.denoisers = discrete_blocks(
            config.steps, blocks, self.embedding, task, config.dropout, rng
        )
        self.classifier = nn.Linear(self.embedding.size, task.n_classes)
        self.bars = noise_schedule(config.steps, config.schedule_offset, config.max_alpha)
        # Blocks share no parameter and AdamW treats each entry alone: one fused optimizer makes
        # the same updates as one per block.
        self.optimizer = adamw(trainable(self.denoisers), config.lr, config.weight_decay)
        self.shared_optimizer = adamw(
            trainable(self.classifier, self.embedding), config.lr, config.weight_decay
        )

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        return BlockStyle(norm="none")

    @classmethod
    def refuse(cls, blocks: Blocks, task: Task, config: Any) -> str | None:
        if "residual" in blocks.kinds:
            return (
                f"every one of its {config.steps} denoising blocks needs an image encoder of its "
                "own: as many residual networks, where the paper uses small convolutional ones"
            )
        return None

    def start(self, x: Tensor, y: Tensor) -> None:
        self.embedding.start(x, y)

    # ------------------------------------------------------------------------ training

    def _noised(self, u: Tensor, t: int) -> Tensor:
        """z_t ~ q(z_t | y) = N( sqrt(ᾱ_t) u_y, 1 − ᾱ_t ), (B, d)."""
        bar = self.bars[t]
        return math.sqrt(bar) * u + math.sqrt(1 - bar) * gaussian(u, self.rng)

    def block_weight(self, t: int) -> float:
        """(T/2) η (SNR(t) − SNR(t−1)), at least 0."""
        snr = [bar / (1 - bar) for bar in (self.bars[t - 1], self.bars[t])]
        return 0.5 * self.config.steps * self.config.eta * (snr[1] - snr[0])

    def block_error(self, t: int, x: Tensor, y: Tensor) -> Tensor:
        """| û_t(z_{t-1}, x) − u_y |², mean over the batch: a sum over dimensions, not a mean."""
        u = self.embedding(y)
        logits = self.denoisers[t - 1](self._noised(u, t - 1), x)
        estimate = self.embedding.mix(logits.softmax(dim=1))
        return (estimate - u).square().sum(dim=1).mean()

    def shared_loss(self, y: Tensor) -> Tensor:
        """Cross-entropy on z_T plus KL( q(z_0|y) || N(0, 1) ): what no block takes part in."""
        u = self.embedding(y)
        loss = F.cross_entropy(self.classifier(self._noised(u, self.config.steps)), y)
        if self.embedding.trained:
            loss = loss + prior_kl(u, u.new_tensor(self.bars[0]), u.new_tensor(1 - self.bars[0]))
        return loss

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        total = x.new_zeros(())
        for t in range(1, self.config.steps + 1):
            self.shared_optimizer.zero_grad()
            error, shared = self.block_error(t, x, y), self.shared_loss(y)
            (self.block_weight(t) * error + shared).backward()
            self.shared_optimizer.step()
            total += error.detach()
        self.optimizer.step()
        return {"loss": total / self.config.steps, "classifier_loss": shared.detach()}

    def units(self) -> list[nn.Module]:
        return [*self.denoisers, self.classifier]

    # ---------------------------------------------------------------------- prediction

    def logits(self, x: Tensor, readout: str = "sampled", rng: Generator | None = None) -> Tensor:
        """`sampled`: noise at every step, from rng. `mean`: z_0 = 0 and ε = 0, no noise at all."""
        sampled = readout == "sampled"
        if sampled and rng is None:
            raise ValueError("noprop predicts by sampling: logits(..., rng=generator)")
        z = x.new_zeros((x.shape[0], self.embedding.size))
        if sampled:
            z = gaussian(z, rng)
        steps = torch.stack(posterior(torch.tensor(self.bars, dtype=torch.float64)), dim=1).tolist()
        for block, (a, b, c) in zip(self.denoisers, steps, strict=True):
            z = a * self.embedding.mix(block(z, x).softmax(dim=1)) + b * z
            if sampled:
                z = z + math.sqrt(c) * gaussian(z, rng)
        return self.classifier(z)

    def eval_passes(self, readout: str) -> int:
        return sum(cast(DiscreteBlock, block).passes for block in self.denoisers)

    def features(self, x: Tensor) -> list[Tensor]:
        return [cast(DiscreteBlock, block).encoder(x) for block in self.denoisers]
