"""SoftHebb (Journé et al. 2023, arXiv 2209.11883): competing blocks, then a linear readout.

    u_k  = W_k · x                                 x: one input vector, or one patch of an image
    y    = s ⊙ softmax_k(τ u)                      s_k = 1 for the winner k, else −1 (or 1)
    ΔW_k = η_k Σ y_k (x − u_k W_k) / max|·|        sum over samples and positions
    η_k  = η | |W_k| − 1 |^½                       at rest, weight vectors have norm 1
    h    = max(0, u − mean_k u)^p                  ("triangle"), standardised as the next input

Blocks learn one after another, without labels and without a gradient. Then a linear readout of the
last block learns by cross-entropy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.grad import conv2d_weight

from methods import batch
from methods.base import Method, Task, Traits, adamw, set_lr, steps_down
from methods.blocks import Block, Blocks, BlockStyle, dropout
from methods.registry import register
from methods.space import LogUniform, Uniform


@dataclass(frozen=True)
class SoftHebbConfig:
    """Defaults of the released code for convolutional networks, unless marked otherwise."""

    unsupervised: float = 0.5  # share of the budget, in equal parts to the blocks; ours
    rate: float = 0.08  # η; 0.08, 0.005, 0.01 by layer
    inverse_temperature: float = 1.0  # τ; 1, 0.65, 0.25 by layer
    losers: Literal["anti-hebbian", "hebbian"] = "anti-hebbian"  # sign of all but the winner
    power: float = 1.0  # p of the activation; 0.7, 1.4, 1 by layer
    radius: float = 25.0  # norm of the first weight vectors, about
    readout_lr: float = 1e-2  # Adam; 1e-3 in the released code, too slow for our shorter budgets
    milestones: tuple[float, ...] = (0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the readout; halves
    dropout: float = 0.5  # on the input of the readout


class Triangle(nn.Module):
    """max(0, u − mean over channels of u) to a power."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, u: Tensor) -> Tensor:
        """(B, K, ...) to the same shape."""
        h = F.relu(u - u.mean(dim=1, keepdim=True))
        return h if self.power == 1.0 else h**self.power


def competition(u: Tensor, inverse_temperature: float, anti_hebbian: bool) -> Tensor:
    """Soft winner-take-all over dimension 1; all but the winner get a minus sign if wanted."""
    y = torch.softmax(inverse_temperature * u, dim=1)
    if not anti_hebbian:
        return y
    winner = u.max(dim=1, keepdim=True).indices  # a quarter of argmax's time on a CPU
    own = y.gather(1, winner)
    return y.neg_().scatter_(1, winner, own)


def hebbian_change(layer: nn.Linear | nn.Conv2d, x: Tensor, u: Tensor, y: Tensor) -> Tensor:
    """Σ y_k (x − u_k W_k) over samples and, in convolutions, positions; shape of the weights.

    Args:
        x: input of the layer. u: its output. y: activities after the competition, as u.
    """
    if isinstance(layer, nn.Conv2d):
        # the correlation of input and activities over all positions
        x = x.to(y.dtype)  # which may be bfloat16
        yx = conv2d_weight(x, layer.weight.shape, y, layer.stride, layer.padding, layer.dilation)
    else:
        yx = y.T @ x
    yu = (y * u).sum((0, *range(2, u.dim())))
    return yx - yu.view(-1, *[1] * (yx.dim() - 1)) * layer.weight


@register
class SoftHebb(Method):
    """Blocks of competing units learn the directions of their inputs, one block after another.

    Differs: one rate, temperature and power for all layers, where the paper tunes each by layer.
    Differs: the blocks' share of the budget is a setting; the paper gives them one epoch in
        batches of 10, and the readout 50. A step goes equally far whatever the batch: with a few
        hundred steps at the default rate, wide blocks stay near their random weights.
    Differs: widths, kernels and pooling are the architecture's, convolutions pad with zeros, not
        by reflection, and networks end in a dense layer where the paper's end in a convolution.
    Differs: dense blocks follow the rule for convolutions; the released code's fully connected
        network has one hidden layer, losers without a minus sign and a softmax as activation.
    """

    name = "softhebb"
    label = "SoftHebb"
    version = 1
    source = "arXiv 2209.11883"
    traits = Traits(local_updates=True)
    Config = SoftHebbConfig
    space: ClassVar = {
        "readout_lr": LogUniform(1e-3, 0.1),
        "rate": LogUniform(5e-3, 0.5),  # released, by layer: 0.005 to 0.08
        "inverse_temperature": LogUniform(0.25, 4.0),  # released, by layer: 0.25 to 1
        "power": Uniform(0.7, 1.4),  # released, by layer: 0.7 to 1.4
    }

    def __init__(self, blocks: Blocks, task: Task, config: SoftHebbConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        for block in blocks:
            layer = _layer(block)
            layer.register_parameter("bias", None)
            nn.init.normal_(layer.weight, std=config.radius / math.sqrt(layer.weight[0].numel()))
            block.activation = Triangle(config.power)
        blocks.requires_grad_(False)
        self.norms = nn.ModuleList(_standardise(block) for block in blocks)
        for norm in list(self.norms)[1:]:
            # a guess until its block's turn comes, so that scores are in range from the start
            cast(Tensor, norm.running_var).fill_(config.radius ** (2 * config.power))
        self.output = nn.Linear(blocks[-1].out_features, task.n_classes)
        self.optimizer = adamw(self.output.parameters(), config.readout_lr, weight_decay=0.0)

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        return BlockStyle(norm="none")

    @classmethod
    def refuse(cls, blocks: Blocks, task: Task, config: Any) -> str | None:
        if "residual" in blocks.kinds:
            return "residual units hold two layers and a sum, the rule is for one competing layer"
        return None

    def train(self, mode: bool = True) -> SoftHebb:
        """Training mode, in which statistics stand still all the same but for the block's turn."""
        super().train(mode)
        self.norms.eval()
        return self

    def phases(self, steps: int) -> list[tuple[str, int]]:
        n = len(self.blocks)
        hebbian = min(steps, max(n, round(self.config.unsupervised * steps)))
        ends = [round(hebbian * l / n) for l in range(n + 1)]
        phases = [(f"block {l}", ends[l + 1] - ends[l]) for l in range(n)]
        return [*phases, ("readout", steps - hebbian)]

    def frozen(self, x: Tensor, phase: str) -> Tensor:
        """Output of all blocks ahead of the one that learns."""
        turn = len(self.blocks) if phase == "readout" else int(phase.split()[1])
        for l in range(turn):
            x = self._block(x, l)
        return x

    def _block(self, x: Tensor, l: int) -> Tensor:
        # the hook for noise is where the pooled input is at hand
        return self.blocks[l](x, noise=self.norms[l])

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        if phase == "readout":
            return self._readout_step(x, y, progress)
        return self._hebbian_step(x, int(phase.split()[1]))

    @torch.no_grad()
    def _hebbian_step(self, x: Tensor, l: int) -> dict[str, Tensor]:
        config, block, norm = self.config, self.blocks[l], self.norms[l]
        layer = _layer(block)
        x = standardised(block.pooled(x), cast("nn.BatchNorm1d | nn.BatchNorm2d", norm))
        x = x.flatten(1) if block.kind == "dense" else x
        u = layer(x)
        y = competition(u, config.inverse_temperature, config.losers == "anti-hebbian")
        change = batch.total(hebbian_change(layer, x, u, y))
        away = _distance(layer.weight)
        rate = config.rate * away.sqrt() / (change.abs().amax() + 1e-30)
        layer.weight += rate.view(-1, *[1] * (change.dim() - 1)) * change
        return {"loss": _distance(layer.weight).mean()}

    def _readout_step(self, x: Tensor, y: Tensor, progress: float) -> dict[str, Tensor]:
        config = self.config
        within = (progress - config.unsupervised) / (1 - config.unsupervised)
        set_lr(self.optimizer, config.readout_lr, steps_down(within, config.milestones, 0.5))
        loss = F.cross_entropy(self.output(dropout(x.flatten(1), config.dropout, self.rng)), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def units(self) -> list[nn.Module]:
        return [*self.blocks, self.output]

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        return self.output(self.frozen(x, "readout").flatten(1))

    def features(self, x: Tensor) -> list[Tensor]:
        activities = []
        for l in range(len(self.blocks)):
            x = self._block(x, l)
            activities.append(x.flatten(1))
        return activities


def _layer(block: Block) -> nn.Linear | nn.Conv2d:
    return cast("nn.Linear | nn.Conv2d", block.weights)


def _standardise(block: Block) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """For what the weights see; momentum None is a plain average: it stays what it is."""
    channels = block.in_shape[0]
    if block.pooling == "space_to_depth":
        channels *= block.pool**2
    kind = nn.BatchNorm2d if len(block.in_shape) == 3 else nn.BatchNorm1d
    return kind(channels, affine=False, momentum=None)


def standardised(x: Tensor, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> Tensor:
    """x by the statistics of its own batch, whose plain average over all batches `norm` keeps.

    What `norm` does itself in training, but for asking the device how many batches there were.
    """
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    share = 1 / norm.num_batches_tracked
    running = [cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)]
    if batch.ranks() == 1:
        now = [torch.zeros_like(r) for r in running]
        x = F.batch_norm(x, now[0], now[1], training=True, momentum=1.0, eps=norm.eps)
    else:
        mean, variance, n = batch.mean_and_variance(x)
        x = F.batch_norm(x, mean, variance, eps=norm.eps)
        now = [mean, variance * (n / (n - 1))]
    for average, value in zip(running, now, strict=True):
        average.lerp_(value, share)
    return x


def _distance(weights: Tensor) -> Tensor:
    """Of the norms of weight vectors from 1, (K,)."""
    return (weights.flatten(1).norm(dim=1) - 1).abs()
