"""The steps of the protocol: which images a method gets when, and what becomes of its losses.

All randomness here is a stream derived from (seed, purpose, epoch, step), so it needs no saving.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from methods import Method, batch
from suites.engine import augmentation, datasets
from suites.engine.augmentation import RESIZED
from suites.engine.cell import Cell
from suites.engine.datasets import Data
from suites.engine.evaluation import Diverged
from suites.engine.prefix import Prefix
from suites.engine.seeds import generator
from suites.images.pictures import Wanted

AGREE_STEPS = 10  # how often processes that share mini-batches agree on losses and on stopping
MOST_AT_START = 10_000  # photographs that a method is shown before its first step
LOSS_CHECK_STEPS = 50  # how often the device is asked whether the loss is still finite


class Training:
    """The training of one method in one cell, an epoch at a time.

    Attributes:
        batch: images in a mini-batch.
        per_epoch: steps in an epoch; an incomplete last batch is left out.
        steps: of all epochs.
        losses: of the epoch so far, one a step; where several processes share the mini-batches,
            means over them, as far as these have agreed.
        agreed: whether they have, on all losses so far.
    """

    def __init__(self, cell: Cell, method: Method, data: Data) -> None:
        self._cell, self._method, self._data = cell, method, data
        self._n = len(data.train[1])
        self.batch = min(cell.protocol.batch_size, self._n)
        self.per_epoch = self._n // self.batch
        self.steps = self.per_epoch * cell.protocol.epochs
        self._phase_of = _phases(method, self.steps)
        in_memory = isinstance(data.train[0], Tensor)
        fixed = in_memory and cell.protocol.augmentation == "none"
        self._prefix = Prefix(method, data, self.batch, fixed)
        self.losses = torch.empty(0)
        self.agreed = True

    def start(self) -> None:
        """Lets a method look at the training images as a whole, before its first step."""
        if type(self._method).start is Method.start:  # most rules do not ask for that
            return
        images, labels = self._data.train
        with batch.alone():  # each process has all of them
            some: slice | Tensor = slice(None)
            if not isinstance(images, Tensor):  # too many to be held? evenly spaced, of all classes
                some = torch.linspace(0, len(labels) - 1, min(len(labels), MOST_AT_START)).long()
            self._method.start(datasets.prepare(images[some], self._data.task), labels[some])

    def epoch(self, epoch: int, made: Sequence[float] = ()) -> Iterator[int]:
        """Makes the steps of an epoch that are left; after each, yields how many are made in all.

        Args:
            epoch: counted from 0.
            made: losses of the steps that were made before an interruption.
        Raises:
            Diverged: a loss is not finite. It is noticed within LOSS_CHECK_STEPS.
        """
        images, labels = self._data.train
        # whoever reads images from disk needs their numbers here, without waiting for the device
        place = labels.device if isinstance(images, Tensor) else torch.device("cpu")
        order = _order(self._cell, epoch, self._n, place)
        losses = torch.full((self.per_epoch,), float("nan"), device=labels.device)
        losses[: len(made)] = torch.tensor(made, device=labels.device)
        self.losses = losses[: len(made)]
        self._method.train()
        agreed = len(made)
        for i, index, x in self._inputs(epoch, len(made), order):
            losses[i] = self._step(epoch * self.per_epoch + i, index, x)
            self.losses = losses[: i + 1]
            self.agreed = (i + 1) % AGREE_STEPS == 0 or i + 1 == self.per_epoch
            if self.agreed and batch.ranks() > 1:
                losses[agreed : i + 1] = batch.total(losses[agreed : i + 1]) / batch.ranks()
                agreed = i + 1
            if (i + 1) % LOSS_CHECK_STEPS == 0:
                _check_finite(self.losses, epoch * self.per_epoch)
            yield epoch * self.per_epoch + i + 1
        _check_finite(losses, epoch * self.per_epoch)

    def _inputs(
        self, epoch: int, first: int, order: Tensor
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each step from the first on: its number, and index and input of this process's rows.

        Images on disk are read ahead of the steps.
        """
        images, kind = self._data.train[0], self._cell.protocol.augmentation
        steps = range(first, self.per_epoch)
        device = self._data.train[1].device

        def own(i: int) -> tuple[Tensor, dict[str, Tensor]]:
            index = order[i * self.batch : (i + 1) * self.batch]
            stream = (self._cell.seed, self._cell.dataset, "augment", epoch, i)
            drawn = augmentation.draw(kind, len(index), device, *stream)
            return batch.own(index), {name: batch.own(rows) for name, rows in drawn.items()}

        if isinstance(images, Tensor):
            for i in steps:
                phase = self._phase_of(epoch * self.per_epoch + i)
                index, drawn = own(i)
                x = self._prefix.rows(phase, index)
                if x is None:
                    # on a CPU ten times as fast as indexing with brackets
                    x = self._input(images.index_select(0, index), drawn, phase)
                yield i, index, x
            return
        asked: deque[tuple[Tensor, dict[str, Tensor]]] = deque()

        def wanted() -> Iterator[Wanted]:
            for i in steps:
                index, drawn = own(i)
                decoder_crops = images.source.crops
                asked.append((index, drawn))
                yield index, drawn.pop(RESIZED, None) if decoder_crops else None

        for i, read in zip(steps, images.ahead(wanted()), strict=True):
            index, drawn = asked.popleft()
            yield i, index, self._input(read, drawn, self._phase_of(epoch * self.per_epoch + i))

    def _input(self, images: Tensor, drawn: dict[str, Tensor], phase: str) -> Tensor:
        """What `train_step` gets, from uint8 images."""
        images = augmentation.apply(images, self._cell.protocol.augmentation, drawn)
        return self._prefix.output(datasets.prepare(images, self._data.task), phase)

    def _step(self, done: int, index: Tensor, x: Tensor) -> Tensor:
        """The step after `done` ones, on the training images at `index`; the loss, a 0-d tensor."""
        phase = self._phase_of(done)
        out = self._method.train_step(x, self._data.train[1][index], phase, done / self.steps)
        # 0 · x is NaN for any x that is not finite: no part of a loss goes unwatched
        return out["loss"] + 0 * sum(v for k, v in out.items() if k != "loss")


def _phases(method: Method, steps: int) -> Callable[[int], str]:
    """step -> name of its phase."""
    phases = method.phases(steps)
    if sum(n for _, n in phases) != steps:
        raise ValueError(f"the phases of {method.name!r} do not add up to {steps} steps: {phases}")
    if len(phases) == 1:
        return lambda step: phases[0][0]
    names = [name for name, n in phases for _ in range(n)]
    return lambda step: names[step]


def _order(cell: Cell, epoch: int, n: int, device: torch.device) -> Tensor:
    """The order of the training images in an epoch: the same for every method and device."""
    rng = generator("cpu", cell.seed, cell.dataset, "order", epoch)
    return torch.randperm(n, generator=rng).to(device)


def _check_finite(losses: Tensor, offset: int) -> None:
    """Raises Diverged with the first step, counted from 1, whose loss is not finite."""
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        step = offset + int((~finite).nonzero()[0]) + 1
        raise Diverged(f"the training loss was not finite at step {step}")
