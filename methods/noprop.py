"""NoProp-DT with one-hot embeddings (Li, Teh & Pascanu 2025, arXiv 2503.24322).

T blocks each learn to denoise the label on their own. z_T is the clean end, z_0 pure noise, and
ᾱ_t grows with t (the reverse of the usual diffusion index). u_y = onehot(y), SNR = ᾱ / (1 − ᾱ).

    training, block t:   z_{t-1} ~ N( sqrt(ᾱ_{t-1}) u_y, 1 − ᾱ_{t-1} )
                         L_t = (T/2) η (SNR(t) − SNR(t−1)) | û_t(z_{t-1}, x) − u_y |²       (Eq. 8)
    classifier:          z_T ~ N( sqrt(ᾱ_T) u_y, 1 − ᾱ_T ),   CE(linear(z_T), y)
    prediction (Eq. 3):  z_0 ~ N(0, 1),   z_t = a_t û_t(z_{t-1}, x) + b_t z_{t-1} + sqrt(c_t) ε
                         a_t = sqrt(ᾱ_t) (1 − α_{t-1}) / (1 − ᾱ_{t-1}),   α_{t-1} = ᾱ_{t-1} / ᾱ_t
                         b_t = sqrt(α_{t-1}) (1 − ᾱ_t) / (1 − ᾱ_{t-1})
                         c_t = (1 − ᾱ_t) (1 − α_{t-1}) / (1 − ᾱ_{t-1})

û_t = softmax(logits_t): with one-hot embeddings the convex combination is the probability vector.
Every block has its own copy of the architecture as its image encoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, adamw, trainable
from methods.blocks import Blocks, BlockStyle, dropout, fresh_copy
from methods.registry import register


@dataclass(frozen=True)
class NoPropConfig:
    """Defaults from the paper's Table 3 and Figure 6, unless marked otherwise."""

    steps: int = 10  # T
    eta: float = 0.1
    lr: float = 1e-3  # AdamW, constant
    weight_decay: float = 1e-3
    dropout: float = 0.2  # in the image encoder, behind each convolution and its pooling
    schedule_offset: float = 0.008  # s; inferred, the paper gives no formula
    max_alpha: float = 0.999  # inferred; unclipped, the last block takes 99.5 % of all weight


def noise_schedule(steps: int, offset: float, max_alpha: float) -> list[float]:
    """ᾱ_0 … ᾱ_T of the cosine schedule: increasing, ᾱ_0 = 0.

    Differs: the paper names a cosine schedule without its formula; offset and clip are inferred.
    """
    bars = [0.0]
    for t in range(1, steps + 1):
        angle = (math.pi / 2) * ((steps - t) / steps + offset) / (1 + offset)
        bars.append(min(max_alpha, math.cos(angle) ** 2))
    return bars


def posterior(bars: list[float], t: int) -> tuple[float, float, float]:
    """a_t, b_t, c_t: z_t = a_t û + b_t z_{t-1} + sqrt(c_t) ε  (paper, Eqs. 3, 40, 41)."""
    now, before = bars[t], bars[t - 1]
    alpha = before / now  # α_{t-1}
    a = math.sqrt(now) * (1 - alpha) / (1 - before)
    b = math.sqrt(alpha) * (1 - now) / (1 - before)
    c = (1 - now) * (1 - alpha) / (1 - before)
    return a, b, c


class DenoisingBlock(nn.Module):
    """û_t: a noisy label and an image in, class logits out (Figure 6, discrete time).

    Differs: the image encoder is the architecture under test, and `cnn-small` is the paper's. As
        there, the last dense layer of a convolutional encoder has no activation; other encoders
        get a linear layer of 256 behind them.
    """

    def __init__(self, encoder: Blocks, n_classes: int, p_drop: float, rng: Generator) -> None:
        super().__init__()
        self.encoder = encoder
        self.p_drop = p_drop
        self._rng = rng
        last = encoder[-1]
        width = 256
        to_features: nn.Module = nn.Linear(last.out_features, width)
        if encoder.kinds != {"dense"} and last.kind == "dense":
            width, to_features = last.out_features, nn.Identity()
            last.activation = nn.Identity()  # nothing stands between its weights and the norm
        self.image = nn.Sequential(to_features, nn.BatchNorm1d(width))
        self.label_in = nn.Sequential(nn.Linear(n_classes, 256), nn.BatchNorm1d(256), nn.ReLU())
        self.label_skip = nn.Sequential(
            nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU(),
            nn.Linear(256, 256), nn.BatchNorm1d(256),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(width + 256, 256), nn.BatchNorm1d(256), nn.ReLU(),
            nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU(),
            nn.Linear(128, n_classes),
        )  # fmt: skip

    def encode(self, x: Tensor) -> Tensor:
        """Image features before the joint head, (B, width)."""
        noise = self._noise if self.training and self.p_drop else None
        for position, block in enumerate(self.encoder):
            x = block(x, noise if position and x.dim() == 4 else None)
        return self.image(x.flatten(1))

    def _noise(self, x: Tensor) -> Tensor:
        return dropout(x, self.p_drop, self._rng)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Logits, (B, C), from a noisy label z, (B, C), and an image x, (B, *shape)."""
        label = self.label_in(z)
        label = label + self.label_skip(label)
        return self.head(torch.cat([self.encode(x), label], dim=1))


@register
class NoPropDT(Method):
    """Blocks that denoise the label independently; back-propagation inside each block only.

    Differs: all blocks are trained on every mini-batch, where the paper loops over t outside the
        mini-batches. With one-hot embeddings blocks share nothing, so each block's update rule is
        unchanged. The classifier is updated T times per mini-batch, as often as in the paper.
    Differs: no batch norm inside the encoder of convolutional architectures, as in the paper.
    """

    name = "noprop"
    label = "NoProp-DT"
    version = 1
    source = "arXiv 2503.24322"
    traits = Traits(local_updates=True, readouts=("sampled", "mean"), sampled=("sampled",))
    Config = NoPropConfig

    def __init__(self, blocks: Blocks, task: Task, config: NoPropConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        encoders = [blocks] + [fresh_copy(blocks) for _ in range(config.steps - 1)]
        self.denoisers = nn.ModuleList(
            DenoisingBlock(encoder, task.n_classes, config.dropout, rng) for encoder in encoders
        )
        self.classifier = nn.Linear(task.n_classes, task.n_classes)
        self.bars = noise_schedule(config.steps, config.schedule_offset, config.max_alpha)
        # Blocks share no parameter and AdamW treats each entry alone: one fused optimizer makes
        # the same updates as one per block.
        self.optimizer = adamw(trainable(self.denoisers), config.lr, config.weight_decay)
        self.classifier_optimizer = adamw(
            trainable(self.classifier), config.lr, config.weight_decay
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

    def _noised(self, u: Tensor, t: int) -> Tensor:
        """z_t ~ q(z_t | y) = N( sqrt(ᾱ_t) u_y, 1 − ᾱ_t ), (B, C)."""
        noise = torch.randn(u.shape, device=u.device, dtype=u.dtype, generator=self.rng)
        return math.sqrt(self.bars[t]) * u + math.sqrt(1 - self.bars[t]) * noise

    def block_weight(self, t: int) -> float:
        """(T/2) η (SNR(t) − SNR(t−1)), at least 0."""
        snr = [bar / (1 - bar) for bar in (self.bars[t - 1], self.bars[t])]
        return 0.5 * self.config.steps * self.config.eta * (snr[1] - snr[0])

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        u = F.one_hot(y, self.task.n_classes).to(x.dtype)
        self.optimizer.zero_grad()
        total = x.new_zeros(())
        for t, block in enumerate(self.denoisers, start=1):
            estimate = block(self._noised(u, t - 1), x).softmax(dim=1)
            error = (estimate - u).square().sum(dim=1).mean()  # a sum over dimensions, not a mean
            (self.block_weight(t) * error).backward()
            total += error.detach()

            self.classifier_optimizer.zero_grad()
            out = F.cross_entropy(self.classifier(self._noised(u, self.config.steps)), y)
            out.backward()
            self.classifier_optimizer.step()
        self.optimizer.step()
        return {"loss": total / self.config.steps, "classifier_loss": out.detach()}

    def units(self) -> list[nn.Module]:
        return [*self.denoisers, self.classifier]

    def logits(self, x: Tensor, readout: str = "sampled", rng: Generator | None = None) -> Tensor:
        """`sampled`: noise at every step, from rng. `mean`: z_0 = 0 and ε = 0, no noise at all."""
        shape = (x.shape[0], self.task.n_classes)
        sampled = readout == "sampled"
        if sampled and rng is None:
            raise ValueError("noprop predicts by sampling: logits(..., rng=generator)")

        def noise() -> Tensor:
            return torch.randn(shape, device=x.device, dtype=x.dtype, generator=rng)

        z = noise() if sampled else x.new_zeros(shape)
        for t, block in enumerate(self.denoisers, start=1):
            a, b, c = posterior(self.bars, t)
            z = a * block(z, x).softmax(dim=1) + b * z
            if sampled:
                z = z + math.sqrt(c) * noise()
        return self.classifier(z)

    def eval_passes(self, readout: str) -> int:
        return self.config.steps

    def features(self, x: Tensor) -> list[Tensor]:
        return [cast(DenoisingBlock, block).encode(x) for block in self.denoisers]
