"""How much memory a stretch of work needs at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

import torch


class PeakMemory:
    """Peak memory of a stretch of work.

    On a GPU: bytes allocated and reserved by torch. On a CPU: growth of the process's resident
    memory over its value at the start; known on Linux only, where the kernel lets a process
    restart its own high-water mark.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._base: int | None = None
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        else:
            # memory that earlier work freed must go back to the system first, or this work would
            # seem to need none
            gc.collect()
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL("libc.so.6").malloc_trim(0)
            try:
                Path("/proc/self/clear_refs").write_text("5")
                self._base = _status_bytes("VmRSS")
            except OSError:
                self._base = None

    def read(self) -> dict[str, int | None]:
        """Bytes since the start; None for what this device does not tell."""
        peaks: dict[str, int | None] = dict.fromkeys(
            ("peak_allocated_bytes", "peak_reserved_bytes", "peak_rss_growth_bytes")
        )
        if self.device.type == "cuda":
            peaks["peak_allocated_bytes"] = torch.cuda.max_memory_allocated(self.device)
            peaks["peak_reserved_bytes"] = torch.cuda.max_memory_reserved(self.device)
        elif self._base is not None:
            high = _status_bytes("VmHWM")
            peaks["peak_rss_growth_bytes"] = None if high is None else max(0, high - self._base)
        return peaks


def _status_bytes(field: str) -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None
