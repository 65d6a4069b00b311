"""HFF: Hyperspherical Forward-Forward with prototypical representations (arXiv 2605.00082).

Every block solves a C-way classification on the unit sphere, against its own learned prototypes:

    h_l   = block_l(N(sg[h_{l-1}]))                       N: length normalisation between blocks
    z_l   = e_l(h_l) / |e_l(h_l)|                         e_l: flatten, or pooling + AuxConv
    s_lc  = (1/beta) log sum_k exp(beta <z_l, p_lck>)     p_lck: unit-norm prototypes, K a class

and minimises one of three losses of the class scores s, in cosine units, with margin m:

    ce        CE(scale (s − m onehot(y)), y)
    smooth    softplus(scale (m + T log sum_{j≠y} exp(s_j / T) − s_y))
    pairwise  mean over j≠y of softplus(scale (m + s_j − s_y))

`smooth` with temperature T = 1/scale is `ce`; T = 1 is the plain log-sum-exp of the cosines, which
weighs all wrong classes nearly alike, and is so far above any cosine that no margin is ever met.
One pass predicts: the class of the nearest prototypes in the last block, or by the sum of the
blocks' scores.

The paper's method section was not available when this was written. The objective in words is the
paper's; its exact form below, and every default, is an inference and is marked so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, adamw, cosine, set_lr, trainable
from methods.blocks import Block, Blocks, pool_until, pooled_shape, rms_norm
from methods.registry import register
from methods.space import Choice, LogUniform, Uniform


@dataclass(frozen=True)
class HFFConfig:
    """All defaults are inferred: the paper's values are not public in readable form."""

    loss: Literal["ce", "smooth", "pairwise"] = "ce"  # the paper's words: a smooth margin loss
    margin: float = 0.1  # in cosine units; usual range of additive margins 0 to 0.35
    scale: float = 16.0  # of the cosines; below about 6 (C = 10) the loss cannot approach 0
    learn_scale: bool = False  # one scale per block, from `scale` on; unknown in the paper
    temperature: float = 1.0  # of the wrong classes, `smooth` only; 1/scale makes it `ce`
    prototypes: int = 2  # K per class; hand-set in the paper, value unknown
    beta: float = 16.0  # sharpness of the pooling over the K prototypes of a class
    learn_prototypes: bool = True  # the paper's are learned
    start: Literal["gaussian", "separated"] = "gaussian"  # of the prototypes; unknown in the paper
    match: Literal["after", "before"] = "after"  # the non-linearity; unknown in the paper
    between: Literal["rms", "layer", "l2", "none"] = "rms"  # normalisation; unknown in the paper
    aux: Literal["1x1", "3x3", "none"] = "1x1"  # AuxConv's kernel; 1x1 as in arXiv 2501.03176
    aux_channels: int = 128  # output channels of AuxConv
    aux_positions: int = 16  # feature maps are pooled to at most this many positions
    lr: float = 1e-3
    weight_decay: float = 0.0  # as the controls have it


class PrototypeHead(nn.Module):
    """Class scores of one block: embedding on the unit sphere against unit-norm prototypes.

    Differs: a 1x1 AuxConv acts after average pooling, not before. Both are linear, so the order
        does not change the result, but it is as many times cheaper as pixels are pooled.
    """

    def __init__(self, block: Block, n_classes: int, config: HFFConfig) -> None:
        super().__init__()
        self.config = config
        self.aux_conv: nn.Module = nn.Identity()
        dim = block.out_features
        if len(block.out_shape) == 3:
            channels, height, width = block.out_shape
            if config.aux != "none":
                side = {"1x1": 1, "3x3": 3}[config.aux]
                self.aux_conv = nn.Conv2d(channels, config.aux_channels, side, padding=side // 2)
                channels = config.aux_channels
            kept = pooled_shape((channels, height, width), channels * config.aux_positions)
            dim = math.prod(kept)
        # Gaussian directions are uniform on the sphere; the length is divided out in use.
        points = F.normalize(torch.randn(n_classes * config.prototypes, dim), dim=1)
        if config.start == "separated":
            points = separated(points)
        points = points.view(n_classes, config.prototypes, dim)
        self.prototypes = nn.Parameter(points, requires_grad=config.learn_prototypes)
        if config.learn_scale:
            self.log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))

    @property
    def scale(self) -> Tensor | float:
        """What the cosines are multiplied by; positive, learned or not."""
        return self.log_scale.exp() if self.config.learn_scale else self.config.scale

    def embed(self, h: Tensor) -> Tensor:
        """Vectors of any length, (B, D), from what a block puts out, (B, *out_shape)."""
        if h.dim() == 4:
            if self.config.aux == "3x3":  # does not commute with the pooling
                h = self._pool(self.aux_conv(h))
            else:
                h = self.aux_conv(self._pool(h))
        return h.flatten(1)

    def _pool(self, h: Tensor) -> Tensor:
        return pool_until(h, h.shape[1] * self.config.aux_positions)

    def forward(self, h: Tensor) -> Tensor:
        """Scores in cosine units, (B, C), from what a block puts out, (B, *out_shape)."""
        n_classes, k, dim = self.prototypes.shape
        directions = F.normalize(self.prototypes, dim=2)
        e, toward = self.embed(h), directions.reshape(n_classes * k, dim).T
        if torch.is_grad_enabled():
            cosines = F.normalize(e, dim=1) @ toward
        else:  # the same, with fewer values to divide
            length = torch.linalg.vector_norm(e, dim=1, keepdim=True).clamp_min(1e-12)
            cosines = (e @ toward) / length
        cosines = cosines.view(-1, n_classes, k)
        if k == 1:
            return cosines.squeeze(2)
        # minus log K, so that K equal prototypes score exactly as one of them would
        beta = self.config.beta
        return (torch.logsumexp(beta * cosines, dim=2) - math.log(k)) / beta


def separated(points: Tensor, steps: int = 400, lr: float = 0.1, momentum: float = 0.9) -> Tensor:
    """Spreads unit vectors, (n, D): SGD on the mean of each one's largest cosine with another.

    Up to n = D + 1 the optimum is a simplex, where all cosines are −1/(n − 1).

    Vectors of one class are pushed apart like all others.

    Source: Mettes et al. 2019 (arXiv 1901.10514), 1000 steps at a constant rate; here the rate
    falls to 0, so that fewer steps settle, for up to about a hundred vectors: with more, a step
    moves each by too little.
    """
    n = len(points)
    velocity = torch.zeros_like(points)
    for step in range(steps):
        cosines = (points @ points.T).fill_diagonal_(-math.inf)
        nearest = cosines.argmax(dim=1)
        # the cosine of a pair pulls on both of its vectors
        gradient = points[nearest].index_add(0, nearest, points) / n
        velocity = momentum * velocity + gradient
        points = F.normalize(points - lr * (1 - step / steps) * velocity, dim=1)
    return points


def margin_loss(s: Tensor, y: Tensor, scale: Tensor | float, config: HFFConfig) -> Tensor:
    """One of the three losses, mean over the batch.

    Args:
        s: class scores in cosine units, (B, C).
        y: class indices, (B,).
    """
    true = F.one_hot(y, s.shape[1]).to(s.dtype)
    if config.loss == "ce":
        return F.cross_entropy(scale * (s - config.margin * true), y)
    right = s.gather(1, y[:, None])
    if config.loss == "pairwise":
        pairs = F.softplus(scale * (config.margin + s - right))
        return ((1 - true) * pairs).sum() / (s.numel() - len(s))
    wrong = (s / config.temperature).masked_fill(true.bool(), -math.inf)
    wrong = config.temperature * wrong.logsumexp(dim=1, keepdim=True)
    return F.softplus(scale * (config.margin + wrong - right)).mean()


@register
class HFF(Method):
    """Learned unit-norm prototypes, margin loss per block, detached blocks.

    Differs: the form of the margin loss (softmax cross-entropy with an additive margin) is
        inferred; the paper names a smooth margin loss and log-sum-exp matching.
    Differs: K, scale, margin, optimizer and schedule are ours; the paper's are unknown.
    Differs: the prototypes start as random directions; unknown in the paper.
    Differs: scores are read from activities, behind the non-linearity; unknown in the paper.
    Differs: feature maps are pooled to 16 positions, not to one, and pass 128 channels of AuxConv;
        convolutional blocks have the architecture's batch norm; all blocks are trained on every
        mini-batch; the first block gets the image as it is: all unknown in the paper.
    Differs: activities are divided by their root mean square between blocks; unknown in the paper.
    """

    name = "hff"
    label = "HFF"
    version = 2
    source = "arXiv 2605.00082"
    traits = Traits(local_updates=True, readouts=("last", "sum", "sum_except_first"))
    Config = HFFConfig
    space: ClassVar = {
        "lr": LogUniform(1e-4, 1e-2),
        "margin": Uniform(0.0, 0.35),  # usual range of additive margins
        "scale": LogUniform(4.0, 64.0),
        "prototypes": Choice(1, 2, 4, 8),
    }

    def __init__(self, blocks: Blocks, task: Task, config: HFFConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        heads = [PrototypeHead(block, task.n_classes, config) for block in blocks]
        self.head = heads[-1]
        # the headline readout needs only the last
        self.aux.update({f"head_{l}": head for l, head in enumerate(heads[:-1])})
        self.optimizer = adamw(trainable(self), config.lr, config.weight_decay)

    @classmethod
    def refuse(cls, blocks: Blocks, task: Task, config: Any) -> str | None:
        if config.match == "before" and "residual" in blocks.kinds:
            return "residual units have no linear output ahead of their last non-linearity to match"
        return None

    def _head(self, l: int) -> PrototypeHead:
        head = self.head if l == len(self.blocks) - 1 else self.aux[f"head_{l}"]
        assert isinstance(head, PrototypeHead)
        return head

    def _run(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the block's head reads, and the block's activities, each (B, *out_shape)."""
        if self.config.match == "after":
            h = block(x)
            return h, h
        a = block(x, activate=False)
        return a, block.activation(a)

    def _between(self, h: Tensor) -> Tensor:
        """The next block's input: without the length, which the scores do not depend on."""
        if self.config.between == "rms":
            return rms_norm(h)
        if self.config.between == "layer":
            return F.layer_norm(h, h.shape[1:])
        if self.config.between == "l2":
            return F.normalize(h.flatten(1), dim=1).view_as(h)
        return h

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        set_lr(self.optimizer, self.config.lr, cosine(progress))
        self.optimizer.zero_grad()
        total = x.new_zeros(())
        for l, block in enumerate(self.blocks):
            head = self._head(l)
            read, h = self._run(block, x)
            loss = margin_loss(head(read), y, head.scale, self.config)
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
            read, h = self._run(block, x)
            if l >= first:
                head = self._head(l)
                scores = scores + head.scale * head(read)
            if l < last:
                x = self._between(h)
        return scores

    def features(self, x: Tensor) -> list[Tensor]:
        activities = []
        for block in self.blocks:
            h = block(x)
            activities.append(h.flatten(1))
            x = self._between(h)
        return activities
