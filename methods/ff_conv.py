"""Convolutional Forward-Forward with labels that cover the whole image (arXiv 2312.14924).

Shared weights see a label written into a few pixels at a few positions only. So every pixel carries
it. Label c turns an image x with values in [0, 1] into x ⊕ c, at position r:

    fourier        (1 − κ) x(r) + κ (1 + cos(2π f_c·r + φ_c)) / 2     one plane wave per class
    morphological  (1 − κ) x(r) + κ max or min( x(r), x(r − d_c) )    one offset per two classes
    planes         C more input channels, constant: the one-hot label

Then as in Forward-Forward, with N(a) = a / rms(a) over channels, height and width, n_l the number
of units of layer l (channels · height · width), and sg stop-gradient:

    ĥ_0 = N(x ⊕ c),   h_l = ReLU(W_l * ĥ_{l-1} + b_l),   ĥ_l = sg[N(h_l)],   G_l = sum h_l²
    L_l = softplus((n_l − G_l(+)) / T_l) + softplus((G_l(−) − n_l) / T_l),   T_l = height · width

plus peer normalisation, whose units are channels. Two ways to predict: the class whose label gives
the highest sum of G_l / T_l over all layers but the first (C passes), or the softmax readout that
also draws the wrong labels, true class left out (1 pass).

That readout gets the globally average-pooled ĥ_l of a neutral pass, whose input says nothing about
the class: the mean of all C waves, planes of 1/C, or the untransformed image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, linear_cooldown, set_lr, trainable
from methods.blocks import Block, Blocks, BlockStyle, rms, rms_norm
from methods.goodness import (
    Negatives,
    goodness_gradient,
    images_at_once,
    optimizer,
    peer_gradient,
    summed_goodness,
    wrong_labels,
    zero_linear,
)
from methods.registry import register
from methods.space import LogUniform, Uniform

Label = Literal["fourier", "morphological", "planes"]


@dataclass(frozen=True)
class FFConvConfig:
    """The paper's values are not public in readable form: all defaults are inferred, those of
    Forward-Forward where they carry over."""

    label: Label = "fourier"
    kappa: float = 0.35  # share of the label in the labelled image; 0.5 does as well on digits
    negatives: Negatives = "hard"  # Forward-Forward: drawn from the readout
    optimizer: Literal["sgd", "adam"] = "adam"  # with SGD the last layer loses many units
    lr: float = 2e-3  # tuned on digits; for SGD about 2e-4
    momentum: float = 0.9  # Forward-Forward; used by SGD only
    weight_decay: float = 0.0
    peer: float = 0.03  # Forward-Forward: λ of peer normalisation
    readout_lr: float = 1e-2  # Forward-Forward
    readout_weight_decay: float = 3e-3  # Forward-Forward


@register
class ConvForwardForward(Method):
    """Forward-Forward on feature maps, with a label at every position of the image.

    Differs: frequencies, phases and share of the waves are inferred: class by class the next longer
        whole numbers of periods per image height and width, all in phase; once they run out, the
        same again a quarter of a period later.
    Differs: the morphological labels are inferred: dilation (maximum) for even and erosion
        (minimum) for odd classes over pairs of pixels, whose offset grows with the class; in the
        variant of that name the transformed image replaces the image (κ = 1).
    Differs: the logit of each layer is its goodness above threshold per position (of a dense layer:
        in all), in training as in prediction; else large maps drown small ones.
    Differs: initial weights are N(0, 2/fan_in), which starts the goodness near its threshold: a
        little below it where images are padded with zeros, up to twice as high behind a pooling.
        Forward-Forward's N(0, 1/fan_in) starts at half of it, and learned several times slower
        on digits.
    Differs: RMS normalisation over channels, height and width (ahead of the next layer's pooling),
        thresholds equal to the number of units, peer normalisation and sampled wrong labels carry
        over from Forward-Forward; the paper says layer normalisation and linear classifier.
    Differs: AdamW instead of Forward-Forward's SGD.
    Differs: the dense layer that ends a convolutional architecture learns by the same rule.
    """

    name = "ff-conv"
    label = "Convolutional FF"
    version = 2
    source = "arXiv 2312.14924"
    traits = Traits(
        local_updates=True,
        feedback="wrong labels are drawn from a readout of the later layers",
        readouts=("goodness", "goodness_all", "softmax"),
    )
    Config = FFConvConfig
    space: ClassVar = {
        "lr": LogUniform(2e-4, 2e-2),
        "kappa": Uniform(0.1, 0.6),
        "peer": LogUniform(3e-3, 0.3),
    }
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fourier": {"label": "fourier"},
        "morphological": {"label": "morphological", "kappa": 1.0},
        "planes": {"label": "planes", "kappa": 1.0},  # has no use for κ, so it is not tuned
    }
    mean: Tensor
    std: Tensor
    waves: Tensor
    sources: Tensor

    def __init__(self, blocks: Blocks, task: Task, config: FFConvConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        if config.label == "planes":
            _widen_input(blocks[0], task.n_classes)
        for l, block in enumerate(blocks):
            weights = _weights(block)
            fan_in = weights.weight[0].numel()
            nn.init.normal_(weights.weight, std=math.sqrt(2 / fan_in))
            assert weights.bias is not None
            nn.init.zeros_(weights.bias)
            self.register_buffer(f"peer_mean_{l}", torch.full((len(weights.weight),), 0.5))
        voting = list(blocks)[1:] or list(blocks)
        self.aux["readout"] = zero_linear(
            sum(len(_weights(block).weight) for block in voting), task.n_classes
        )
        _, height, width = task.shape
        if config.label == "fourier":
            waves = plane_waves(task.n_classes, height, width)
            self.register_buffer("waves", waves, persistent=False)
        if config.label == "morphological":
            sources = shifted_pixels(task.n_classes, height, width)
            self.register_buffer("sources", sources, persistent=False)
        self.register_buffer("mean", torch.tensor(task.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(task.std).view(1, -1, 1, 1), persistent=False)
        self.optimizer = optimizer(
            config.optimizer, trainable(blocks), config.lr, config.momentum, config.weight_decay
        )
        self.readout_optimizer = optimizer(
            config.optimizer,
            trainable(self.aux),
            config.readout_lr,
            config.momentum,
            config.readout_weight_decay,
        )

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        return BlockStyle(norm="none")  # the length of an activity vector is its goodness

    @classmethod
    def refuse(cls, blocks: Blocks, task: Task, config: Any) -> str | None:
        if "residual" in blocks.kinds:
            return (
                "a residual unit holds two layers and their batch norm, and the goodness is that "
                "of one layer without"
            )
        if blocks[0].kind != "conv":
            return "it is Forward-Forward for shared weights; fully connected layers are for ff"
        _, height, width = task.shape
        possible = len(_offsets(height, width)) * (4 if config.label == "fourier" else 2)
        if config.label != "planes" and task.n_classes > possible:
            return f"images of {height}x{width} have room for {possible} {config.label} labels"
        return None

    # -------------------------------------------------------------- labels in the input

    def _pixels(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean  # back to [0, 1], the unit of the labels

    def _labelled(self, pixels: Tensor, y: Tensor) -> Tensor:
        """N(x ⊕ y), the input of the first layer, from pixels in [0, 1], (B, C, H, W)."""
        if self.config.label == "planes":
            return self._with_planes(pixels, F.one_hot(y, self.task.n_classes).to(pixels.dtype))
        if self.config.label == "fourier":
            return self._mixed(pixels, self.waves[y])
        index = self.sources[y][:, None].expand(-1, pixels.shape[1], -1)
        shifted = pixels.flatten(2).gather(2, index).view_as(pixels)
        even = (y % 2 == 0).view(-1, 1, 1, 1)
        changed = torch.where(even, torch.maximum(pixels, shifted), torch.minimum(pixels, shifted))
        return self._mixed(pixels, changed)

    def _unlabelled(self, pixels: Tensor) -> Tensor:
        """The neutral input."""
        if self.config.label == "planes":
            c = self.task.n_classes
            return self._with_planes(pixels, pixels.new_full((len(pixels), c), 1 / c))
        if self.config.label == "fourier":
            return self._mixed(pixels, self.waves.mean(0))
        return rms_norm(pixels)

    def _mixed(self, pixels: Tensor, pattern: Tensor) -> Tensor:
        return rms_norm(torch.lerp(pixels, pattern.expand_as(pixels), self.config.kappa))

    def _with_planes(self, pixels: Tensor, label: Tensor) -> Tensor:
        planes = label[:, :, None, None].expand(-1, -1, *pixels.shape[2:])
        return rms_norm(torch.cat([pixels, planes], dim=1))

    # ----------------------------------------------------------------------- training

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        config, b = self.config, len(y)
        factor = linear_cooldown(progress)
        set_lr(self.optimizer, config.lr, factor)
        set_lr(self.readout_optimizer, config.readout_lr, factor)

        pixels = self._pixels(x)
        with torch.no_grad():
            states = self._neutral(pixels)
        scores = self._readout(states)
        readout_loss = F.cross_entropy(scores, y)
        self.readout_optimizer.zero_grad()
        readout_loss.backward()

        wrong = wrong_labels(y, scores.detach(), config.negatives, self.rng)
        h = torch.cat([self._labelled(pixels, y), self._labelled(pixels, wrong)])
        self.optimizer.zero_grad()
        total = x.new_zeros(())
        for l, block in enumerate(self.blocks):
            a = block(h, _divided_by(rms(h)), activate=False)
            h = block.activation(a.detach())
            temperature = float(_positions(h))
            loss, gradient = goodness_gradient(h, temperature)
            running = self.get_buffer(f"peer_mean_{l}")
            gradient[:b] += peer_gradient(running, h[:b], config.peer / temperature)
            a.backward(gradient)
            total += loss
        self.optimizer.step()
        self.readout_optimizer.step()
        return {"loss": total / len(self.blocks), "readout_loss": readout_loss.detach()}

    # --------------------------------------------------------------------- prediction

    def _neutral(self, pixels: Tensor) -> list[Tensor]:
        """Normalised states of all layers on the neutral input, each (B, *out_shape)."""
        state, states = self._unlabelled(pixels), []
        for block in self.blocks:
            state = rms_norm(block(state))
            states.append(state)
        return states

    def _readout(self, states: list[Tensor]) -> Tensor:
        pooled = [s.mean((2, 3)) if s.dim() == 4 else s for s in states[1:] or states]
        return self.aux["readout"](torch.cat(pooled, dim=1))

    def logits(self, x: Tensor, readout: str = "goodness", rng: Generator | None = None) -> Tensor:
        pixels = self._pixels(x)
        if readout == "softmax":
            return self._readout(self._neutral(pixels))
        largest = max(block.out_features for block in self.blocks)
        rows = images_at_once(self.task.n_classes * largest, x.device)
        return torch.cat([self._goodness_per_class(p, readout) for p in pixels.split(rows)])

    def _goodness_per_class(self, pixels: Tensor, readout: str) -> Tensor:
        """Summed goodness under each label, (B, C): all classes in one batch."""
        b, c = pixels.shape[0], self.task.n_classes
        labels = torch.arange(c, device=pixels.device).repeat(b)
        return self._goodness(pixels.repeat_interleave(c, 0), labels, readout).view(b, c)

    def _goodness(self, pixels: Tensor, y: Tensor, readout: str) -> Tensor:
        """Summed goodness of each image under its label, (B,)."""
        h = self.blocks[0](self._labelled(pixels, y))
        return summed_goodness(self.blocks, h, readout == "goodness_all")

    def _one_pass_per_class(self, x: Tensor, readout: str) -> Tensor:
        """The same as `logits`, one class after another, as it is often written: (B, C)."""
        pixels = self._pixels(x)
        labels = torch.arange(self.task.n_classes, device=x.device)
        scores = [self._goodness(pixels, y.expand(len(x)), readout) for y in labels]
        return torch.stack(scores, dim=1)

    def other_ways(self, readout: str) -> dict[str, Callable[[Tensor], Tensor]]:
        if readout == "softmax":
            return {}
        return {"looped over classes": lambda x: self._one_pass_per_class(x, readout)}

    def eval_passes(self, readout: str) -> int:
        return 1 if readout == "softmax" else self.task.n_classes

    def features(self, x: Tensor) -> list[Tensor]:
        return [state.flatten(1) for state in self._neutral(self._pixels(x))]


def plane_waves(n_classes: int, height: int, width: int) -> Tensor:
    """One wave per class with values in [0, 1], (C, 1, H, W)."""
    periods = _offsets(height, width)
    row = (torch.arange(height) + 0.5).view(-1, 1) / height
    column = (torch.arange(width) + 0.5) / width
    waves = []
    for c in range(n_classes):
        fy, fx = periods[c % len(periods)]
        phase = (c // len(periods)) * math.pi / 2
        waves.append((1 + torch.cos(2 * math.pi * (fy * row + fx * column) + phase)) / 2)
    return torch.stack(waves)[:, None]


def shifted_pixels(n_classes: int, height: int, width: int) -> Tensor:
    """Where each pixel's partner under label c lies, (C, H·W): r − d_c, or the nearest inside."""
    row, column = torch.arange(height).view(-1, 1), torch.arange(width)
    partners = []
    offsets = _offsets(height, width)
    for dy, dx in (offsets[c // 2] for c in range(n_classes)):
        y, x = (row - dy).clamp(0, height - 1), (column - dx).clamp(0, width - 1)
        partners.append((y * width + x).flatten())
    return torch.stack(partners)


def _offsets(height: int, width: int) -> list[tuple[int, int]]:
    """Whole-number vectors below half the image side, no two opposite, the shortest first."""
    ys, xs = (height - 1) // 2, (width - 1) // 2
    found = [
        (y, x) for y in range(ys + 1) for x in range(-xs, xs + 1) if y > 0 or (y == 0 and x > 0)
    ]
    return sorted(found, key=lambda v: (v[0] ** 2 + v[1] ** 2, v))


def _widen_input(block: Block, planes: int) -> None:
    """Gives the first convolution more input channels, for the label; all else stays."""
    old = block.weights
    assert isinstance(old, nn.Conv2d)
    channels, height, width = block.in_shape
    per_channel = old.in_channels // channels  # more than one behind a space-to-depth
    block.in_shape = (channels + planes, height, width)
    block.weights = nn.Conv2d(
        (channels + planes) * per_channel,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
    )


def _divided_by(lengths: Tensor) -> Callable[[Tensor], Tensor]:
    """For after the pooling, which leaves less to divide and does not care."""
    return lambda pooled: pooled / lengths


def _positions(h: Tensor) -> int:
    """Height times width of feature maps, 1 for dense layers."""
    return h[0, 0].numel()


def _weights(block: Block) -> nn.Linear | nn.Conv2d:
    assert isinstance(block.weights, nn.Linear | nn.Conv2d)
    return block.weights
