"""How much memory a stretch of work needs at its peak."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from collections.abc import Callable
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
        if self._restart():
            self._base = _status_bytes("VmRSS")

    def begin_again(self) -> None:
        """Forgets peaks so far; what is still held counts on."""
        if not self._restart():
            self._base = None

    def _restart(self) -> bool:
        """Restarts the high-water mark; whether a CPU has one."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            return False
        # memory that earlier work freed must go back to the system first, or this work would seem
        # to need none
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True

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


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes of tensors alive at once on the CPU, of all that `work()` allocates.

    Every allocation is counted, weights and optimizer state included; the resident size of the
    process would show the allocator's habits instead.
    """
    gc.collect()  # or a cycle of earlier work might be freed in the midst of this one's
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler logs to the terminal
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    totals = []  # (when, bytes by then, bytes of this allocation or, negative, release)
    waiting = list(profile.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        total = getattr(event.extra_fields, "total_allocated", None)
        if total is not None:
            totals.append((event.start_time_ns, total, event.extra_fields.alloc_size))
    if not totals:
        return 0
    # the count goes on from profile to profile, and what is released between them stays in it
    _, first, change = min(totals)
    return max(total for _, total, _ in totals) - (first - change)
