"""How the same step is carried out: choices of the protocol that change speed, memory and rounding.

They are for all methods alike, and on record like the rest of the protocol, in training and in
costs. No method knows of them.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from methods import Method
from methods.base import stateful
from suites.engine import datasets
from suites.engine.datasets import Data

if TYPE_CHECKING:
    from suites.engine.cell import Cell

CHOICES = {
    "channels_last": "feature maps lie pixel by pixel in memory, as fast convolutions have them",
    "compile": "blocks and heads, where called whole, run as torch.compile makes them",
    "summed_backward": "the losses of all blocks wait for one sweep, instead of one sweep each",
}


def carry_out(method: Method, execution: Sequence[str]) -> Method:
    """The same method, changed in place to be carried out in these ways; not to be copied then."""
    if "channels_last" in execution:
        method.to(memory_format=torch.channels_last)
    if "compile" in execution:
        # all blocks share the code of one forward, and each shape counts as one more version of it
        limits = torch._dynamo.config
        limits.recompile_limit = max(256, limits.recompile_limit)
        limits.accumulated_recompile_limit = max(4096, limits.accumulated_recompile_limit)
        for part in _parts(method):
            part.compile()
    if "summed_backward" in execution:
        method.train_step = _in_one_sweep(method)  # type: ignore[method-assign]
    return method


def check(cell: Cell, data: Data, device: torch.device) -> None:
    """Makes a step of each phase in the way chosen and in the plain way, on throw-away copies.

    Raises:
        ValueError: the updates differ. Where nothing is chosen that could do that, nothing is done.
    """
    if "summed_backward" not in cell.protocol.execution:
        return
    n = min(cell.protocol.batch_size, len(data.train[1]))
    x, y = datasets.prepare(data.train[0][:n], data.task), data.train[1][:n]
    plain = cell.build(data.task, device).train()
    summed = carry_out(cell.build(data.task, device).train(), ["summed_backward"])
    for phase, steps in plain.phases(1000):
        for method in (plain, summed) if steps else ():
            with torch.no_grad():
                frozen = method.frozen(x, phase)
            method.train_step(frozen, y, phase, 0.0)
        for (name, one), other in zip(plain.named_parameters(), summed.parameters(), strict=True):
            for a, b in ((one, other), (one.grad, other.grad)):
                if a is not None and (b is None or not torch.allclose(a, b, rtol=1e-3, atol=1e-6)):
                    raise ValueError(
                        f"summed_backward changes the update of {name}: {cell.method} does "
                        "something to gradients between its backward calls and the optimizer's step"
                    )


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
    waiting: list[tuple[Tensor, Tensor | None]] = []  # losses, or other roots with their gradients
    step = method.train_step

    def later(loss: Tensor, gradient: Tensor | None = None, **options: Any) -> None:
        if options:
            raise ValueError(
                f"summed_backward cannot put off backward({', '.join(options)}=...): call it "
                "without options, or run this method without that choice"
            )
        waiting.append((loss, gradient))

    def sweep(*_: Any) -> None:
        if waiting:
            losses, gradients = zip(*waiting, strict=True)
            waiting.clear()
            torch.autograd.backward(losses, gradients)

    @functools.wraps(step)
    def train_step(*args: Any, **options: Any) -> dict[str, Tensor]:
        with contextlib.ExitStack() as hooks:
            for _, part in stateful(vars(method)):
                if isinstance(part, Optimizer):
                    hooks.callback(part.register_step_pre_hook(sweep).remove)
            own = torch.Tensor.backward
            hooks.callback(setattr, torch.Tensor, "backward", own)
            torch.Tensor.backward = later  # type: ignore[method-assign, assignment]
            try:
                out = step(*args, **options)
                if waiting:
                    raise ValueError(
                        f"summed_backward: {len(waiting)} losses were left behind, for no "
                        f"optimizer that {method.name} keeps as an attribute, alone or in a list, "
                        "made a step after them"
                    )
                return out
            finally:
                waiting.clear()

    return train_step
