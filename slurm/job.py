"""What happens inside a job: the work, Slurm's warnings, the way back into the queue, a diary.

Slurm warns a job by SIGUSR2 ahead of its time limit and, where the cluster is set up so, of a
preemption. Then the work is interrupted, which leaves its checkpoints, and the job puts itself
back into the queue under its own number. Submitit would do the same, but takes every warning of a
job with a limit below ten minutes for the end of its time, and counts those.

SIGTERM comes from scancel, from the time limit where no warning got through, and from preemption on
other clusters: the work is interrupted alike, but it is for Slurm to run the job again or not.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

WARNING = signal.SIGUSR2
MEETING = "BPFREE_MEETING"  # variable with the name of a file, see `meeting`
BEAT_S = 15.0
FRUITLESS = 2  # shifts of half the time limit without any progress, after which a job gives up


class Work(Protocol):
    """What a job is made of: any callable, which is interrupted by a KeyboardInterrupt.

    One that can be interrupted and goes on where it was has two more methods, one for jobs of
    several nodes a third one.
    """

    def __call__(self) -> None:
        """Does what is left to do."""


class Resumable(Work, Protocol):
    """Work that goes on where it was."""

    def progress(self) -> object:
        """Something that differs whenever the work has come further."""

    def abandon(self, reason: str) -> None:
        """Leaves word that the work will not be done, and why."""


class Shared(Work, Protocol):
    """Work in which the other nodes of the job help the first one."""

    def assist(self, over: Callable[[], bool]) -> None:
        """On each other node: helps, until `over` says that the work has ended."""


class Warned(KeyboardInterrupt):
    """Slurm wants the job to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class Shift:
    """A job from its start, or restart, to its end; submitit calls it.

    The work is kept as bytes: unpickling it may import for seconds, and must be in reach of a
    warning already.

    Attributes:
        work: a pickled Work.
        folder: where its diary goes.
        task: index in the array.
        minutes: time limit.
    """

    work: bytes
    folder: Path
    task: int
    minutes: float

    def __call__(self) -> None:
        if int(os.environ.get("SLURM_PROCID", "0")) > 0:
            self._assist()
            return
        diary = Diary(self.folder, self.task)
        end, work, before = "failed", None, None
        advanced, fruitless = True, False
        os.environ[MEETING] = str(diary.path).replace(".diary.", ".meeting.")
        try:
            with _warned():
                work = pickle.loads(self.work)
                before = _progress(work)
                work()
            end = "done"
        except Warned as warning:
            end = "requeued" if warning.number == WARNING else "stopped"
            with contextlib.suppress(OSError):  # no reason to stay out of the queue
                advanced = work is not None and _progress(work) != before
            seconds = time.time() - diary.started
            fruitless = not advanced and seconds > 30 * self.minutes  # half of the limit
            if fruitless and work is not None and diary.fruitless_before() + 1 >= FRUITLESS:
                end = "abandoned"
                work.abandon(
                    f"no progress in {FRUITLESS} jobs in a row of {self.minutes:g} minutes: "
                    "give them more time, see --minutes"
                )
        finally:
            diary.close(end, advanced, fruitless)
        if end == "requeued":
            if not _requeue():
                diary.close("stopped", advanced, fruitless)
            sys.exit()  # without a result: this job is not over

    def _assist(self) -> None:
        # the first node deals with warnings, and needs the others for its last steps
        for number in (WARNING, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        diary = diary_of(self.folder, self.task)
        os.environ[MEETING] = str(diary).replace(".diary.", ".meeting.")

        def over() -> bool:
            return "ended" in (read_diary(diary) or ())

        pickle.loads(self.work).assist(over)


def meeting() -> Path:
    """In a job: a file by which its nodes can find each other, of this start of it alone."""
    return Path(os.environ[MEETING])


def _progress(work: Any) -> object:
    """What tells that work has come further; of any callable, that time has passed."""
    return work.progress() if hasattr(work, "progress") else time.time()


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    """Turns Slurm's signals into Warned; afterwards they are ignored, for the job is ending."""

    def warn(number: int, frame: Any) -> None:
        ignore()
        sys.stderr.write(f"Slurm sends {signal.Signals(number).name}: stopping\n")
        raise Warned(number)

    def ignore() -> None:
        for number in (WARNING, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)

    for number in (WARNING, signal.SIGTERM):
        signal.signal(number, warn)
    try:
        yield
    finally:
        ignore()


def _requeue() -> bool:
    """Puts this job back into the queue; False where that is not possible from here."""
    array, job = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_JOB_ID", "")
    name = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else job
    try:
        subprocess.run(["scontrol", "requeue", name], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"cannot requeue this job, submit again for the rest of it: {error}\n")
        return False
    return True


class Diary:
    """A file per start of a job: where, since when, and how it ended; touched while it runs.

    A job that was killed leaves a diary without an end, whose age is its last sign of life.
    """

    def __init__(self, folder: Path, task: int) -> None:
        self.started = time.time()
        self.path = diary_of(folder, task)
        self._folder, self._task = folder, task
        self._over = threading.Event()
        self._said: dict[str, Any] = {
            "host": os.environ.get("SLURMD_NODENAME", platform.node()),
            "job": os.environ.get("SLURM_JOB_ID"),
            "started": self.started,
        }
        write_json(self.path, self._said)
        threading.Thread(target=self._beat, daemon=True).start()

    def close(self, end: str, advanced: bool, fruitless: bool) -> None:
        """Notes how it ended: done, requeued, stopped, abandoned or failed.

        Args:
            advanced: whether the work came further.
            fruitless: it did not, although most of the time limit was there for it.
        """
        self._over.set()
        self._said |= {
            "ended": time.time(), "end": end, "advanced": advanced, "fruitless": fruitless,
        }  # fmt: skip
        write_json(self.path, self._said)

    def fruitless_before(self) -> int:
        """How many shifts directly before this one came no further."""
        n = 0
        for restart in range(_restarts() - 1, -1, -1):
            said = read_diary(diary_of(self._folder, self._task, restart))
            if said is None or not said.get("fruitless"):
                break
            n += 1
        return n

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self.path)


def diary_of(folder: Path, task: int, restart: int | None = None) -> Path:
    """The diary of a task, of this start of it unless another is asked for."""
    return folder / f"{task}.{_restarts() if restart is None else restart}.diary.json"


def _restarts() -> int:
    """How often this job was started before."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def write_json(path: Path, said: Mapping[str, Any]) -> None:
    """Replaces a file in one step."""
    part = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    part.write_text(json.dumps(said))
    os.replace(part, path)


def read_diary(path: Path) -> dict[str, Any] | None:
    """What a diary says, with its last sign of life as `seen`; None where there is none."""
    try:
        said = json.loads(path.read_text())
        return {**said, "seen": said.get("ended", path.stat().st_mtime)}
    except (OSError, ValueError):
        return None
