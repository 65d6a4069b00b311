"""Whether processes that share each mini-batch make the steps of one that has it whole.

The processes are threads here, which is quicker, and exchange by memory.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from methods import Method, batch
from suites.auditing.subject import STEPS, Subject, step
from suites.engine.ranks import share

FOLLOWED = 2  # steps of each phase: what an optimizer keeps shows in the second
PATIENCE_S = 60.0  # for another thread, which may have ended


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Everything in float64: the last bits of float32 decide over Adam's first steps."""
    single = torch.Tensor.float
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.float = single  # type: ignore[method-assign]
        torch.set_default_dtype(torch.float32)


def first_difference(subject: Subject, ranks: int = 2) -> str | None:
    """The first part of the state, or "loss", that differs by more than rounding; None if none."""
    whole = _course(subject, subject.make())
    methods = [share(subject.make()) for _ in range(ranks)]
    found: list[Any] = [None] * ranks
    memory = _Memory(ranks)

    def run(rank: int) -> None:
        try:
            with batch.among(_Thread(memory, rank)):
                found[rank] = _course(subject, methods[rank])
        except BaseException as error:
            found[rank] = error
            memory.turn.abort()  # nobody shall wait for this one

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [part for part in found if isinstance(part, BaseException)]
    for error in sorted(errors, key=lambda e: isinstance(e, threading.BrokenBarrierError)):
        raise error
    for part in found:
        for (name, one), (other, two) in zip(whole, part, strict=True):
            if name != other or not _alike(one, two):
                return name
    return None


def _course(subject: Subject, method: Method) -> list[tuple[str, Tensor]]:
    """Losses of some steps of each phase, on the own rows, and the state behind them."""
    losses = []
    for phase, (name, n) in enumerate(method.phases(STEPS)):
        for i in range(min(n, FOLLOWED)):
            at = subject.place(method, phase, i)
            x, y = (batch.own(part) for part in subject.batch(at))
            loss = step(method, x, y, name, min(at, STEPS - 1) / STEPS)["loss"].clone()
            batch.add(loss)
            losses.append(("loss", loss / batch.ranks()))
    return [*losses, *_tensors(method.state_dict(), "")]


def _tensors(state: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a nested state with the paths to them."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, dict):
        for key in sorted(state, key=str):
            yield from _tensors(state[key], f"{name}.{key}".lstrip("."))
    elif isinstance(state, list | tuple):
        for i, part in enumerate(state):
            yield from _tensors(part, f"{name}[{i}]")


def _alike(one: Tensor, two: Tensor) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, two)
    if one.shape != two.shape or not one.numel():
        return one.shape == two.shape
    # where a method computes in float32 whatever is asked, so does rounding
    return float((one - two).abs().max()) <= 3e-6 * float(one.abs().max()) + 1e-9


class _Memory:
    """What threads lay down for each other."""

    def __init__(self, size: int) -> None:
        self.turn = threading.Barrier(size, timeout=PATIENCE_S)
        self.parts: list[Tensor] = [torch.empty(0)] * size


class _Thread:
    """The group as one of the threads sees it; see batch.Group."""

    def __init__(self, memory: _Memory, rank: int) -> None:
        self.rank, self.size = rank, len(memory.parts)
        self._memory = memory

    def gather(self, x: Tensor) -> list[Tensor]:
        self._memory.parts[self.rank] = x.detach().clone()
        self._memory.turn.wait()
        parts = list(self._memory.parts)
        self._memory.turn.wait()  # before anybody lays down the next
        return parts

    def add(self, x: Tensor) -> None:
        x.copy_(torch.stack(self.gather(x)).sum(dim=0))
