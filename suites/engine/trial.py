"""One attempt at a cell: trains its method, reads the test set once, and loses nothing on the way.

What decides over the numbers is in `training.py` and `evaluation.py`, and which weights are gone
on from in `_build`; the rest are the clocks, the checkpoints and the tidings. All randomness is
either a stream derived from (seed, purpose, epoch, step), or the method's own generator, which is
saved with the method. So a run that was interrupted and resumed gives, on the same machine, the
same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from methods import Method, batch
from suites.engine import counts, evaluation, execution, ranks
from suites.engine.cell import Cell, Start
from suites.engine.checkpoint import (
    Checkpoint,
    Progress,
    UnusableCheckpoint,
    restore,
    state_of,
)  # fmt: skip
from suites.engine.clock import Clock
from suites.engine.datasets import Data
from suites.engine.memory import PeakMemory
from suites.engine.passes import stacks_of
from suites.engine.training import Training
from suites.images.pictures import Pictures, Waited


class Stopped(Exception):
    """The run was asked to stop; its state is in the checkpoint."""


class LeaseLost(Exception):
    """Somebody thought us dead and took the cell over: its checkpoint and record are theirs."""


@dataclass(frozen=True)
class Job:
    """A cell and what it takes to run it here; nothing in it but the cell can change a number."""

    cell: Cell
    label: str  # "greedy-sim on digits/mlp-2x500, seed 0"
    suite: str
    profile: str
    command: str
    results_dir: Path
    data_dir: Path | None = None
    weights: Path | None = None  # of a transfer that begins with a file of weights
    device: str = "cpu"
    checkpoint_s: float = 30.0  # seconds of training between two checkpoints
    ranks: int = 1  # processes that share its mini-batches
    told: str = "test"  # the split whose accuracy the user is told when the cell has ended

    @property
    def log(self) -> Path:
        """The file that what it prints goes to."""
        return Path(self.results_dir) / "logs" / f"{self.cell.key}.log"

    def on(self, device: str) -> Job:
        """The same on another device."""
        return dataclasses.replace(self, device=device)


class Trial:
    """One attempt at a cell: builds it, trains it, reads the test set once.

    Args:
        stop: asked before every step and every batch of an evaluation; True ends the attempt.
        report: told of progress; what it raises ends the attempt at once, and nothing is saved.
    """

    def __init__(
        self,
        job: Job,
        device: torch.device,
        checkpoint: Checkpoint,
        stop: Callable[[], bool] = lambda: False,
        report: Callable[[dict[str, Any]], None] = lambda progress: None,
    ) -> None:
        self.job, self.cell, self.device = job, job.cell, device
        self.checkpoint, self.stop, self.report = checkpoint, stop, report
        self.batch = 0
        self.start: Start | None = None
        self.copies: Sequence[Mapping[str, Tensor]] = ()  # what further stacks of it begin with
        self.peak: PeakMemory | None = None  # of this session's training
        self.position: dict[str, Any] = {}
        self.progress = Progress(started_at=now())
        self.metrics: dict[str, Any] = {}
        self.cost: dict[str, Any] = {}
        self.test_images_per_s: float | None = None
        self.warnings: list[str] = []
        self.source_sha256: str | None = None  # of transfer: of the data that it was trained on

    def run(self, data: Data) -> None:
        """Trains from the checkpoint, or from the start, and tests.

        Raises:
            Stopped: it was asked to; a checkpoint says where it was.
            Diverged: a loss or a score is not finite.
        """
        data = data.to(self.device)
        with batch.alone():
            self.cost = counts.count(self.cell, data, self.device)
        self.finish(self.trained(data), data)

    def finish(self, method: Method, data: Data) -> None:
        """Tests a method that is trained. Raises Stopped, with a checkpoint, and Diverged."""
        if self.progress.train_s > self.job.checkpoint_s:
            self.checkpoint.save(method, self.progress)  # reading the test set may take long, too
        with self._saving_when_stopped(method), batch.alone():
            self._test(method, data)

    def trained(self, data: Data) -> Method:
        """The method of the cell, trained from the checkpoint or from the start; see `run`.

        Args:
            data: on the device of the trial.
        """
        with batch.alone():
            execution.check(self.cell, data, self.device)
        self.peak = peak = PeakMemory(self.device)
        method = self._build(data)
        try:
            saved = self.checkpoint.load(method, data.sha256)
        except UnusableCheckpoint as event:
            self.warnings.append(f"checkpoint set aside, the cell starts anew: {event}")
            saved, method = None, self._build(data)
        if saved is not None:
            self.progress = saved
        self.progress.data_sha256 = data.sha256
        if batch.ranks() > 1:  # not all need see the same file, or the same way of starting
            ranks.hand_out(state_of(method, self.progress), self.device)
        self.progress.sessions += 1
        try:
            self.train(method, data)
        finally:
            for name, value in peak.read().items():  # the largest of all sessions of this cell
                before = self.progress.memory.get(name)
                self.progress.memory[name] = max(filter(None, (before, value)), default=None)
        return method

    def assist(self, data: Data) -> None:
        """Makes the steps of `run` in another process of its group, and nothing else."""
        data = data.to(self.device)
        method = self._build(data)
        self.progress = restore(method, ranks.received(self.device))
        training = Training(self.cell, method, data)
        if not self.progress.step:
            training.start()
        losses = self.progress.losses
        for epoch in range(len(self.progress.curves["epoch"]), self.cell.protocol.epochs):
            for _ in training.epoch(epoch, losses):
                if training.agreed and ranks.told(self.device) == ranks.STOP:
                    return
            losses = []

    def _build(self, data: Data) -> Method:
        method = self.cell.build(data.task, self.device, self.start)
        for stack, weights in zip(stacks_of(method)[1:], self.copies, strict=False):
            stack.load_state_dict(weights)
        if batch.ranks() > 1:
            ranks.share(method)
        return execution.carry_out(method, self.cell.protocol.execution)

    @contextlib.contextmanager
    def _saving_when_stopped(self, method: Method) -> Iterator[None]:
        try:
            yield
        except Stopped:
            self.checkpoint.save(method, self.progress)
            raise

    # ------------------------------------------------------------------- training

    def train(self, method: Method, data: Data) -> None:
        """Trains the epochs that are left. Raises Stopped, with a checkpoint, and Diverged."""
        progress = self.progress
        training = Training(self.cell, method, data)
        self.batch = training.batch
        clock = Clock(self.device, progress.train_s)
        waited = data.train[0].waited if isinstance(data.train[0], Pictures) else Waited()
        waited.seconds = progress.data_wait_s
        if not progress.step:
            with clock.running():
                training.start()
            if self.peak:  # looking at all images at once is no part of the rule's steps
                self.peak.begin_again()
        saved_at = time.monotonic()
        # an epoch is over when it has been validated, not when its last step is done
        for epoch in range(len(progress.curves["epoch"]), self.cell.protocol.epochs):
            with clock.running():
                for step in training.epoch(epoch, progress.losses):
                    progress.step = step
                    self._tell(epoch, training.steps)
                    asked = self.stop()
                    due = time.monotonic() - saved_at >= self.job.checkpoint_s
                    if batch.ranks() > 1:
                        if not training.agreed:
                            continue
                        ranks.tell(ranks.STOP if asked else ranks.GO_ON, self.device)
                    if asked or due:
                        with clock.paused():
                            progress.losses = training.losses.tolist()
                            progress.train_s = clock.seconds
                            progress.data_wait_s = waited.seconds
                            self.checkpoint.save(method, progress)
                            saved_at = time.monotonic()
                        if asked:
                            raise Stopped
            progress.losses = training.losses.tolist()
            progress.train_s = clock.seconds
            progress.data_wait_s = waited.seconds
            with self._saving_when_stopped(method), batch.alone():
                self._end_epoch(method, data, epoch)
            self._tell(epoch, training.steps)

    def _tell(self, epoch: int, steps: int) -> None:
        accuracies = self.progress.curves["val_accuracy_pct"]
        self.position = {
            "epoch": epoch + 1,
            "epochs": self.cell.protocol.epochs,
            "step": self.progress.step,
            "steps": steps,
            "val": accuracies[-1] if accuracies else None,
        }
        self.report(self.position)

    def _end_epoch(self, method: Method, data: Data, epoch: int) -> None:
        """Validates with the headline readout and adds a point to the curves."""
        progress, curves = self.progress, self.progress.curves
        clock = Clock(self.device, progress.eval_s)
        if len(data.val[1]):
            with clock.running():
                score = evaluation.validate(self.cell, method, data, epoch, self.alive)
            curves["val_accuracy_pct"].append(score["accuracy_pct"])
            curves["val_loss"].append(score["loss"])
        curves["epoch"].append(epoch + 1)
        curves["train_loss"].append(math.fsum(progress.losses) / len(progress.losses))
        curves["train_s"].append(progress.train_s)
        progress.losses = []
        progress.eval_s = clock.seconds

    def alive(self) -> None:
        """Called in the course of an evaluation: it may take long enough to be thought dead."""
        self.report(self.position)
        if self.stop():
            raise Stopped

    # -------------------------------------------------------------------- reading

    def _test(self, method: Method, data: Data) -> None:
        """Reads every readout on validation and test, once, with the last weights."""
        clock = Clock(self.device, self.progress.eval_s)
        for split, part in (("val", data.val), ("test", data.test)):
            if not len(part[1]):
                continue
            self.metrics[split] = {}
            for readout in method.traits.readouts:
                before = clock.seconds
                with clock.running():
                    found = evaluation.read(self.cell, method, data, split, readout, self.alive)
                self.metrics[split][readout] = found
                if split == "test" and readout == method.traits.readouts[0]:
                    self.test_images_per_s = found["draws"] * found["n"] / (clock.seconds - before)
        self.progress.eval_s = clock.seconds


def now() -> str:
    """This moment in UTC, to the second, as text."""
    return datetime.now(UTC).isoformat(timespec="seconds")
