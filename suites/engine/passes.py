"""Passes through the architecture under test, counted on whatever runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from methods import Method
from methods.blocks import Blocks


def stacks_of(method: Method) -> list[Blocks]:
    """The stack of blocks, and the copies of it that a method may hold (one per denoising step)."""
    return [module for module in method.modules() if isinstance(module, Blocks)]


@contextlib.contextmanager
def count_passes(method: Method) -> Iterator[Callable[[], int]]:
    """Counts samples through the stacks of blocks: at the busiest position, summed over stacks."""
    counts: dict[int, list[int]] = {}
    hooks = []
    for s, stack in enumerate(stacks_of(method)):
        counts[s] = [0] * len(stack)
        for position, block in enumerate(stack):

            def count(module: nn.Module, args: Any, s: int = s, position: int = position) -> None:
                counts[s][position] += len(args[0])

            hooks.append(block.register_forward_pre_hook(count))
    try:
        yield lambda: sum(max(c, default=0) for c in counts.values())
    finally:
        for hook in hooks:
            hook.remove()
