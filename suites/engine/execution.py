"""How the same step is carried out: choices of the protocol that change speed, memory and rounding.

They are for all methods alike, and on record like the rest of the protocol, in training and in
costs. No method knows of them.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods import Method

CHOICES = {
    "channels_last": "feature maps lie pixel by pixel in memory, as fast convolutions have them",
    "compile": "blocks, heads and auxiliary networks run as torch.compile makes them",
    "summed_backward": "the losses of all blocks wait for one sweep, instead of one sweep each",
}


def carry_out(method: Method, execution: Sequence[str]) -> Method:
    """The same method, changed in place to be carried out in these ways."""
    if "channels_last" in execution:
        method.to(memory_format=torch.channels_last)
    if "compile" in execution:
        # all blocks share the code of one forward, and each shape counts as one more version of it
        torch._dynamo.config.recompile_limit = max(256, torch._dynamo.config.recompile_limit)
        for part in _parts(method):
            part.compile()
    if "summed_backward" in execution:
        method.train_step = _in_one_sweep(method)  # type: ignore[method-assign]
    return method


def uncompiled() -> contextlib.AbstractContextManager[object]:
    """Within it, compiled parts run as written, so that counters can look into them."""
    if "torch._dynamo" not in sys.modules:  # importing it takes seconds, and nothing is compiled
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """The modules below this one that are called, and not only kept in lists."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _parts(child)
        else:
            yield child


def _in_one_sweep(method: Method) -> Callable[..., dict[str, Tensor]]:
    """`train_step` with its calls of `backward` put off until an optimizer makes its step.

    Blocks with losses of their own have graphs of their own, so the gradients are the same to the
    last bit; the graphs of all blocks are kept until then, where else one at a time is.
    """
    losses: list[Tensor] = []
    gradients: list[Tensor | None] = []
    step = method.train_step

    def later(loss: Tensor, gradient: Tensor | None = None) -> None:
        losses.append(loss)
        gradients.append(gradient)

    def forget() -> None:
        losses.clear()
        gradients.clear()

    def sweep(*_: Any) -> None:
        if losses:
            torch.autograd.backward(losses, gradients)
            forget()

    @functools.wraps(step)
    def train_step(*args: Any, **options: Any) -> dict[str, Tensor]:
        with contextlib.ExitStack() as hooks:
            for optimizer in _optimizers(method):
                hooks.callback(optimizer.register_step_pre_hook(sweep).remove)
            own = torch.Tensor.backward
            hooks.callback(setattr, torch.Tensor, "backward", own)
            torch.Tensor.backward = later  # type: ignore[method-assign, assignment]
            try:
                return step(*args, **options)
            finally:
                forget()

    return train_step


def _optimizers(method: Method) -> Iterator[Optimizer]:
    for value in vars(method).values():
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Optimizer):
                yield part
