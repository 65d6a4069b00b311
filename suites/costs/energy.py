"""Energy, where a device counts it itself: NVIDIA's GPUs, and processors by Linux's powercap."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

POWERCAP = Path("/sys/class/powercap")


class Meter:
    """Joules that a device has used since some moment; differences count.

    A GPU's counter is that of the whole board, a processor's that of all its sockets, whoever
    works there: so a figure means something on a machine that nobody else uses.
    """

    def __init__(self, device: torch.device, powercap: Path = POWERCAP) -> None:
        self._gpu = _handle(device) if device.type == "cuda" else None
        self._zones: dict[Path, tuple[int, int]] = {}  # counter -> last value, wraps so far
        if device.type == "cpu":
            # sockets are intel-rapl:0, :1, ...; their parts, intel-rapl:0:0, are within them
            for zone in sorted(powercap.glob("intel-rapl:*")):
                if zone.name.count(":") == 1 and not _counts_others(zone):
                    self._zones[zone / "energy_uj"] = (0, 0)

    def read(self) -> float | None:
        """Joules, or None where nothing is counted or may be read."""
        if self._gpu is not None:
            import pynvml

            with contextlib.suppress(pynvml.NVMLError):
                return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)) / 1e3
            return None
        try:
            found = [self._socket(counter) for counter in self._zones]
        except (OSError, ValueError):  # only root may read it on most systems
            return None
        return sum(found) if found else None

    def _socket(self, counter: Path) -> float:
        """Joules of one socket; its counter starts at 0 again every few minutes."""
        value = int(counter.read_text())
        last, wraps = self._zones[counter]
        wraps += value < last
        self._zones[counter] = (value, wraps)
        span = int((counter.parent / "max_energy_range_uj").read_text())
        return (value + wraps * span) / 1e6


def _counts_others(zone: Path) -> bool:
    """Whether it is the counter of the whole board, sockets included."""
    try:
        return (zone / "name").read_text().strip() == "psys"
    except OSError:
        return False


def _handle(device: torch.device) -> Any:
    """NVML's handle of a GPU; None without the package nvidia-ml-py, or a counter."""
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except Exception:  # no package, no driver library, or a device it does not know
        return None
