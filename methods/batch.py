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
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Group(Protocol):
    """Who shares the mini-batch, as one of them sees it."""

    @property
    def rank(self) -> int:
        """Number of the one, from 0."""

    @property
    def size(self) -> int:
        """How many they are."""

    def add(self, x: Tensor) -> None:
        """Replaces x by the sum over all."""

    def gather(self, x: Tensor) -> list[Tensor]:
        """The x of all, in the order of their ranks."""


class _Processes:
    """The processes of torch.distributed's group, where there is one."""

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def size(self) -> int:
        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    def add(self, x: Tensor) -> None:
        dist.all_reduce(x)

    def gather(self, x: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(parts, x)
        return parts


class _Here(threading.local):
    group: Group = _Processes()
    alone = False


_here = _Here()


def ranks() -> int:
    """How many processes share the mini-batch."""
    return 1 if _here.alone else _here.group.size


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within it, mini-batches are this process's own: in predictions, say."""
    before, _here.alone = _here.alone, True
    try:
        yield
    finally:
        _here.alone = before


@contextlib.contextmanager
def among(group: Group) -> Iterator[None]:
    """Within it, this thread shares its mini-batches with that group."""
    before, _here.group = _here.group, group
    try:
        yield
    finally:
        _here.group = before


def add(x: Tensor) -> None:
    """Replaces x by the sum over all processes."""
    if ranks() > 1:
        _here.group.add(x)


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
    return rows if ranks() == 1 else rows.tensor_split(ranks())[_here.group.rank]


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
        return torch.cat(_here.group.gather(x.contiguous()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        add(gradient)
        return own(gradient)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        add(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Total.forward(ctx, gradient)
