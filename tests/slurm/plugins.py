"""Methods for tests on clusters: one that takes its time, and three that do not end well."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch import Tensor

from methods import METHODS, load_builtin, register

load_builtin()
Base: Any = METHODS["mono-forward"]


@register
class Sleepy(Base):
    """A second for each step of the second half while the file BPFREE_TEST_HOLD exists.

    Its cells are at work for as long as a test needs them to be, and their numbers are the same.
    """

    name = "sleepy"
    label = "Sleepy"

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        hold = os.environ.get("BPFREE_TEST_HOLD")
        until = time.monotonic() + 1
        while hold and progress >= 0.5 and os.path.exists(hold) and time.monotonic() < until:
            time.sleep(0.05)
        return super().train_step(x, y, phase, progress)


@register
class Raises(Base):
    """Raises in its second half."""

    name = "raises"
    label = "Raises"

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        if progress >= 0.5:
            raise ValueError("half of it is enough")
        return super().train_step(x, y, phase, progress)


@register
class Diverges(Base):
    """Has a loss that is no number."""

    name = "diverges"
    label = "Diverges"

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        found: dict[str, Tensor] = super().train_step(x, y, phase, progress)
        return {"loss": found["loss"] * float("nan")}


@register
class Hungry(Base):
    """Wants more memory than there is."""

    name = "hungry"
    label = "Hungry"

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        torch.empty(10**15)
        return super().train_step(x, y, phase, progress)
