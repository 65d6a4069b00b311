"""The engine: trains and measures one cell, and turns whatever happens into a record.

It owns data order, device, seeds, clock, budget, evaluation and checkpoints. All randomness is
either a stream derived from (seed, purpose, epoch, step), so that it needs no saving, or the
method's own generator, which is saved with the method. So a run that was interrupted and resumed
gives, on the same machine, the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods import Method, Task
from results.lease import Lease
from results.record import FINAL, SCHEMA, Record
from results.store import Store
from suites import auditing, cost, datasets, environment
from suites.cell import Cell
from suites.checkpoint import Checkpoint, Progress, UnusableCheckpoint
from suites.datasets import Data, Images
from suites.seeds import generator

EVAL_BATCH = 256
# The output of a frozen part is kept for all training images up to this size, and computed anew
# for every mini-batch beyond it. A constant, not the memory at hand: it decides over last bits.
FROZEN_BYTES = 4 * 2**30
LOSS_CHECK_STEPS = 50  # how often the device is asked whether the loss is still finite


class Stopped(Exception):
    """The run was asked to stop; its state is in the checkpoint."""


class Diverged(Exception):
    """The training loss is no longer finite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the training loss was not finite at step {step}")
        self.step = step


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


@dataclass(frozen=True)
class Outcome:
    """How a run of one cell ended.

    Attributes:
        status: that of the record, or "busy" when another process is at work on the cell, or
            "stopped" when the run was asked to stop.
        warnings: what the user should read, such as a checkpoint that was set aside.
        test_pct: test accuracy of the headline readout, in percent, where there is one.
    """

    status: str
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    test_pct: float | None = None


def use_deterministic_algorithms() -> None:
    """Same seed, same bits, as far as torch can; called once in every process that trains."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # filling every new tensor guards against reading uninitialised memory, at a cost in speed
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # the protocol says float32; TensorFloat-32 has 10 bits of mantissa, and is on by default
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def run(
    job: Job,
    stop: Callable[[], bool] = lambda: False,
    watch: Callable[[dict[str, Any]], None] = lambda progress: None,
) -> Outcome:
    """Runs one cell to its record, unless that is there already.

    Args:
        stop: asked before every step; True ends the run with a checkpoint.
        watch: told of progress ("epoch", "epochs", "step", "steps", "val") as it is made.
    """
    store, key = Store(job.results_dir), job.cell.key
    lease = Lease(store.live_dir / f"{key}.json", {"key": key, "cell": job.label})
    if not lease.acquire():
        return Outcome("busy")

    def report(progress: dict[str, Any]) -> None:
        watch(progress)
        if not lease.renew(**progress):
            raise Stopped

    try:
        # only the holder of the lease may look: another process may just have finished the cell
        finished = store.read([key]).records.get(key)
        if finished is not None and finished["status"] in FINAL:
            return Outcome(finished["status"], finished["reason"])
        checkpoint = Checkpoint(store, job.cell)
        record = attempt(job, checkpoint, stop, report)
        store.publish(record)
        if record["status"] in FINAL:
            checkpoint.remove()
        test = record["metrics"].get("test", {})
        return Outcome(
            record["status"],
            record["reason"],
            tuple(record["warnings"]),
            next((readout["accuracy_pct"] for readout in test.values()), None),
        )
    except Stopped:
        return Outcome("stopped")
    finally:
        lease.release()


def attempt(
    job: Job,
    checkpoint: Checkpoint,
    stop: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
) -> Record:
    """The record of one attempt at a cell, whatever becomes of it. Raises Stopped only."""
    trial = Trial(job, torch.device(job.device), checkpoint, stop, report)
    status, reason, error = "ok", None, None
    try:
        trial.run()
    except Diverged as event:
        status, reason = "diverged", str(event)
    except torch.OutOfMemoryError as event:
        status, reason = "oom", str(event).splitlines()[0]
    except MemoryError:
        status, reason = "oom", "the machine ran out of memory"
    except Stopped:
        raise
    except Exception as event:
        status, reason = "failed", f"{type(event).__name__}: {event}".splitlines()[0]
        error = traceback.format_exc()
    return trial.record(status, reason, error)


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
        self.progress = Progress(started_at=_now())
        self.metrics: dict[str, Any] = {}
        self.cost: dict[str, Any] = {}
        self.audit: dict[str, Any] = {}
        self.data_sha256: str | None = None
        self.test_images_per_s: float | None = None
        self.warnings: list[str] = []

    def run(self) -> None:
        """Does with the cell what its kind asks for."""
        protocol = self.cell.protocol
        cpu_data = datasets.load(self.cell.dataset, self.job.data_dir, protocol.val_fraction)
        self.data_sha256 = cpu_data.sha256
        if self.cell.kind == "audit":
            self.audit = auditing.measure(self.cell, cpu_data)
        else:
            self.train_and_test(cpu_data)

    def train_and_test(self, cpu_data: Data) -> None:
        """Trains from the checkpoint, or from the start, and tests."""
        data = cpu_data.to(self.device)
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
            start(method, data)
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

    # --------------------------------------------------------------------- record

    def record(self, status: str, reason: str | None, error: str | None) -> Record:
        """The record of this attempt; see results/record.py for the fields."""
        progress, cell = self.progress, self.cell
        rate = progress.step * self.batch / progress.train_s if progress.train_s else None
        return {
            "schema": SCHEMA,
            "key": cell.key,
            "suite": self.job.suite,
            "profile": self.job.profile,
            "status": status,
            "reason": reason,
            "error": error,
            "cell": cell.identity(),
            "metrics": self.metrics,
            "curves": progress.curves,
            "timings": {
                "train_s": progress.train_s,
                "eval_s": progress.eval_s,
                "train_images_per_s": rate,
                "eval_images_per_s": self.test_images_per_s,
            },
            "memory": progress.memory,
            "cost": self.cost,
            "audit": self.audit,
            "data_sha256": self.data_sha256,
            "environment": environment.describe(self.device),
            "code_sha": cell.code_sha(),
            "sessions": progress.sessions,
            "warnings": self.warnings,
            "command": self.job.command,
            "started_at": progress.started_at,
            "finished_at": _now(),
        }


def accident(job: Job, status: str, reason: str) -> Record:
    """The record of a cell whose process did not live to write one (killed, lost, timeout)."""
    checkpoint = Checkpoint(Store(job.results_dir), job.cell)
    return Trial(job, torch.device("cpu"), checkpoint).record(status, reason, None)


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
    n = len(labels)
    return {"accuracy_pct": 100 * int(right) / n, "loss": float(loss) / n}


def start(method: Method, data: Data) -> None:
    """Lets a method look at the training images as a whole, if its class asks for that."""
    if type(method).start is not Method.start:
        method.start(datasets.prepare(data.train[0], data.task), data.train[1])


# ---------------------------------------------------------------------------------- parts


class Prefix:
    """What a phase has frozen, computed once for all training images where that is possible.

    It is where they are not augmented. The first time costs one pass over them, which is part of
    the training time.
    """

    def __init__(self, method: Method, data: Data, batch: int, same_every_epoch: bool) -> None:
        self._method, self._data, self._batch = method, data, batch
        self._may_keep = same_every_epoch and type(method).frozen is not Method.frozen
        self._phase: str | None = None
        self._kept: Tensor | None = None

    @torch.no_grad()
    def output(self, x: Tensor, phase: str) -> Tensor:
        """What `train_step` gets for images x."""
        return self._method.frozen(x, phase)

    def rows(self, phase: str, index: Tensor) -> Tensor | None:
        """The same for training images by index; None where nothing is kept."""
        if not self._may_keep:
            return None
        if phase != self._phase:
            self._phase, self._kept = phase, None  # frees the old one before the new one is made
            self._kept = self._all(phase)
        return None if self._kept is None else self._kept[index]

    def _all(self, phase: str) -> Tensor | None:
        images, task = self._data.train[0], self._data.task
        first = datasets.prepare(images[: self._batch], task)
        part = self.output(first, phase)
        if part is first:  # nothing is frozen yet
            return None
        if part[0].numel() * part.element_size() * len(images) > FROZEN_BYTES:
            return None
        kept = part.new_empty(len(images), *part.shape[1:])
        for i in range(0, len(images), self._batch):
            kept[i : i + self._batch] = self.output(
                datasets.prepare(images[i : i + self._batch], task), phase
            )
        return kept


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
        raise Diverged(offset + int((~finite).nonzero()[0]) + 1)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
