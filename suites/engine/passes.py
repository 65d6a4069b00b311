"""Passes through the architecture under test, counted on whatever runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from methods import Method


@contextlib.contextmanager
def count_passes(method: Method) -> Iterator[Callable[[], int]]:
    """Counts samples through the stacks of blocks: the busiest position of all, summed over stacks.

    A method may hold several copies of its stack (one per denoising step): each copy counts.
    """
    counts: dict[int, list[int]] = {}
    hooks = []
    stacks = [m for m in method.modules() if isinstance(m, type(method.blocks))]
    for s, stack in enumerate(stacks):
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
