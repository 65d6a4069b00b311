"""What a number was measured on: software, hardware, sources."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "scipy", "submitit")


def describe(device: torch.device) -> dict[str, Any]:
    """Everything a record says of the machine and the software, JSON-ready."""
    found = dict(_machine())
    found |= {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "gpu": None,
        "cuda": None,
        "driver": None,
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
        found["driver"] = _first_line(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        )
    return found


@functools.cache
def _machine() -> dict[str, Any]:
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "host": platform.node(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "slurm": {k: v for k, v in os.environ.items() if k in _SLURM},
        **_git(),
    }


_SLURM = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_PARTITION")


def cpu_model() -> str:
    """The processor's name, as well as this system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        return _first_line(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    return platform.processor() or platform.machine()


FROZEN = "frozen.json"  # at the root of a frozen copy of the sources: what git said of them


def git_text() -> str:
    """What git says of the sources, for a copy of them that leaves the repository."""
    return json.dumps(_git())


def _git() -> dict[str, Any]:
    root = Path(__file__).parents[2]
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads((root / FROZEN).read_text())
        return found
    return _ask_git(str(root))


def _ask_git(root: str) -> dict[str, Any]:
    commit = _first_line(["git", "-C", root, "rev-parse", "HEAD"])
    if commit is None:
        return {"git_commit": None, "git_dirty": None}
    changed = _first_line(["git", "-C", root, "status", "--porcelain", "--untracked-files=no"])
    new = _first_line(["git", "-C", root, "ls-files", "--others", "--exclude-standard", "*.py"])
    return {"git_commit": commit, "git_dirty": bool(changed or new)}


def _first_line(command: list[str]) -> str | None:
    """First line of a command's output; None when it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    return lines[0].strip() if lines else ""
