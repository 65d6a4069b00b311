"""Whether processes that share each mini-batch make the steps of one that has it whole.

The processes are threads here, which is quicker, and exchange by memory.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from methods import Method, batch
from methods.base import stateful
from suites.auditing.subject import STEPS, Subject, step
from suites.engine.ranks import share

FOLLOWED = 2  # steps of each phase: what an optimizer keeps shows in the second
EPS = 1e-3  # of Adam, against gradients about as large
PATIENCE_S = 60.0  # for another thread, which may have ended
Course = list[tuple[Tensor, dict[str, Any]]]  # of each step: the loss, and the state behind it


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
    whole = _course(subject, _steady(subject.make()))
    methods = [share(_steady(subject.make())) for _ in range(ranks)]
    found: list[Any] = [None] * ranks
    memory = _Memory(ranks)

    def run(rank: int) -> None:
        try:
            with batch.among(_Thread(memory, rank)):
                found[rank] = _course(subject, methods[rank], whole)
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
        for (loss, state), (own, other) in zip(whole, part, strict=True):
            if not _alike(loss, own):
                return "loss"
            for (name, one), (same, two) in zip(_tensors(state), _tensors(other), strict=True):
                if name != same or not _alike(one, two):
                    return name
    return None


def _steady(method: Method) -> Method:
    """The method, with Adams that make no whole step of a gradient that is nothing but rounding."""
    for _, part in stateful(vars(method)):
        for group in part.param_groups if isinstance(part, Optimizer) else ():
            if "eps" in group:
                group["eps"] = EPS
    return method


def _course(subject: Subject, method: Method, other: Course | None = None) -> Course:
    """Some steps of each phase, on the own rows.

    Args:
        other: another course, from whose states the next steps start: differences that are
            nothing but rounding shall not grow from one to the next.
    """
    found: Course = []
    for phase, (name, n) in enumerate(method.phases(STEPS)):
        for i in subject.course(method, phase, 0, FOLLOWED) if n else ():
            if other and found:
                method.load_state_dict(copy.deepcopy(other[len(found) - 1][1]))
            at = subject.place(method, phase, i)
            x, y = (batch.own(part) for part in subject.batch(at))
            loss = step(method, x, y, name, min(at, STEPS - 1) / STEPS)["loss"].clone()
            batch.add(loss)
            found.append((loss / batch.ranks(), copy.deepcopy(method.state_dict())))
    return found


def _tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
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
    return float((one - two).abs().max()) <= 1e-8 * float(one.abs().max()) + 1e-10


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
