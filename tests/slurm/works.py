"""Work for jobs that needs no torch."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Note:
    """Notes which GPUs a job was given and where, and stays for a while."""

    path: Path

    def __call__(self) -> None:
        self.path.write_text(
            f"{os.environ['SLURMD_NODENAME']} {os.environ['CUDA_VISIBLE_DEVICES']}"
        )
        time.sleep(3)
