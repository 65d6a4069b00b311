"""The steps of the protocol: which images a method gets when, and what becomes of its losses.

All randomness here is a stream derived from (seed, purpose, epoch, step), so it needs no saving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from methods import Method, batch
from suites.engine import datasets
from suites.engine.cell import Cell
from suites.engine.datasets import Data
from suites.engine.evaluation import Diverged
from suites.engine.prefix import Prefix
from suites.engine.seeds import generator

AGREE_STEPS = 10  # how often processes that share mini-batches agree on losses and on stopping
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
        self._prefix = Prefix(method, data, self.batch, cell.protocol.augmentation == "none")
        self.losses = torch.empty(0)
        self.agreed = True

    def start(self) -> None:
        """Lets a method look at the training images as a whole, before its first step."""
        if type(self._method).start is Method.start:  # most rules do not ask for that
            return
        images, labels = self._data.train
        with batch.alone():  # each process has all of them
            self._method.start(datasets.prepare(images, self._data.task), labels)

    def epoch(self, epoch: int, made: Sequence[float] = ()) -> Iterator[int]:
        """Makes the steps of an epoch that are left; after each, yields how many are made in all.

        Args:
            epoch: counted from 0.
            made: losses of the steps that were made before an interruption.
        Raises:
            Diverged: a loss is not finite. It is noticed within LOSS_CHECK_STEPS.
        """
        order = _order(self._cell, epoch, self._n, self._data.train[1].device)
        losses = torch.full((self.per_epoch,), float("nan"), device=order.device)
        losses[: len(made)] = torch.tensor(made, device=order.device)
        self.losses = losses[: len(made)]
        self._method.train()
        agreed = len(made)
        for i in range(len(made), self.per_epoch):
            index = order[i * self.batch : (i + 1) * self.batch]
            losses[i] = self._step(epoch, i, index)
            self.losses = losses[: i + 1]
            self.agreed = (i + 1) % AGREE_STEPS == 0 or i + 1 == self.per_epoch
            if self.agreed and batch.ranks() > 1:
                losses[agreed : i + 1] = batch.total(losses[agreed : i + 1]) / batch.ranks()
                agreed = i + 1
            if (i + 1) % LOSS_CHECK_STEPS == 0:
                _check_finite(self.losses, epoch * self.per_epoch)
            yield epoch * self.per_epoch + i + 1
        _check_finite(losses, epoch * self.per_epoch)

    def _step(self, epoch: int, i: int, index: Tensor) -> Tensor:
        """Step i of an epoch on the training images at `index`; the loss, a 0-d tensor."""
        done = epoch * self.per_epoch + i
        phase = self._phase_of(done)
        own = batch.own(index)
        x = self._prefix.rows(phase, own)
        if x is None:
            x = self._prefix.output(self._images(epoch, i, index), phase)
        out = self._method.train_step(x, self._data.train[1][own], phase, done / self.steps)
        # 0 · x is NaN for any x that is not finite: no part of a loss goes unwatched
        return out["loss"] + 0 * sum(v for k, v in out.items() if k != "loss")

    def _images(self, epoch: int, i: int, index: Tensor) -> Tensor:
        images, task = self._data.train[0], self._data.task
        kind = self._cell.protocol.augmentation
        if kind == "none":
            return datasets.prepare(images[batch.own(index)], task)
        rng = generator(index.device, self._cell.seed, self._cell.dataset, "augment", epoch, i)
        return batch.own(datasets.prepare(images[index], task, kind, rng))


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
