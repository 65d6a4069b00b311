"""Feedback alignment: back-propagation whose errors return through other weights than W_l.

    forward    z_l = W_l h_{l-1} + b_l,   h_l = φ(z_l)
    backward   δ_out = softmax(z_out) − onehot(y),   δ_l = (B_{l+1}ᵀ δ_{l+1}) ⊙ φ'(z_l)
    update     ∂L/∂W_l = δ_l h_{l-1}ᵀ,   ∂L/∂b_l = δ_l

FA, Lillicrap et al. (arXiv 1411.0247): B_l is random, of the shape of W_l, and never changes.
uSF, Liao et al. (arXiv 1510.05067): B_l = s_l sign(W_l), with one magnitude for all weights.
B_l = W_l would be back-propagation. A convolution's errors return through a kernel B_l likewise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods.base import Method, Task, Traits, adamw, cosine, set_lr, trainable
from methods.blocks import Blocks
from methods.registry import register
from methods.space import LogUniform, Uniform


@dataclass(frozen=True)
class FeedbackAlignmentConfig:
    """Defaults are those of our backprop, so that the two differ in the way back alone.

    Adam, because a comparison under SGD misleads: SGD costs FA up to 6 points of CIFAR-10,
    and stays within 2 points of Adam for backprop (arXiv 2108.13446, released benchmarks).
    """

    lr: float = 1e-3
    weight_decay: float = 1e-4


class LinearProduct(torch.autograd.Function):
    """x Wᵀ + b, with the gradient to x through B in place of W."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Feedback
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.feedback = feedback
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, weight = (saved.to(delta.dtype) for saved in ctx.saved_tensors)  # delta may be bfloat16
        to_x, _, to_bias, _ = ctx.needs_input_grad
        back = delta @ ctx.feedback(weight).to(delta.dtype) if to_x else None
        return back, delta.T @ x, delta.sum(0) if to_bias else None, None


class ConvProduct(torch.autograd.Function):
    """The convolution of x with W, plus b, with the gradient to x through the kernel B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, feedback: Feedback, *how: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.feedback = feedback
        ctx.how = how  # stride, padding, dilation, groups
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        x, weight = (saved.to(delta.dtype) for saved in ctx.saved_tensors)
        # of the three gradients only the one to x depends on the kernel
        back = ctx.feedback(weight).to(delta.dtype) if ctx.needs_input_grad[0] else weight
        stride, padding, dilation, groups = ctx.how
        gradients = torch.ops.aten.convolution_backward(
            delta, x, back, [back.shape[0]], stride, padding, dilation, False, [0, 0], groups,
            list(ctx.needs_input_grad[:3]),
        )  # fmt: skip
        return *gradients, *[None] * (1 + len(ctx.how))


class Feedback(nn.Module):
    """The matrix or kernel B that a layer's errors return through.

    Args:
        drawn: weights as the framework initialises them; B has their shape and scale.
        signs: B follows the signs of the layer's weights, with the drawn ones' expected size
            (root mean square) as its only magnitude; else B is what was drawn.
    """

    def __init__(self, drawn: Tensor, signs: bool) -> None:
        super().__init__()
        # uniform between ±1/√fan_in, so its variance is 1/(3 fan_in)
        self.magnitude = 1 / math.sqrt(3 * drawn[0].numel())
        fixed = None if signs else nn.Parameter(drawn.detach().clone(), requires_grad=False)
        self.register_parameter("fixed", fixed)
        self.fixed: nn.Parameter | None

    def forward(self, weight: Tensor) -> Tensor:
        """B, of the shape of W."""
        return self.fixed if self.fixed is not None else self.magnitude * weight.detach().sign()


class FeedbackLinear(nn.Linear):
    """A linear layer, its weights taken over, whose errors return through a matrix of their own."""

    def __init__(self, layer: nn.Linear, signs: bool) -> None:
        super().__init__(layer.in_features, layer.out_features)
        self.feedback = Feedback(self.weight, signs)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return LinearProduct.apply(x, self.weight, self.bias, self.feedback)


class FeedbackConv2d(nn.Conv2d):
    """A convolution, its weights taken over, whose errors return through a kernel of their own."""

    def __init__(self, layer: nn.Conv2d, signs: bool) -> None:
        how: Any = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
        super().__init__(layer.in_channels, layer.out_channels, *how)
        self.feedback = Feedback(self.weight, signs)
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        how = (self.stride, self.padding, self.dilation, self.groups)
        return ConvProduct.apply(x, self.weight, self.bias, self.feedback, *how)


def give_feedback(module: nn.Module, signs: bool) -> None:
    """Puts layers with feedback in the place of all linear layers and convolutions inside."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear):
            setattr(module, name, FeedbackLinear(child, signs))
        elif isinstance(child, nn.Conv2d):
            setattr(module, name, FeedbackConv2d(child, signs))
        else:
            give_feedback(child, signs)


@register
class FeedbackAlignment(Method):
    """Errors return layer by layer through fixed random matrices in place of the weights.

    Differs: all else that errors pass (activation, pooling, batch norm, the sum at a shortcut) is
        differentiated as it is; only products with weights are replaced.
    Differs: Adam and a cosine schedule, where the papers use stochastic gradient descent.
    """

    name = "fa"
    label = "Feedback alignment"
    version = 2
    source = "arXiv 1411.0247"
    traits = Traits(
        local_updates=False,
        feedback="the output error, from layer to layer through fixed random matrices",
    )
    Config = FeedbackAlignmentConfig
    # backprop's, so that the way back is still all that differs
    space: ClassVar = {"lr": LogUniform(1e-4, 1e-2), "weight_decay": Uniform(0.0, 0.1)}
    signs: ClassVar[bool] = False  # whether the way back follows the signs of the weights

    def __init__(
        self, blocks: Blocks, task: Task, config: FeedbackAlignmentConfig, rng: Generator
    ) -> None:
        super().__init__(blocks, task, config, rng)
        self.classifier: nn.Linear = nn.Linear(blocks[-1].out_features, task.n_classes)
        # No error goes to the image: the first layer needs no way back, unless it is several.
        first, *others = blocks
        for part in (*([first] if first.kind == "residual" else []), *others):
            give_feedback(part, self.signs)
        self.classifier = FeedbackLinear(self.classifier, self.signs)
        # fixed, but counted as what training needs
        ways_back = [m for m in self.modules() if isinstance(m, Feedback)]
        self.aux["feedback"] = nn.ModuleList(ways_back)
        self.optimizer = adamw(trainable(self), config.lr, config.weight_decay)

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        set_lr(self.optimizer, self.config.lr, cosine(progress))
        loss = F.cross_entropy(self.logits(x), y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach()}

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        return self.classifier(self.blocks(x).flatten(1))


@register
class SignSymmetric(FeedbackAlignment):
    """Errors return layer by layer through the signs of the weights, all of one magnitude.

    Differs: the magnitude of uSF is 1/√(3·fan_in), the root mean square of weights that start as
        torch's layers do by default (torchvision's networks start otherwise), where the paper's is
        1; under Adam the scale of a layer's gradient hardly matters.
    """

    name = "usf"
    label = "Sign-symmetric feedback (uSF)"
    version = 2
    source = "arXiv 1510.05067"
    traits = Traits(
        local_updates=False,
        feedback="the output error, from layer to layer through the signs of the weights",
    )
    signs = True
