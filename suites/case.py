"""What the contract's checks are made on: a row of a table, made small, on a separable problem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from methods import METHODS, Method, Task
from methods.base import resolve_config
from suites.auditing.subject import STEPS, Subject, step
from suites.engine.architectures import ARCHITECTURES
from suites.refusals import refusal
from suites.suite import Row, rows_of

WIDTH = 1 / 8  # factor on all widths: the checks are on rules, not on sizes
SIDE = 16
BATCH = 32
FEW = 8  # where it matters what a signal reaches, and not what is learned


@dataclass(frozen=True)
class Case:
    """One row of a table on one architecture."""

    row: Row
    architecture: str

    def __str__(self) -> str:
        return f"{self.row.id}-{self.architecture}"

    @property
    def cls(self) -> type[Method]:
        """The method's class."""
        return METHODS[self.row.method]

    def make(self, seed: int = 0, n_classes: int = 4) -> Method:
        """A small method, newly initialised, in training mode."""
        config = resolve_config(self.cls, self.row.settings)
        task = Task("toy", (1, SIDE, SIDE), n_classes)
        torch.manual_seed(seed)
        blocks = ARCHITECTURES[self.architecture].blocks(task, self.cls.style(config), WIDTH)
        method = self.cls(blocks, task, config, Generator().manual_seed(seed)).train()
        method.start(*toy(20 * n_classes, n_classes, seed=500))
        return method

    def subject(self) -> Subject:
        """This case, for a look at how far its training signals travel."""
        return Subject(self.make, lambda i: toy(FEW, seed=1000 + i))

    def refusal(self) -> str | None:
        """The reason the method, or the network, gives against this pair, or None."""
        task = Task("toy", (1, SIDE, SIDE), 4)
        return refusal(self.cls, self.row.settings, self.architecture, task, WIDTH)


def cases(methods: list[str] | None = None) -> list[Case]:
    """Every row of the named methods (default: all) on every architecture it declares."""
    found = [
        Case(row, architecture)
        for row in rows_of(methods or list(METHODS))
        for architecture in ARCHITECTURES
    ]
    return [case for case in found if case.refusal() is None]


def toy(n: int, n_classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A separable problem: one fixed random image per class, plus noise.

    Returns:
        x, (n, 1, 16, 16), and y, (n,).
    """
    centres = torch.randn(n_classes, 1, SIDE, SIDE, generator=Generator().manual_seed(99))
    rng = Generator().manual_seed(seed)
    y = torch.randint(n_classes, (n,), generator=rng)
    return centres[y] + 0.5 * torch.randn(n, 1, SIDE, SIDE, generator=rng), y


def fit(method: Method, first: int, last: int, steps: int = STEPS) -> list[float]:
    """Trains steps first to last − 1 out of `steps`, on data drawn by step; returns the losses."""
    phases = [name for name, n in method.phases(steps) for _ in range(n)]
    losses = []
    for i in range(first, last):
        x, y = toy(BATCH, method.task.n_classes, seed=1000 + i)
        losses.append(float(step(method, x, y, phases[i], i / steps)["loss"]))
    return losses


@torch.no_grad()
def predict(method: Method, x: Tensor, readout: str | None = None, seed: int = 5) -> Tensor:
    """Logits in evaluation mode, with noise from a seed."""
    was_training = method.training
    method.eval()
    name = readout or method.traits.readouts[0]
    scores = method.logits(x, name, Generator().manual_seed(seed))
    method.train(was_training)
    return scores


def accuracy(method: Method) -> float:
    """Share of right answers of the headline readout on 400 new samples."""
    x, y = toy(400, method.task.n_classes, seed=1)
    return float((predict(method, x).argmax(1) == y).float().mean())


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Places where two nested states are not the same bits."""
    if isinstance(a, Tensor):
        if not isinstance(b, Tensor) or not torch.equal(a, b):
            yield where
    elif isinstance(a, dict):
        for key in a.keys() | b.keys():
            if key not in a or key not in b:
                yield f"{where}.{key}"
            else:
                yield from differences(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            yield from differences(left, right, f"{where}.{i}")
    elif a != b:
        yield where
