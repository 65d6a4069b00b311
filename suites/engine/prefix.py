"""What a phase of training has frozen, computed once where that is possible."""

from __future__ import annotations

import torch
from torch import Tensor

from methods import Method
from suites.engine import datasets
from suites.engine.datasets import Data

# The output of a frozen part is kept for all training images up to this size, and computed anew
# for every mini-batch beyond it. A constant, not the memory at hand: it decides over last bits.
FROZEN_BYTES = 4 * 2**30


class Prefix:
    """What a phase has frozen, computed once for all training images where that is possible.

    It is where they are in memory and not augmented. The first time costs one pass over them, which
    is part of the training time.
    """

    def __init__(self, method: Method, data: Data, batch: int, same_every_epoch: bool) -> None:
        self._method, self._data, self._batch = method, data, batch
        self._may_keep = same_every_epoch and type(method).frozen is not Method.frozen
        self._phase: str | None = None
        self._kept: Tensor | None = None

    @torch.no_grad()
    def output(self, x: Tensor, phase: str) -> Tensor:
        """What `train_step` gets for images x."""
        return self._method.frozen(x, phase)

    def rows(self, phase: str, index: Tensor) -> Tensor | None:
        """The same for training images by index; None where nothing is kept."""
        if not self._may_keep:
            return None
        if phase != self._phase:
            self._phase, self._kept = phase, None  # frees the old one before the new one is made
            self._kept = self._all(phase)
        return None if self._kept is None else self._kept[index]

    def _all(self, phase: str) -> Tensor | None:
        images, task = self._data.train[0], self._data.task
        first = datasets.prepare(images[: self._batch], task)
        part = self.output(first, phase)
        if not worth_keeping(part, first, len(images)):
            return None
        kept = part.new_empty(len(images), *part.shape[1:])
        for i in range(0, len(images), self._batch):
            kept[i : i + self._batch] = self.output(
                datasets.prepare(images[i : i + self._batch], task), phase
            )
        return kept


def worth_keeping(output: Tensor, x: Tensor, n: int) -> bool:
    """Whether what is frozen is kept for n images, from its output for the mini-batch x."""
    if output is x:  # nothing is frozen yet
        return False
    return output[0].numel() * output.element_size() * n <= FROZEN_BYTES
