"""The checkpoint of a cell: all it takes to go on as if nothing had happened."""

from __future__ import annotations

import dataclasses
import os
import pickle
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from methods import Method
from results.store import Store
from suites.engine.cell import Cell

CHECKPOINT_FORMAT = 1


@dataclass
class Progress:
    """What a checkpoint holds besides the method: where we are and what was seen so far."""

    step: int = 0
    curves: dict[str, list[float]] = field(
        default_factory=lambda: {
            k: [] for k in ("epoch", "train_loss", "val_accuracy_pct", "val_loss", "train_s")
        }
    )
    losses: list[float] = field(default_factory=list)  # of the steps of the unfinished epoch
    train_s: float = 0.0
    eval_s: float = 0.0
    data_sha256: str = ""  # of the data that was trained on
    data_wait_s: float = 0.0  # part of train_s; of images that are read from disk
    memory: dict[str, int | None] = field(default_factory=dict)  # peaks of earlier sessions
    sessions: int = 0  # times this cell was started or resumed
    started_at: str = ""


class Checkpoint:
    """Where a cell goes on after an interruption: one file, replaced in one step."""

    def __init__(self, store: Store, cell: Cell) -> None:
        self._store = store
        self.path = store.checkpoints_dir / f"{cell.key}.pt"
        self._identity = {"format": CHECKPOINT_FORMAT, "key": cell.key, "code": cell.code_sha()}
        self._at: tuple[int, int] | None = None  # where the run was that the file holds

    def save(self, method: Method, progress: Progress) -> None:
        """Writes the whole state of a run, unless it has come no further since the last time.

        So the age of the file tells whether there was any progress.
        """
        at = (progress.step, len(progress.curves["epoch"]))
        if at == self._at:
            return
        document = {**self._identity, **state_of(method, progress)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".part-{self.path.name}.{platform.node()}.{os.getpid()}")
        with open(part, "wb") as file:
            torch.save(document, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)
        self._at = at

    def load(self, method: Method, data_sha256: str) -> Progress | None:
        """Restores a run on this data; None when there is nothing to restore.

        Raises:
            UnusableCheckpoint: the file cannot be read, or other sources made it, or with other
                data: going on from it would mix two of them in one number. It has been set aside.
            OSError, torch.OutOfMemoryError: trouble that may pass; the file stays where it is.
        """
        if not self.path.exists():
            return None
        try:
            document = torch.load(self.path, map_location="cpu", weights_only=True)
            if {k: document.get(k) for k in self._identity} != self._identity:
                raise ValueError("made by other sources")
            if document["progress"].get("data_sha256") not in (None, "", data_sha256):
                raise ValueError("made with other data of the same name")
            progress = restore(method, document)
            self._at = (progress.step, len(progress.curves["epoch"]))
            return progress
        except torch.OutOfMemoryError:  # a RuntimeError, and no fault of the file
            raise
        except (RuntimeError, ValueError, LookupError, TypeError, EOFError, AttributeError,
                pickle.UnpicklingError) as error:  # fmt: skip
            moved = self._store.set_aside(self.path)
            raise UnusableCheckpoint(
                f"{self.path}: {(str(error) or type(error).__name__).splitlines()[0][:200]}; "
                f"moved to {moved}"
            ) from error

    def remove(self) -> None:
        """Forgets the checkpoint of a finished cell, and what killed writers left of it."""
        self.path.unlink(missing_ok=True)
        for part in self.path.parent.glob(f".part-{self.path.name}.*"):
            part.unlink(missing_ok=True)


class UnusableCheckpoint(Exception):
    """A checkpoint that was set aside; the message says why and names both files."""


def state_of(method: Method, progress: Progress) -> dict[str, Any]:
    """All it takes to go on from here, in this process or in another one."""
    device = _device(method)
    return {
        "method": method.state_dict(),
        "progress": dataclasses.asdict(progress),
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore(method: Method, state: Mapping[str, Any]) -> Progress:
    """Puts a method where `state_of` was taken, and torch's generators."""
    method.load_state_dict(state["method"])
    torch.set_rng_state(state["torch_rng"])
    device = _device(method)
    if state["cuda_rng"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda_rng"], device)
    return Progress(**state["progress"])


def _device(method: Method) -> torch.device:
    return next(method.parameters()).device
