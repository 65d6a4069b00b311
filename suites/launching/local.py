"""The local launcher: worker processes that train cells and never oversubscribe the cores.

A worker is a process of its own, so a cell that is killed (out of memory, say) costs that cell and
nothing else. Workers report through the leases they hold, which any other program may read too.
"""

from __future__ import annotations

import contextlib
import functools
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from results.command import trouble
from results.store import Store
from suites.engine.determinism import use_deterministic_algorithms
from suites.engine.plugins import load_methods
from suites.engine.trial import Job
from suites.launching import attempt, group, nodes
from suites.launching.attempt import Outcome

BUSY_RETRY_S = 1.0
STOP_PATIENCE_S = 60.0

OnEnd = Callable[[Job, Outcome], None]


def usable_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers(device: str, n_jobs: int, ranks: int = 1) -> int:
    """One process per GPU, or one per core, and never more workers than there are cells."""
    most = torch.cuda.device_count() if device == "cuda" else usable_cores()
    return max(1, min(most // ranks, n_jobs))


@dataclass
class Worker:
    """A worker process as the launcher sees it."""

    process: Any
    pipe: Connection
    index: int
    job: Job | None = None


@dataclass
class Launcher:
    """Runs jobs on this machine.

    Attributes:
        workers: processes side by side; the cores are shared out evenly between them.
        plugins: method files that each worker loads.
        cores: to be shared out.
        patience_s: how long to wait for a cell that somebody else is at work on.
        ranks: processes that train a cell together, each on its rows of every mini-batch.
        nodes: machines that they are on, this one included.
        meeting: a file by which the other machines find this one, see nodes.py.
        stop_patience_s: how long workers may take to write their checkpoints.
    """

    workers: int
    plugins: Sequence[Path] = ()
    cores: int = field(default_factory=usable_cores)
    patience_s: float = math.inf
    ranks: int = 1
    nodes: int = 1
    meeting: Path | None = None
    stop_patience_s: float = STOP_PATIENCE_S
    crew: list[Worker] = field(default_factory=list)

    def run(self, jobs: Sequence[Job], on_end: OnEnd, tick: Callable[[], None]) -> None:
        """Runs every job; returns when all have a record. Ctrl-C stops with checkpoints written.

        Args:
            on_end: called in this process when a job has ended.
            tick: called several times a second, to draw progress.

        Raises:
            KeyboardInterrupt: the user stopped the run; the workers have ended by then.
        """
        waiting = list(jobs)
        not_before: dict[str, float] = {}
        busy_since: dict[str, float] = {}
        try:
            self.crew = [self._hire(i) for i in range(min(self.workers, len(jobs)))]
            while waiting or any(w.job for w in self.crew):
                for position, worker in enumerate(self.crew):
                    if worker.job is None and (job := _next(waiting, not_before)) is not None:
                        self.crew[position] = self._give(worker, job)
                tick()
                handles = [w.pipe for w in self.crew] + [w.process.sentinel for w in self.crew]
                ready = set(wait(handles, timeout=0.1))
                for position, worker in enumerate(self.crew):
                    if worker.pipe not in ready and worker.process.sentinel not in ready:
                        continue
                    job = worker.job
                    outcome = self._hear(worker)
                    if outcome is None:  # the process is gone
                        self.crew[position] = self._hire(worker.index)
                        if job is None:
                            continue
                        outcome = _bury(worker, job)
                    worker.job = None
                    assert job is not None
                    if self.crew[position] is worker and _ends_after(outcome, job):
                        self.crew[position] = self._hire(worker.index)
                    now, key = time.monotonic(), job.cell.key
                    waited_s = now - busy_since.setdefault(key, now)
                    if outcome.status == "stopped" or (
                        outcome.status == "busy" and waited_s <= self.patience_s
                    ):
                        # somebody else is at work on it, or somebody else stopped our worker
                        not_before[key] = now + BUSY_RETRY_S
                        waiting.append(job)
                    else:
                        on_end(job, outcome)
        except BaseException:
            self._stop(self.stop_patience_s)
            raise
        self._stop(patience_s=5.0)

    def _give(self, worker: Worker, job: Job) -> Worker:
        """Hands a job to a worker, or to a new one in its place if it has died while idle."""
        for _ in range(3):
            try:
                worker.job = job  # ahead of the sending, which a signal may interrupt
                worker.pipe.send(job)
                return worker
            except OSError:
                worker = self._hire(worker.index)
        raise RuntimeError("worker processes end as soon as they start")

    def _hire(self, index: int) -> Worker:
        processes = self.workers * max(1, self.ranks // self.nodes)
        threads = max(1, self.cores // processes)
        context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_work,
            args=(
                theirs,
                os.getpid(),
                index,
                threads,
                [str(p) for p in self.plugins],
                self.nodes - 1,
                self.meeting,
            ),
            daemon=self.ranks == 1,  # such a process may start no others
        )
        variables = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        # Linux hands memory out in pages of 4 KiB, filled with zeros: element-wise work on large
        # tensors then takes several times as long as with pages of 2 MiB. No number changes.
        variables["GLIBC_TUNABLES"] = os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
        with _environment(variables), group.held_back():  # until it can deal with them
            process.start()
        theirs.close()
        return Worker(process, ours, index)

    def _hear(self, worker: Worker) -> Outcome | None:
        try:
            if worker.pipe.poll():
                answer: Outcome = worker.pipe.recv()
                return answer
        except (EOFError, OSError):
            pass
        worker.process.join(timeout=5)
        return None

    def _stop(self, patience_s: float) -> None:
        """Asks the workers to end, waits for their checkpoints, kills what does not answer."""
        if any(worker.job for worker in self.crew):
            sys.stderr.write("stopping: writing checkpoints (Ctrl-C again stops at once)\n")
        for worker in self.crew:
            with contextlib.suppress(OSError):
                if worker.job is None:
                    worker.pipe.send(None)
                else:
                    worker.process.terminate()
        deadline = time.monotonic() + patience_s
        try:
            for worker in self.crew:
                worker.process.join(timeout=max(0.0, deadline - time.monotonic()))
        finally:  # a second Ctrl-C ends the waiting
            for worker in self.crew:
                if worker.process.is_alive():
                    worker.process.kill()
            self.crew = []


def _next(waiting: list[Job], not_before: dict[str, float]) -> Job | None:
    now = time.monotonic()
    for position, job in enumerate(waiting):
        if not_before.get(job.cell.key, 0.0) <= now:
            return waiting.pop(position)
    return None


def _ends_after(outcome: Outcome, job: Job) -> bool:
    """Whether a worker ends with this answer, so that its next cell must go to a new one.

    It was told to stop, met an error of a device, which may stay with the process, or has lost one
    of the processes that it asked for help.
    """
    return (
        outcome.status == "stopped"
        or (outcome.status in ("failed", "oom") and job.device != "cpu")
        or (outcome.status == "killed" and job.ranks > 1)
    )


def _bury(worker: Worker, job: Job) -> Outcome:
    """Writes the record of a cell whose worker died."""
    code = worker.process.exitcode
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        status = "killed"
        reason = f"its process was killed by {name}"
        if -code == signal.SIGKILL:
            reason += " (often: the machine ran out of memory)"
    else:
        status, reason = "failed", f"its process ended by itself with exit status {code}"
    return _recorded(job, status, reason)


def _recorded(job: Job, status: str, reason: str) -> Outcome:
    """An accident with its record, as far as the disk allows one."""
    try:
        Store(job.results_dir).publish(attempt.accident(job, status, reason))
    except OSError as error:
        reason += f"; no record could be written: {trouble(error)}"
    return Outcome(status, reason)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Any:
    """Sets environment variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# ------------------------------------------------------------------- in the worker process


def _work(
    pipe: Connection,
    parent: int,
    index: int,
    threads: int,
    plugins: list[str],
    n_others: int,
    meeting: Path | None,
) -> None:
    """Trains one job after another until the launcher says None or is gone."""
    stop = group.heed(parent)
    _get_ready(threads, plugins)
    others: list[nodes.Node] = []
    alone = ""  # why the other machines are not here
    if meeting is not None:
        try:
            others = nodes.gather(meeting, n_others, stop)
        except nodes.OutOfReach as error:
            alone = str(error)
    while not stop():
        try:
            if not pipe.poll(1.0):
                continue
            job = pipe.recv()
        except (EOFError, OSError):
            return
        if job is None:
            return
        here = max(1, job.ranks // (1 + len(others)))
        devices = [_device(job, index * here + rank % here) for rank in range(job.ranks)]
        if alone:
            pipe.send(_recorded(job, "failed", alone))
            continue
        with _output_to(job.log):
            if job.ranks > 1:
                ready = functools.partial(_get_ready, threads, plugins)
                outcome = group.run(job, devices, ready, stop, others)
            else:
                outcome = attempt.run(job.on(devices[0]), stop)
        with contextlib.suppress(OSError):
            pipe.send(outcome)
        if _ends_after(outcome, job):
            return


def _get_ready(threads: int, plugins: list[str]) -> None:
    """What every process that trains does first."""
    torch.set_num_threads(threads)
    use_deterministic_algorithms()
    load_methods(plugins)


def _device(job: Job, n: int) -> str:
    """The device of the n-th process of a job's kind; GPUs go round."""
    return f"cuda:{n % torch.cuda.device_count()}" if job.device == "cuda" else job.device


@contextlib.contextmanager
def _output_to(path: Path) -> Any:
    """Sends what libraries print, crashes included, to a file; an empty one is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(path, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, number in zip(kept, (1, 2), strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)
        if path.exists() and path.stat().st_size == 0:
            path.unlink()
