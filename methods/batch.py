"""The mini-batch as a whole, where several processes have a part of it each.

A loss that is a mean over samples needs nothing from here: gradients are averaged over processes
before an optimizer makes its step. Whatever couples samples asks for the whole: statistics, pairs,
sums over the batch. And noise is drawn for the whole, of which each process takes its own rows, so
that a cell is the same however many processes share it.

Each process has as many rows as the others, in the order of their ranks. In a process on its own,
all of this does nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_alone = False


def ranks() -> int:
    """How many processes share the mini-batch."""
    if _alone or not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within it, mini-batches are this process's own: in predictions, say."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def whole(x: Tensor) -> Tensor:
    """The rows of all processes, (ranks · B, ...), from the own ones, (B, ...); differentiable."""
    return x if ranks() == 1 else _Whole.apply(x)


def total(x: Tensor) -> Tensor:
    """The sum over all processes, shaped as x; differentiable."""
    return x if ranks() == 1 else _Total.apply(x)


def draw(shape: Sequence[int], like: Tensor, fill: Callable[[Tensor], object]) -> Tensor:
    """Noise for the own rows.

    Args:
        shape: of the noise, (B, ...).
        like: has its device and data type.
        fill: fills a tensor of the shape (ranks · B, ...) in place, by the method's generator.
    """
    noise = torch.empty((ranks() * shape[0], *shape[1:]), device=like.device, dtype=like.dtype)
    fill(noise)
    return own(noise)


def own(rows: Tensor) -> Tensor:
    """The rows of this process among those of all."""
    return rows if ranks() == 1 else rows.tensor_split(ranks())[dist.get_rank()]


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Statistics of each channel over samples and positions of the whole batch; differentiable.

    Args:
        x: (B, C) or (B, C, ...).

    Returns:
        Mean and biased variance, (C,), in float32 at least, and the number of values behind them.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    over = [0, *range(2, x.dim())]
    n = ranks() * x.numel() // x.shape[1]
    mean = total(x.sum(over)) / n
    centred = x - mean.view(-1, *[1] * (x.dim() - 2))
    return mean, total(centred.square().sum(over)) / n, n


# The processes' losses L_r stand for the loss mean_r L_r. So the gradient of what a process got
# from others is the sum of what all of them have made of it.


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(ranks())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return own(gradient)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient)
