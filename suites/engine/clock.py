"""Time spent on work, as a device does it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch


class Clock:
    """Seconds of work on a device. It waits for the device before it reads the time."""

    def __init__(self, device: torch.device, seconds: float = 0.0) -> None:
        self._device, self._total = device, seconds
        self._since: float | None = None

    def _time(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._total + (0.0 if self._since is None else self._time() - self._since)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Counts the time spent inside."""
        self._since = self._time()
        try:
            yield
        finally:
            self._total, self._since = self.seconds, None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out the time spent inside; only within `running`."""
        self._total, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = self._time()
