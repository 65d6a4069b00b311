"""Forward-Forward, supervised (Hinton 2022, arXiv 2212.13345; details from his released code).

The first C pixels are overwritten by a label: one-hot and true (+), one-hot and wrong (−), or 1/C
each (neutral). N(a) = a / rms(a), and sg is stop-gradient.

    ĥ_0 = N(x with label),   h_l = ReLU(W_l ĥ_{l-1} + b_l),   ĥ_l = sg[N(h_l)]
    G_l = sum_j h_lj²,       θ_l = width of layer l
    L_l = softplus(θ_l − G_l(+)) + softplus(G_l(−) − θ_l)

Peer normalisation adds to the ascent direction of each unit's pre-activation, on positives only and
not gated by the ReLU, λ (mean_k m_lk − m_lj), where m_lj is a running mean of h_lj.

All layers are updated on every mini-batch. Wrong labels are drawn from a softmax readout on the
neutral pass, with the true class left out. Two ways to predict: the class whose label gives the
highest goodness summed over all layers but the first (C passes), or the softmax readout (1 pass).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, linear_cooldown, set_lr, trainable
from methods.blocks import Block, Blocks, BlockStyle, rms_norm
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
from methods.space import LogUniform


@dataclass(frozen=True)
class FFConfig:
    """Defaults follow the released code unless marked `Differs`."""

    # "mean": of squares, against 1. The same predictions; all gradients are n times smaller (n:
    # the layer's width), so it needs a learning rate up to n times larger.
    goodness: Literal["sum", "mean"] = "sum"
    negatives: Negatives = "hard"  # drawn from the readout, or at random
    optimizer: Literal["sgd", "adam"] = "sgd"
    # the released 0.01 on an exponential average (0.1 new) of half the gradient, in momentum form
    lr: float = 5e-4
    momentum: float = 0.9
    weight_decay: float = 6e-4  # arXiv 2212.13345 as re-implemented by loeweX: 3e-4 at lr 1e-3
    peer: float = 0.03  # λ of peer normalisation
    readout_lr: float = 1e-2
    readout_weight_decay: float = 3e-3


@register
class ForwardForward(Method):
    """Goodness of every layer up for true labels, down for wrong ones.

    Differs: weight decay of the layers follows the PyTorch re-implementation that reaches the
        Matlab release's error (loeweX), not the release itself, which decays more; biases are
        decayed as weights are, which the release does not, and the readout has a trained bias.
    Differs: the label overwrites the first pixels, which are empty border on MNIST and visible
        elsewhere: 0.3 % of the inputs of a 32x32 colour image for 10 classes, 3.3 % for 100, and
        15.6 % of an 8x8 digit; the page shows the share.
    """

    name = "ff"
    label = "Forward-Forward"
    version = 2
    source = "arXiv 2212.13345"
    traits = Traits(
        local_updates=True,
        feedback="wrong labels are drawn from a readout of the later layers",
        readouts=("goodness", "goodness_all", "softmax"),
    )
    Config = FFConfig
    space: ClassVar = {
        "lr": LogUniform(5e-5, 5e-3),
        "weight_decay": LogUniform(6e-5, 6e-3),
        "peer": LogUniform(3e-3, 0.3),
    }
    mean: Tensor
    std: Tensor

    def __init__(self, blocks: Blocks, task: Task, config: FFConfig, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        for block in blocks:
            weights = _linear(block)
            nn.init.normal_(weights.weight, std=1 / math.sqrt(weights.in_features))
            nn.init.zeros_(weights.bias)
            self.register_buffer(
                f"peer_mean_{len(self._peer_means())}", torch.full((block.out_features,), 0.5)
            )
        self.overwritten = task.n_classes / math.prod(task.shape)  # share of the input values
        readout = zero_linear(sum(b.out_features for b in self._voting()), task.n_classes)
        self.aux["readout"] = readout
        self.register_buffer("mean", torch.tensor(task.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(task.std).view(1, -1, 1, 1), persistent=False)
        self.optimizer = optimizer(
            config.optimizer, trainable(blocks), config.lr, config.momentum, config.weight_decay
        )
        self.readout_optimizer = optimizer(
            config.optimizer,
            trainable(readout),
            config.readout_lr,
            config.momentum,
            config.readout_weight_decay,
        )

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        return BlockStyle(norm="none")  # the length of an activity vector is its goodness

    @classmethod
    def refuse(cls, blocks: Blocks, task: Task, config: Any) -> str | None:
        if blocks.kinds != {"dense"}:
            return (
                "the label is written into the first pixels, which shared convolution "
                "weights see in one corner only"
            )
        if task.n_classes > math.prod(task.shape):
            return f"the label needs {task.n_classes} pixels, the image has {math.prod(task.shape)}"
        return None

    def _peer_means(self) -> list[Tensor]:
        return [b for name, b in self.named_buffers() if name.startswith("peer_mean_")]

    def _voting(self) -> list[Block]:
        """The layers that predict: all but the first, unless it is the only one."""
        blocks = list(self.blocks)
        return blocks[1:] or blocks

    # -------------------------------------------------------------- labels in the input

    def _image_part(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the first layer gets from the pixels that no label covers.

        The three inputs of one image differ in C pixels and in length only. So the product with
        the other pixels, nearly all of the first layer's work, is done once for all labels.

        Returns:
            product, (B, n_1), and sum of squares of those pixels, (B, 1).
        """
        pixels = (x * self.std + self.mean).flatten(1)  # back to [0, 1]: the label's unit
        c = self.task.n_classes
        rest = pixels[:, c:]
        return rest @ _linear(self.blocks[0]).weight[:, c:].T, rest.square().sum(1, keepdim=True)

    def _first(self, image: tuple[Tensor, Tensor], label: Tensor) -> Tensor:
        """Pre-activation of the first layer: N(x with label) W_1ᵀ + b_1.

        Args:
            image: what `_image_part` returned, (..., n_1) and (..., 1).
            label: values of the first C pixels, (..., C).
        """
        product, squares = image
        weights = _linear(self.blocks[0])
        squares = squares + label.square().sum(-1, keepdim=True)
        scale = 1 / ((squares / weights.in_features).sqrt() + 1e-8)
        of_label = label @ weights.weight[:, : label.shape[-1]].T
        return torch.addcmul(weights.bias, scale, product + of_label)

    def _neutral(self, x_part: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Normalised states of all layers for the neutral label, each (B, n_l)."""
        c = self.task.n_classes
        label = x_part[0].new_full((x_part[0].shape[0], c), 1 / c)
        state = rms_norm(self.blocks[0].activation(self._first(x_part, label)))
        states = [state]
        for block in list(self.blocks)[1:]:
            state = rms_norm(block(state))
            states.append(state)
        return states

    def _readout(self, states: list[Tensor]) -> Tensor:
        return self.aux["readout"](torch.cat(states[1:] or states, dim=1))

    # ---------------------------------------------------------------------- training

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        config, c, b = self.config, self.task.n_classes, len(y)
        factor = linear_cooldown(progress)
        set_lr(self.optimizer, config.lr, factor)
        set_lr(self.readout_optimizer, config.readout_lr, factor)

        image = self._image_part(x)
        with torch.no_grad():
            states = self._neutral(image)
        scores = self._readout(states)
        readout_loss = F.cross_entropy(scores, y)
        self.readout_optimizer.zero_grad()
        readout_loss.backward()

        labels = torch.cat([y, wrong_labels(y, scores.detach(), config.negatives, self.rng)])
        state = x  # of the layer below, normalised; the first layer does not read it
        twice = (torch.cat([image[0], image[0]]), torch.cat([image[1], image[1]]))
        a = self._first(twice, F.one_hot(labels, c).to(x.dtype))
        self.optimizer.zero_grad()
        peer_means, total = self._peer_means(), x.new_zeros(())
        for l, block in enumerate(self.blocks):
            if l > 0:
                a = block.weights(state)
            h = block.activation(a.detach())
            temperature = 1.0 if config.goodness == "sum" else float(block.out_features)
            loss, gradient = goodness_gradient(h, temperature)
            # peer normalisation in proportion to the gradient of the loss, whatever the steepness
            gradient[:b] += peer_gradient(peer_means[l], h[:b], config.peer / temperature)
            a.backward(gradient)
            total += loss
            state = rms_norm(h)
        self.optimizer.step()
        self.readout_optimizer.step()
        return {"loss": total / len(self.blocks), "readout_loss": readout_loss.detach()}

    # -------------------------------------------------------------------- prediction

    def logits(self, x: Tensor, readout: str = "goodness", rng: Generator | None = None) -> Tensor:
        if readout == "softmax":
            return self._readout(self._neutral(self._image_part(x)))
        widest = max(block.out_features for block in self.blocks)
        rows = images_at_once(self.task.n_classes * widest, x.device)
        return torch.cat([self._goodness_per_class(part, readout) for part in x.split(rows)])

    def _goodness_per_class(self, x: Tensor, readout: str) -> Tensor:
        """Summed goodness under each label, (B, C): all classes in one batch."""
        product, squares = self._image_part(x)
        labels = torch.eye(self.task.n_classes, device=x.device, dtype=x.dtype)
        first = self._first((product[:, None], squares[:, None]), labels)  # (B, C, n_1)
        h = self.blocks[0].activation(first)
        scores = summed_goodness(self.blocks, h.flatten(0, 1), readout == "goodness_all")
        return scores.view(h.shape[:2])

    def _one_pass_per_class(self, x: Tensor, readout: str) -> Tensor:
        """The same with the whole stack run once per class, as it is often written: (B, C)."""
        pixels = (x * self.std + self.mean).flatten(1)
        scores = []
        for label in torch.eye(self.task.n_classes, device=x.device, dtype=x.dtype):
            state = torch.cat([label.expand(len(x), -1), pixels[:, len(label) :]], dim=1)
            h = self.blocks[0](rms_norm(state))
            scores.append(summed_goodness(self.blocks, h, readout == "goodness_all"))
        return torch.stack(scores, dim=1)

    def other_ways(self, readout: str) -> dict[str, Callable[[Tensor], Tensor]]:
        if readout == "softmax":
            return {}
        return {"looped over classes": lambda x: self._one_pass_per_class(x, readout)}

    def eval_passes(self, readout: str) -> int:
        return 1 if readout == "softmax" else self.task.n_classes

    def features(self, x: Tensor) -> list[Tensor]:
        return self._neutral(self._image_part(x))


def _linear(block: Block) -> nn.Linear:
    assert isinstance(block.weights, nn.Linear)
    return block.weights
