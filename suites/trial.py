"""One attempt at a cell: trains its method under the protocol and reads the test set once.

It owns data order, budget, evaluation and checkpoints. All randomness is either a stream derived
from (seed, purpose, epoch, step), so that it needs no saving, or the method's own generator, which
is saved with the method. So a run that was interrupted and resumed gives, on the same machine, the
same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods import Method, Task
from suites import cost, datasets, environment
from suites.cell import Cell
from suites.checkpoint import Checkpoint, Progress, UnusableCheckpoint
from suites.clock import Clock
from suites.datasets import Data, Images
from suites.prefix import Prefix
from suites.seeds import generator

EVAL_BATCH = 256
LOSS_CHECK_STEPS = 50  # how often the device is asked whether the loss is still finite


class Stopped(Exception):
    """The run was asked to stop; its state is in the checkpoint."""


class Diverged(Exception):
    """What should be a number is infinite, or none."""


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
    device: str = "cpu"
    checkpoint_s: float = 30.0  # seconds of training between two checkpoints


class Trial:
    """One attempt at a cell: builds it, trains it, reads the test set once."""

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
        self.batch = job.cell.protocol.batch_size
        self.position: dict[str, Any] = {}
        self.progress = Progress(started_at=now())
        self.metrics: dict[str, Any] = {}
        self.cost: dict[str, Any] = {}
        self.test_images_per_s: float | None = None
        self.warnings: list[str] = []

    def run(self, data: Data) -> None:
        """Trains from the checkpoint, or from the start, and tests.

        Raises:
            Stopped: it was asked to; a checkpoint says where it was.
            Diverged: a loss or a score is not finite.
        """
        data = data.to(self.device)
        self.cost = cost.measure_cost(self.cell, data, self.device)

        peak = environment.PeakMemory(self.device)
        method = self.cell.build(data.task, self.device)
        try:
            saved = self.checkpoint.load(method)
        except UnusableCheckpoint as event:
            self.warnings.append(f"checkpoint set aside, the cell starts anew: {event}")
            saved, method = None, self.cell.build(data.task, self.device)
        if saved is not None:
            self.progress = saved
        else:
            self._start(method, data)
        self.progress.sessions += 1
        try:
            self.train(method, data)
        finally:
            for name, value in peak.read().items():  # the largest of all sessions of this cell
                before = self.progress.memory.get(name)
                self.progress.memory[name] = max(filter(None, (before, value)), default=None)
        if self.progress.train_s > self.job.checkpoint_s:
            self.checkpoint.save(method, self.progress)  # reading the test set may take long, too
        with self._saving_when_stopped(method):
            self._test(method, data)

    def _start(self, method: Method, data: Data) -> None:
        """Lets a method look at the training images as a whole; part of its training time."""
        if type(method).start is Method.start:  # most rules do not ask for that
            return
        clock = Clock(self.device)
        with clock.running():
            method.start(datasets.prepare(data.train[0], data.task), data.train[1])
        self.progress.train_s = clock.seconds

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
        cell, protocol, progress = self.cell, self.cell.protocol, self.progress
        n = len(data.train[1])
        batch = self.batch = min(protocol.batch_size, n)
        per_epoch = n // batch  # an incomplete last batch is left out
        steps = per_epoch * protocol.epochs
        phase_of = _phases(method, steps)
        prefix = Prefix(method, data, batch, protocol.augmentation == "none")
        clock = Clock(self.device, progress.train_s)
        saved_at = time.monotonic()

        # an epoch is over when it has been validated, not when its last step is done
        for epoch in range(len(progress.curves["epoch"]), protocol.epochs):
            order = _order(cell, epoch, n, self.device)
            losses = torch.full((per_epoch,), float("nan"), device=self.device)
            first = progress.step - epoch * per_epoch
            if first:
                losses[:first] = torch.tensor(progress.losses, device=self.device)
            method.train()
            with clock.running():
                for i in range(first, per_epoch):
                    index = order[i * batch : (i + 1) * batch]
                    done = epoch * per_epoch + i
                    phase = phase_of(done)
                    x = prefix.rows(phase, index)
                    if x is None:
                        x = prefix.output(self._images(data, index, epoch, i), phase)
                    out = method.train_step(x, data.train[1][index], phase, done / steps)
                    # 0 · x is NaN for any x that is not finite: no part of a loss goes unwatched
                    losses[i] = out["loss"] + 0 * sum(v for k, v in out.items() if k != "loss")
                    progress.step = done + 1
                    if (i + 1) % LOSS_CHECK_STEPS == 0:
                        _check_finite(losses[: i + 1], epoch * per_epoch)
                    self._tell(epoch, steps)
                    asked = self.stop()
                    if asked or time.monotonic() - saved_at >= self.job.checkpoint_s:
                        with clock.paused():
                            progress.losses = losses[: i + 1].tolist()
                            progress.train_s = clock.seconds
                            self.checkpoint.save(method, progress)
                            saved_at = time.monotonic()
                        if asked:
                            raise Stopped
            _check_finite(losses, epoch * per_epoch)
            progress.train_s = clock.seconds
            progress.losses = losses.tolist()
            with self._saving_when_stopped(method):
                self._end_epoch(method, data, epoch)
            self._tell(epoch, steps)

    def _images(self, data: Data, index: Tensor, epoch: int, i: int) -> Tensor:
        kind = self.cell.protocol.augmentation
        rng = None
        if kind != "none":
            rng = generator(self.device, self.cell.seed, self.cell.dataset, "augment", epoch, i)
        return datasets.prepare(data.train[0][index], data.task, kind, rng)

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
            rng = generator(self.device, self.cell.seed, "validate", epoch)
            headline = method.traits.readouts[0]
            with clock.running():
                score = evaluate(method, data.val, data.task, headline, rng, self._alive)
            curves["val_accuracy_pct"].append(score["accuracy_pct"])
            curves["val_loss"].append(score["loss"])
        curves["epoch"].append(epoch + 1)
        curves["train_loss"].append(math.fsum(progress.losses) / len(progress.losses))
        curves["train_s"].append(progress.train_s)
        progress.losses = []
        progress.eval_s = clock.seconds

    def _alive(self) -> None:
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
                sampled = readout in method.traits.sampled
                draws = self.cell.protocol.eval_draws if sampled else 1
                before = clock.seconds
                with clock.running():
                    scores = [
                        evaluate(
                            method, part, data.task, readout,
                            generator(self.device, self.cell.seed, split, draw), self._alive,
                        )
                        for draw in range(draws)
                    ]  # fmt: skip
                self.metrics[split][readout] = {
                    "accuracy_pct": sum(s["accuracy_pct"] for s in scores) / draws,
                    "loss": sum(s["loss"] for s in scores) / draws,
                    "n": len(part[1]),
                    "draws": draws,
                }
                if split == "test" and readout == method.traits.readouts[0]:
                    self.test_images_per_s = draws * len(part[1]) / (clock.seconds - before)
        self.progress.eval_s = clock.seconds


@torch.no_grad()
def evaluate(
    method: Method,
    part: Images,
    task: Task,
    readout: str,
    rng: torch.Generator,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Accuracy in percent and mean cross-entropy of a readout over images; one wait at the end.

    Args:
        alive: called once a batch.
    Raises:
        Diverged: the scores are not finite, and the largest of them says nothing.
    """
    images, labels = part
    was_training = method.training
    method.eval()
    right = torch.zeros((), dtype=torch.int64, device=labels.device)
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    for start in range(0, len(labels), EVAL_BATCH):
        alive()
        y = labels[start : start + EVAL_BATCH]
        scores = method.logits(
            datasets.prepare(images[start : start + EVAL_BATCH], task), readout, rng
        )
        right += (scores.argmax(dim=1) == y).sum()
        loss += F.cross_entropy(scores, y, reduction="sum")
    method.train(was_training)
    if not math.isfinite(float(loss)):
        raise Diverged(f"the scores of {readout!r} are not finite")
    n = len(labels)
    return {"accuracy_pct": 100 * int(right) / n, "loss": float(loss) / n}


def _phases(method: Method, steps: int) -> Callable[[int], str]:
    """step -> name of its phase."""
    phases = method.phases(steps)
    if sum(n for _, n in phases) != steps:
        raise ValueError(f"the phases of {method.name!r} do not add up to {steps} steps: {phases}")
    if len(phases) == 1:
        return lambda step: phases[0][0]
    names = [name for name, n in phases for _ in range(n)]
    return lambda step: names[step]


def _order(cell: Cell, epoch: int, n: int, device: torch.device) -> Tensor:
    """The order of the training images in an epoch: the same for every method and device."""
    rng = generator("cpu", cell.seed, cell.dataset, "order", epoch)
    return torch.randperm(n, generator=rng).to(device)


def _check_finite(losses: Tensor, offset: int) -> None:
    """Raises Diverged with the first step, counted from 1, whose loss is not finite."""
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        step = offset + int((~finite).nonzero()[0]) + 1
        raise Diverged(f"the training loss was not finite at step {step}")


def now() -> str:
    """This moment in UTC, to the second, as text."""
    return datetime.now(UTC).isoformat(timespec="seconds")
