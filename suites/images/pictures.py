"""Images on disk that are read when they are asked for, and read ahead where the order is known."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suites.images.decoding import Pixels, evaluation_crop, random_crop
from suites.images.folders import Listing

AHEAD = 4  # mini-batches that are being read while one is trained on

Wanted = tuple[Tensor | slice, Tensor | None]  # which, and the draws of their random crops if any


class Source(Protocol):
    """Images by number, from wherever they are.

    Attributes:
        shape: (C, H, W). crops: whether `read` can crop at random, from more than these pixels.
        piece: how many a thread reads at a time. digest: changes where the images do.
    """

    shape: tuple[int, int, int]
    crops: bool
    piece: int

    @property
    def digest(self) -> str: ...

    def __len__(self) -> int: ...

    def read(self, index: NDArray[np.int64], draws: NDArray[np.float64] | None) -> Pixels:
        """The images, (B, C, H, W); called by several threads at once."""


class Photographs:
    """A source that decodes files: the evaluation crop, or a random one."""

    crops = True
    piece = 16

    def __init__(self, listing: Listing, size: int) -> None:
        self.shape = (3, size, size)
        self._listing = listing

    @functools.cached_property
    def digest(self) -> str:
        """Of names and sizes of the files."""
        return self._listing.digest()

    def __len__(self) -> int:
        return len(self._listing.paths)

    def read(self, index: NDArray[np.int64], draws: NDArray[np.float64] | None) -> Pixels:
        """See `Source`. Raises DatasetError for a file that cannot be decoded."""
        size = self.shape[1]
        found = np.empty((len(index), size, size, 3), np.uint8)
        for row, i in enumerate(index):
            path = self._listing.root / self._listing.paths[i]
            if draws is None:
                found[row] = evaluation_crop(path, size)
            else:
                found[row] = random_crop(path, size, draws[row])
        return found.transpose(0, 3, 1, 2)


@dataclass
class Waited:
    """Seconds that were spent waiting for images."""

    seconds: float = 0.0


class Pictures:
    """Stands in for a tensor of images, uint8 (N, C, H, W), whose images are on disk.

    Attributes:
        source: where they are read from. device: where mini-batches of them go.
        waited: by whoever asked for these, on whichever device.
    """

    dtype = torch.uint8

    def __init__(
        self,
        source: Source,
        index: Tensor | None = None,
        device: torch.device | str = "cpu",
        waited: Waited | None = None,
    ) -> None:
        self.source, self.device = source, torch.device(device)
        self.waited = waited or Waited()
        self._index = torch.arange(len(source)) if index is None else index

    def __len__(self) -> int:
        return len(self._index)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of a tensor."""
        return (len(self), *self.source.shape)

    def to(self, device: torch.device) -> Pictures:
        """The same, with mini-batches on a device."""
        return Pictures(self.source, self._index, device, self.waited)

    def at(self, index: Tensor) -> Pictures:
        """Some of them."""
        return Pictures(self.source, self._index[index], self.device)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return next(self.ahead([(index, None)]))

    def split(self, size: int) -> Iterator[Tensor]:
        """All of them in turn, so many at a time."""
        starts = range(0, len(self), size)
        return self.ahead((slice(start, start + size), None) for start in starts)

    def ahead(self, wanted: Iterable[Wanted]) -> Iterator[Tensor]:
        """The images of each index on their device, uint8 (B, C, H, W); the next ones are read.

        Raises:
            DatasetError: a file cannot be decoded.
        """
        todo = iter(wanted)
        reading: deque[tuple[Tensor, list[Future[None]]]] = deque()
        try:
            while True:
                while len(reading) <= AHEAD and (job := next(todo, None)) is not None:
                    reading.append(self._begin(*job))
                if not reading:
                    return
                images, pieces = reading.popleft()
                begun = time.monotonic()
                for piece in pieces:
                    piece.result()
                self.waited.seconds += time.monotonic() - begun
                yield images.to(self.device, non_blocking=True)
        finally:
            for _, pieces in reading:
                for piece in pieces:
                    piece.cancel()

    def _begin(
        self, index: Tensor | slice, draws: Tensor | None
    ) -> tuple[Tensor, list[Future[None]]]:
        chosen = self._index[index if isinstance(index, slice) else index.cpu()].numpy()
        images = torch.empty(
            (len(chosen), *self.source.shape),
            dtype=torch.uint8, pin_memory=self.device.type == "cuda",
        )  # fmt: skip
        rows = None if draws is None else draws.numpy()

        def read(start: int) -> None:
            part = slice(start, start + self.source.piece)
            own = None if rows is None else rows[part]
            images.numpy()[part] = self.source.read(chosen[part], own)

        return images, [
            _threads().submit(read, i) for i in range(0, len(chosen), self.source.piece)
        ]


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """As many as this process may use cores: decoding does not hold Python's lock."""
    return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="images")
