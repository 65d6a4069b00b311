"""Blocks: the units that a local rule trains on their own, and a few tensor operations on them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods import batch

M = TypeVar("M", bound=nn.Module)
Kind = Literal["dense", "conv", "residual"]
Pooling = Literal["max", "space_to_depth"]


@dataclass(frozen=True, slots=True)
class BlockStyle:
    """What a method may choose about the blocks of an architecture; widths and topology it may not.

    norm: "default" takes the architecture's own (none in MLPs, batch norm in convolutional nets).
    """

    norm: Literal["default", "none", "batch"] = "default"
    activation: Literal["relu", "leaky_relu"] = "relu"


class Block(nn.Module):
    """One unit of local training: pool the input, then weights, normalisation, activation.

    Pooling stands at the entry, not the exit, so that the output of a convolutional block has
    the resolution at which its weights worked: that is where local losses read it
    (Nøkland & Eidnes 2019). The network computes the same function either way.

    Attributes:
        kind: "dense" for fully connected, "conv" for one convolution, "residual" for a unit with
            a shortcut.
        in_shape: shape of one input sample, (D,) or (C, H, W); dense blocks flatten what they get.
        out_shape: shape of one output sample, (D,) or (C, H, W).
        weights: the linear map (nn.Linear, nn.Conv2d or a residual unit).
        pool, pooling: side of the squares that the input is reduced by, and how: to the maximum of
            each, or, losing nothing, to pool² channels per channel ("space_to_depth").
    """

    def __init__(
        self,
        kind: Kind,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        weights: nn.Module,
        norm: nn.Module | None = None,
        activation: nn.Module | None = None,
        pool: int = 1,
        pooling: Pooling = "max",
    ) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.in_shape, self.out_shape = in_shape, out_shape
        self.pool = pool
        self.pooling: Pooling = pooling
        self.weights = weights
        self.norm = norm if norm is not None else nn.Identity()
        self.activation = activation if activation is not None else nn.Identity()

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.in_shape} to {self.out_shape}, pool={self.pool} {self.pooling}"

    @property
    def out_features(self) -> int:
        """Number of values in one output sample."""
        return math.prod(self.out_shape)

    def pooled(self, x: Tensor) -> Tensor:
        """The input as the weights see it, reduced by the block's pooling."""
        if self.pool == 1:
            return x
        return (max_pool if self.pooling == "max" else F.pixel_unshuffle)(x, self.pool)

    def forward(
        self,
        x: Tensor,
        noise: Callable[[Tensor], Tensor] | None = None,
        activate: bool = True,
    ) -> Tensor:
        """Activities of this block, (B, *out_shape), from those of the one before, (B, *in_shape).

        Args:
            noise: applied to the pooled input, for rules that train with noise there. Ahead of
                the pooling, the maximum would turn dropout into a gain that prediction lacks.
            activate: False for the pre-activations, for rules that need both: the activities are
                `activation` of them, except in a residual unit, which has its own inside.
        """
        x = self.pooled(x)
        if noise is not None:
            x = noise(x)
        if self.kind == "dense" and x.dim() > 2:
            x = x.flatten(1)
        x = self.norm(self.weights(x))
        return self.activation(x) if activate else x


class Blocks(nn.ModuleList):
    """A stack of blocks, first to last; iterating yields `Block`s."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__(blocks)

    def __iter__(self) -> Iterator[Block]:
        return iter(super().__iter__())  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Block:  # type: ignore[override]
        return super().__getitem__(index)  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Output of the last block, (B, *out_shape)."""
        for block in self:
            x = block(x)
        return x

    @property
    def kinds(self) -> set[str]:
        """The kinds of block in the stack."""
        return {block.kind for block in self}


def fresh_copy(module: M) -> M:
    """A copy with newly drawn initial weights (from torch's global generator)."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    return twin


def rms_norm(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x / (eps + sqrt(mean over features of x²)): every sample gets mean square 1.

    Args:
        x: activities, (B, ...); all dimensions but the first are features.
    Source: Hinton 2022 (arXiv 2212.13345), released code: no mean subtraction, no gain, no bias.
    """
    return x / rms(x, eps)


def rms(x: Tensor, eps: float = 1e-8) -> Tensor:
    """eps + sqrt(mean over features of x²), (B, 1, ...)."""
    length = torch.linalg.vector_norm(x, dim=tuple(range(1, x.dim())), keepdim=True)
    return length / math.sqrt(x[0].numel()) + eps


def max_pool(x: Tensor, side: int) -> Tensor:
    """The largest of each square, (B, C, H // side, W // side): what F.max_pool2d gives.

    That notes where the largest was, which takes many times as long in the usual order of memory on
    a CPU, and is for a gradient alone.
    """
    needed = x.requires_grad and torch.is_grad_enabled()
    if needed or side != 2 or x.device.type != "cpu" or not x.is_contiguous():
        return F.max_pool2d(x, side)
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
    rows = torch.maximum(x[..., ::2, :], x[..., 1::2, :])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


def pool_until(h: Tensor, max_features: int) -> Tensor:
    """Average-pools feature maps until one sample has at most `max_features` values.

    Height and width of the kernel double in turns, as those of the local classifiers of Nøkland &
    Eidnes (arXiv 1901.06656, released code) do. Windows over the edge average what they cover, so
    that no pixel is lost. Anything that is not a feature map is returned as it is.

    Args:
        h: (B, C, H, W) or (B, D).
    Returns:
        (B, C, h, w) with C·h·w <= max_features where C allows it, else (B, C, 1, 1).
    """
    if h.dim() != 4:
        return h
    kernel = pool_kernel(tuple(h.shape[1:]), max_features)
    if kernel == (1, 1):
        return h
    return F.avg_pool2d(h, kernel, ceil_mode=True, count_include_pad=False)


def pool_kernel(shape: tuple[int, ...], max_features: int) -> tuple[int, int]:
    """Height and width of the kernel of `pool_until` for one sample of this shape, (C, H, W)."""
    c, h, w = shape
    high = wide = 1

    def size() -> int:
        return c * math.ceil(h / high) * math.ceil(w / wide)

    while size() > max_features and (high < h or wide < w):
        if high <= wide:
            high *= 2
        else:
            wide *= 2
    return high, wide


def pooled_shape(shape: tuple[int, ...], max_features: int) -> tuple[int, ...]:
    """Shape of one sample after `pool_until`."""
    if len(shape) != 3:
        return shape
    high, wide = pool_kernel(shape, max_features)
    return (shape[0], math.ceil(shape[1] / high), math.ceil(shape[2] / wide))


def pool_to(shape: tuple[int, ...], side: int) -> tuple[nn.AvgPool2d, tuple[int, ...]]:
    """Average pooling of maps, (C, H, W), to at most side x side, and the shape that it gives.

    Windows do not overlap and leave no pixel out; where a side does not divide, the last ones are
    smaller. Unlike adaptive pooling, its gradient is deterministic on GPUs.
    """
    c, h, w = shape
    kernel = math.ceil(h / side), math.ceil(w / side)
    pooled = (c, math.ceil(h / kernel[0]), math.ceil(w / kernel[1]))
    return nn.AvgPool2d(kernel, ceil_mode=True), pooled


class PooledLinear(nn.Module):
    """Linear class scores, (B, C), from a block's activities: a local classifier.

    Feature maps are averaged over space down to at most `max_features` values a sample, so that
    the classifier stays small beside the block.
    """

    def __init__(self, block: Block, n_classes: int, max_features: int = 2048) -> None:
        super().__init__()
        self.max_features = max_features
        size = math.prod(pooled_shape(block.out_shape, max_features))
        self.linear = nn.Linear(size, n_classes)

    def forward(self, h: Tensor) -> Tensor:
        """Scores, (B, C), from activities, (B, *out_shape)."""
        return self.linear(pool_until(h, self.max_features).flatten(1))


def dropout(x: Tensor, p: float, rng: Generator, per_channel: bool = False) -> Tensor:
    """Dropout whose noise comes from an explicit generator, so that resuming is bit-exact.

    Args:
        x: (B, ...). p: probability of a zero, in [0, 1). per_channel: drop whole feature maps.
    """
    if p == 0.0:
        return x
    shape = x.shape[:2] + (1,) * (x.dim() - 2) if per_channel else x.shape
    keep = batch.draw(shape, x, lambda noise: noise.bernoulli_(1 - p, generator=rng))
    return x * keep.div_(1 - p)
