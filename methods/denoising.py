"""What the NoProp family is built from (Li, Teh & Pascanu 2025, arXiv 2503.24322).

    u_y  = W_y                                     class embedding, (d,)
    q(z | y) = N( sqrt(ᾱ) u_y, 1 − ᾱ )             a noised label; ᾱ grows from noise to label
    SNR  = ᾱ / (1 − ᾱ)
    z_t  = a_t û_t + b_t z_{t-1} + sqrt(c_t) ε     one step of the sampler (Eq. 3)
    KL( q(z_0 | y) || N(0, 1) ) = ½ ( ᾱ_0 |u_y|² − d ᾱ_0 − d log(1 − ᾱ_0) )

The image encoder of every network is the architecture under test.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods import batch
from methods.base import Task
from methods.blocks import Blocks, fresh_copy

Embedding = Literal["one-hot", "learned", "prototype"]
LEARNED_SIZE = 20  # d of a learned embedding (Section 4)
TIME_SIZE = 64  # values of the positional embedding of t (Figure 6)


# ------------------------------------------------------------------------ class embeddings


class ClassEmbedding(nn.Module):
    """W: one vector per class, (C, d).

    one-hot     the identity, not trained
    learned     d = 20; orthonormal rows where C <= d, else random ones of about unit length
    prototype   one image per class, flattened; `start` must have chosen it

    Attributes:
        weight: (C, d); a parameter, except for one-hot embeddings.
        image: shape of one embedding where it is an image, else None.
    """

    weight: Tensor

    def __init__(self, kind: Embedding, task: Task) -> None:
        super().__init__()
        self.kind = kind
        self.image = task.shape if kind == "prototype" else None
        c = task.n_classes
        if kind == "one-hot":
            self.register_buffer("weight", torch.eye(c), persistent=False)
        elif kind == "learned":
            weight = torch.empty(c, LEARNED_SIZE)
            if c <= LEARNED_SIZE:
                nn.init.orthogonal_(weight)
            else:
                nn.init.normal_(weight, std=LEARNED_SIZE**-0.5)
            self.weight = nn.Parameter(weight)
        else:
            self.weight = nn.Parameter(torch.randn(c, math.prod(task.shape)))

    @property
    def size(self) -> int:
        """d."""
        return self.weight.shape[1]

    @property
    def trained(self) -> bool:
        """Whether W has a gradient."""
        return self.kind != "one-hot"

    @torch.no_grad()
    def start(self, x: Tensor, y: Tensor) -> None:
        """Chooses the prototypes from all training images, (N, *shape), by class, (N,)."""
        if self.kind != "prototype":
            return
        for c in range(len(self.weight)):
            images = x[y == c].flatten(1)
            if len(images):  # else the class keeps its random start
                self.weight[c] = images[most_central(images)]

    def forward(self, y: Tensor) -> Tensor:
        """u_y, (B, d)."""
        return F.embedding(y, self.weight)

    def mix(self, p: Tensor) -> Tensor:
        """p W, (B, d): embeddings summed with weights p, (B, C)."""
        return p @ self.weight if self.trained else p

    def distances(self, z: Tensor) -> Tensor:
        """|z − W_c|² for every class, (B, C)."""
        return torch.stack([(z - w).square().sum(dim=1) for w in self.weight], dim=1)


@torch.no_grad()
def align(classifier: nn.Linear, embedding: ClassEmbedding) -> None:
    """Gives a classifier of z the class embeddings, at length 1, as its weights."""
    classifier.weight.copy_(F.normalize(embedding.weight))
    classifier.bias.zero_()


def most_central(points: Tensor, rows: int = 1024) -> Tensor:
    """Index of the point with the smallest median distance to the others, of (N, d)."""
    n = len(points)
    medians = []
    for first in range(0, n, rows):  # a part of the N² distances at a time
        part = points[first : first + rows]
        ordered = torch.cdist(part, points).sort(dim=1).values[:, 1:]  # first comes itself
        if n > 1:
            ordered = ordered[:, (n - 2) // 2] + ordered[:, (n - 1) // 2]
        medians.append(ordered.flatten() if n > 1 else points.new_zeros(1))
    return torch.cat(medians).argmin()


# --------------------------------------------------------------------- schedule and sampler


def noise_schedule(steps: int, offset: float, max_alpha: float) -> list[float]:
    """ᾱ_0 … ᾱ_T of the cosine schedule: increasing up to the clip, ᾱ_0 = 0.

    From about 80 steps on the clip holds the last two or more, whose blocks then weigh nothing.
    """
    bars = [0.0]
    for t in range(1, steps + 1):
        angle = (math.pi / 2) * ((steps - t) / steps + offset) / (1 + offset)
        bars.append(min(max_alpha, math.cos(angle) ** 2))
    return bars


def posterior(bars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """a, b and c of the steps 1 … T, each (T,), from ᾱ_0 … ᾱ_T  (Eqs. 3, 40, 41).

        a_t = sqrt(ᾱ_t) (1 − α_{t-1}) / (1 − ᾱ_{t-1}),   α_{t-1} = ᾱ_{t-1} / ᾱ_t
        b_t = sqrt(α_{t-1}) (1 − ᾱ_t) / (1 − ᾱ_{t-1})
        c_t = (1 − ᾱ_t) (1 − α_{t-1}) / (1 − ᾱ_{t-1})

    Differences of nearly equal numbers: give it float64.
    """
    before, now = bars[:-1], bars[1:]
    alpha = before / now
    a = now.sqrt() * (1 - alpha) / (1 - before)
    b = alpha.sqrt() * (1 - now) / (1 - before)
    c = (1 - now) * (1 - alpha) / (1 - before)
    return a, b, c


class LearnedSchedule(nn.Module):
    """γ(t), with SNR(t) = exp(−γ(t)) and ᾱ_t = σ(−γ(t)): falls from γ_1 at t = 0 to γ_0 at t = 1.

        γ(t) = γ_0 + (γ_1 − γ_0) (1 − γ̄(t)),   γ̄(t) = ( γ̃(t) − γ̃(0) ) / ( γ̃(1) − γ̃(0) )

    γ̃ is a net of two layers with positive weights; its end values cancel in γ̄, so that it has
    no bias behind the second layer (Appendix B).
    """

    def __init__(self, gamma_0: float, gamma_1: float, width: int) -> None:
        super().__init__()
        self.gamma_0 = nn.Parameter(torch.tensor(gamma_0))
        self.gamma_1 = nn.Parameter(torch.tensor(gamma_1))
        # the weights are softplus of these: about 1 in the first layer, 1 / width in the second
        self.first = nn.Parameter(torch.full((width,), math.log(math.expm1(1.0))))
        self.bias = nn.Parameter(-torch.rand(width))
        self.second = nn.Parameter(torch.full((width,), math.log(math.expm1(1.0 / width))))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """γ(t) and its derivative γ'(t), both differentiable, each (B,), for t in [0, 1], (B,)."""
        inner, outer = F.softplus(self.first), F.softplus(self.second)
        ends = t.new_tensor([0.0, 1.0])
        h = torch.sigmoid(torch.cat([ends, t])[:, None] * inner + self.bias)
        start, end = (h @ outer)[:2]
        h = h[2:]
        span = (self.gamma_1 - self.gamma_0) / (end - start)
        gamma = self.gamma_1 - span * (h @ outer - start)
        return gamma, -span * ((h * (1 - h)) @ (inner * outer))


def prior_kl(u: Tensor, bar: Tensor, rest: Tensor) -> Tensor:
    """KL( N(sqrt(ᾱ) u, 1 − ᾱ) || N(0, 1) ), mean over the batch.

    Args:
        u: (B, d). bar: ᾱ, a scalar. rest: 1 − ᾱ, given apart because it may be close to 1.
    """
    d = u.shape[1]
    return 0.5 * (bar * (u.square().sum(dim=1).mean() - d) - d * rest.log())


def gaussian(like: Tensor, rng: Generator | None) -> Tensor:
    """Standard normal noise of a tensor's shape, from an explicit generator."""
    return batch.draw(like.shape, like, lambda noise: noise.normal_(generator=rng))


def uniform(like: Tensor, rng: Generator) -> Tensor:
    """A time in [0, 1) for each sample, (B,), from an explicit generator."""
    return batch.draw((len(like),), like, lambda noise: noise.uniform_(generator=rng))


# --------------------------------------------------------------------------------- networks


def quick_dropout(x: Tensor, p: float, rng: Generator) -> Tensor:
    """Dropout with 16 random bits per value, p rounded to them: a sixth of Bernoulli draws' time.

    Args:
        x: dense in memory, in any order of its dimensions.
    """
    n = batch.ranks() * x.numel()
    bits = torch.empty((n + 3) // 4, dtype=torch.int64, device=x.device)
    bits.random_(-(2**63), None, generator=rng)
    dropped = round(p * 2**16)
    keep = batch.own(bits.view(torch.int16)[:n]) >= dropped - 2**15
    keep = keep.as_strided(x.shape, x.stride()).to(x.dtype)
    return x * keep.mul_(2**16 / (2**16 - dropped))


class Encoder(nn.Module):
    """Image features, (B, width), by the architecture under test, with dropout between its blocks.

    A convolutional encoder ends in a dense layer, as the paper's does; any other one gets a linear
    layer of 256 behind it. With `norm`, batch norm follows instead of the last activation.
    """

    def __init__(self, blocks: Blocks, p_drop: float, rng: Generator, norm: bool) -> None:
        super().__init__()
        self.blocks = blocks
        self.p_drop, self._rng = p_drop, rng
        last = blocks[-1]
        if blocks.kinds != {"dense"} and last.kind == "dense":
            self.width = last.out_features
            self.end: nn.Module = nn.Identity()
            if norm:
                last.activation = nn.Identity()  # nothing stands between its weights and the norm
                self.end = nn.BatchNorm1d(self.width)
        else:
            self.width = 256
            end = nn.BatchNorm1d(self.width) if norm else nn.ReLU()
            self.end = nn.Sequential(nn.Linear(last.out_features, self.width), end)

    def forward(self, x: Tensor) -> Tensor:
        """Features, (B, width), from images, (B, C, H, W)."""
        if self.blocks[0].kind != "dense":
            x = channels_last(x)
        for position, block in enumerate(self.blocks):
            x = block(x, self._noise if position and x.dim() == 4 else None)
        return self.end(x.flatten(1))

    def _noise(self, x: Tensor) -> Tensor:
        return quick_dropout(x, self.p_drop, self._rng) if self.training and self.p_drop else x


def channels_last(x: Tensor) -> Tensor:
    """The same images with channels as the innermost dimension, on CPU.

    Convolutions keep that order, and together with pooling and ReLU they take half the time there.
    """
    if x.device.type != "cpu":
        return x
    if x.shape[1] == 1:  # one order in memory has two descriptions: choose the right one
        _, _, h, w = x.shape
        return x.contiguous().as_strided(x.shape, (h * w, 1, w, 1))
    return x.contiguous(memory_format=torch.channels_last)


class LabelPath(nn.Module):
    """Features of a noised label, (B, width), in discrete time (Figure 6)."""

    def __init__(
        self, embedding: ClassEmbedding, like: Blocks, p_drop: float, rng: Generator
    ) -> None:
        super().__init__()
        self.image = embedding.image
        self.width = 256
        if embedding.image is not None:  # an image of its own: the way an image goes
            self.encoder = Encoder(fresh_copy(like), p_drop, rng, norm=True)
            self.width = self.encoder.width
            return
        self.first = nn.Sequential(nn.Linear(embedding.size, 256), nn.BatchNorm1d(256), nn.ReLU())
        self.skip = nn.Sequential(
            nn.Linear(256, 256), nn.BatchNorm1d(256), nn.ReLU(),
            nn.Linear(256, 256), nn.BatchNorm1d(256),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        """Features from a noised label, (B, d)."""
        if self.image is not None:
            return self.encoder(z.view(-1, *self.image))
        h = self.first(z)
        return h + self.skip(h)


class DiscreteBlock(nn.Module):
    """One denoising step: a noised label and an image in, class logits out (Figure 6)."""

    def __init__(
        self, blocks: Blocks, embedding: ClassEmbedding, task: Task, p_drop: float, rng: Generator
    ) -> None:
        super().__init__()
        self.label = LabelPath(embedding, blocks, p_drop, rng)
        self.encoder = Encoder(blocks, p_drop, rng, norm=True)
        self.head = nn.Sequential(
            nn.Linear(self.encoder.width + self.label.width, 256), nn.BatchNorm1d(256), nn.ReLU(),
            nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU(),
            nn.Linear(128, task.n_classes),
        )  # fmt: skip

    @property
    def passes(self) -> int:
        """Copies of the architecture that one step runs."""
        return 1 + (self.label.image is not None)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Logits, (B, C), from a noised label z, (B, d), and an image x, (B, *shape)."""
        return self.head(torch.cat([self.encoder(x), self.label(z)], dim=1))


def discrete_blocks(
    n: int, blocks: Blocks, embedding: ClassEmbedding, task: Task, p_drop: float, rng: Generator
) -> nn.ModuleList:
    """n denoising steps, each with its own copy of the architecture; `blocks` is the first."""
    copies = [blocks] + [fresh_copy(blocks) for _ in range(n - 1)]
    return nn.ModuleList(DiscreteBlock(b, embedding, task, p_drop, rng) for b in copies)


def positions(t: Tensor) -> Tensor:
    """Sines and cosines of t in [0, 1], (B, 64), with periods from 2π / 1000 to 20 π."""
    exponents = torch.linspace(0, 1, TIME_SIZE // 2, device=t.device, dtype=t.dtype)
    angles = t[:, None] * 1000 * 10_000**-exponents
    return torch.cat([angles.sin(), angles.cos()], dim=1)


DEEPEST_WITHOUT_NORM = 5  # blocks; the paper's encoder has 4


def too_deep_without_norm(blocks: Blocks) -> str | None:
    """Why an architecture cannot be the encoder in continuous time, or None."""
    if "residual" in blocks.kinds or len(blocks) <= DEEPEST_WITHOUT_NORM:
        return None
    return (
        f"its network has no batch norm, and an encoder of {len(blocks)} layers without does not "
        "start to learn"
    )


class JointLinear(nn.Linear):
    """A linear layer on a concatenation, as a sum with one term per part.

    Terms that stay the same over many calls then need to be computed once only.
    """

    def __init__(self, sizes: list[int], n_out: int) -> None:
        super().__init__(sum(sizes), n_out)
        self.sizes = sizes

    def term(self, i: int, part: Tensor) -> Tensor:
        """Share of part i, (B, sizes[i]), in the output, (B, n_out); the first has the bias."""
        weight = self.weight.split(self.sizes, dim=1)[i]
        return F.linear(part, weight, self.bias if i == 0 else None)


class ContinuousNet(nn.Module):
    """One network for all times: a noised label, an image and t in, class logits out (Figure 6)."""

    def __init__(
        self, blocks: Blocks, embedding: ClassEmbedding, task: Task, p_drop: float, rng: Generator
    ) -> None:
        super().__init__()
        self.label_image = embedding.image
        self.label: nn.Module = nn.Sequential(nn.Linear(embedding.size, 256), nn.ReLU())
        label_width = 256
        if embedding.image is not None:
            self.label = Encoder(fresh_copy(blocks), p_drop, rng, norm=False)
            label_width = self.label.width
        self.encoder = Encoder(blocks, p_drop, rng, norm=False)
        self.time = nn.Sequential(nn.Linear(TIME_SIZE, 256), nn.ReLU())
        self.joint = JointLinear([self.encoder.width, label_width, 256], 256)
        self.head = nn.Sequential(
            nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, task.n_classes)
        )

    def image_term(self, x: Tensor) -> Tensor:
        """All that a prediction needs of the images, (B, 256), whatever z and t."""
        return self.joint.term(0, self.encoder(x))

    def time_term(self, t: Tensor) -> Tensor:
        """All that it needs of the times t, (B,), whatever z and the image: (B, 256)."""
        return self.joint.term(2, self.time(positions(t)))

    def forward(self, z: Tensor, image: Tensor, time: Tensor) -> Tensor:
        """Logits, (B, C), from z, (B, d), and two terms of the joint layer, each (B, 256)."""
        if self.label_image is not None:
            z = z.view(-1, *self.label_image)
        return self.head(image + time + self.joint.term(1, self.label(z)))

    def units(self) -> list[nn.Module]:
        """The image encoder, and all that stands behind it."""
        return [self.encoder, nn.ModuleList([self.label, self.time, self.joint, self.head])]

    def passes(self, steps: int) -> int:
        """Copies of the architecture that a prediction of so many steps runs."""
        return 1 + (steps if self.label_image is not None else 0)
