"""Cells as jobs of a Slurm cluster: what is submitted, what became of it, and following it.

The truth is the record. What remains to be done = wanted cells − finished records − cells of jobs
that are in the queue. So the same request may be made again at any time, from anywhere: it goes on.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

import methods
import results
import slurm
import suites
from reports.formatting import plural
from results.lease import Lease
from results.record import FINAL, Record, seconds_taken
from results.store import Store
from slurm import queue
from slurm.arrays import Array, Arrays, Task
from slurm.frozen import freeze
from slurm.queue import Entry, SlurmError
from slurm.site import Site
from suites.engine import engine, environment, local, nodes
from suites.engine.architectures import ARCHITECTURES
from suites.engine.cell import Cell
from suites.engine.datasets import bare_task
from suites.engine.engine import Outcome
from suites.engine.trial import Job

LOOK_S = 10.0  # between two looks at the queue of those who follow
PATIENCE_S = 180.0  # longer than it takes to know that another machine is dead
ACCIDENTS = {"TIMEOUT": "timeout", "DEADLINE": "timeout", "OUT_OF_MEMORY": "oom"}
LOG_LINES = 12
LOST = "Slurm job"  # begins the reason of a record that a job could not make itself
FIELDS = ("key", "status", "finished_at", "timings")  # of a record, for planning
# for guesses of how long a cell will take: operations per second of training, per core or GPU
CORE_RATE, GPU_RATE, START_MINUTES = 2e10, 5e12, 0.3

Entries = Mapping[tuple[str, int], Entry]  # (name of an array, task) -> its entry in the queue


@dataclass(frozen=True)
class CellWork:
    """Cells that one job runs, one after the other or side by side; see slurm.job.Work."""

    jobs: tuple[Job, ...]
    side_by_side: int
    plugins: tuple[Path, ...]
    nodes: int

    def __call__(self, meeting: Path) -> None:
        local.load_methods(self.plugins)
        cores = int(os.environ.get("SLURM_CPUS_PER_TASK") or local.usable_cores())
        # threads follow from the site, not from how full the pack is: sums over them round
        # differently, so the same command gives the same bits
        ranks = max(job.ranks for job in self.jobs)
        launcher = local.Launcher(
            self.side_by_side, self.plugins, cores, PATIENCE_S, ranks, self.nodes,
            meeting if self.nodes > 1 else None,
        )  # fmt: skip
        launcher.run(self.jobs, _say, lambda: None)

    def assist(self, meeting: Path, over: Callable[[], bool]) -> None:
        """Lends the cores and GPUs of another node."""
        local.load_methods(self.plugins)
        nodes.assist(meeting, over)

    def progress(self) -> object:
        """Which cells have a record, and when the others were saved."""
        store = Store(self.jobs[0].results_dir)
        return [(self._saved(store, job), self._ended(store, job)) for job in self.jobs]

    @staticmethod
    def _saved(store: Store, job: Job) -> int:
        path = store.checkpoints_dir / f"{job.cell.key}.pt"
        return path.stat().st_mtime_ns if path.exists() else 0

    @staticmethod
    def _ended(store: Store, job: Job) -> bool:
        return (store.records_dir / f"{job.cell.key}.json").exists()

    def abandon(self, reason: str) -> None:
        """Makes records of the time-out, for all cells that did not end."""
        local.load_methods(self.plugins)
        store = Store(self.jobs[0].results_dir)
        for job in self.jobs:
            if not self._ended(store, job):
                store.publish(engine.accident(job, "timeout", reason))


def _say(job: Job, outcome: Outcome) -> None:
    reason = f" ({outcome.reason})" if outcome.reason else ""
    print(f"{job.label}: {outcome.status}{reason}", *outcome.warnings, sep="; ", flush=True)


# ------------------------------------------------------------------------------ the cluster


class Sent(NamedTuple):
    """What a submission came to, in numbers."""

    cells: int
    jobs: int
    queued: int  # cells that were in the queue before

    def __str__(self) -> str:
        text = f"submitted {plural(self.cells, 'cell')} in {plural(self.jobs, 'job')}"
        if self.queued:
            text += f"; {plural(self.queued, 'cell')} in the queue before, with their own settings"
        return text


class Cluster:
    """The cells of one request on a cluster.

    Args:
        jobs: of all wanted cells, as they would run here; paths are made absolute.
        plugins: method files, which are frozen with the code.
        sizes: training images of each data set, for guesses of time.
    """

    def __init__(
        self,
        store: Store,
        suite: str,
        jobs: Sequence[Job],
        site: Site,
        plugins: Sequence[Path] = (),
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.store, self.suite, self.site, self.plugins = store, suite, site, plugins
        root = store.root.resolve()
        self.jobs = {
            job.cell.key: replace(
                job, results_dir=root, data_dir=job.data_dir and job.data_dir.resolve()
            )
            for job in jobs
        }
        self.sizes = sizes or {}
        self.arrays = Arrays(root / "slurm")
        self.sent = False  # whether there may be jobs to follow
        self._cancels: int | None = None  # the mark of cancelling when the following began

    def queued(self) -> set[str]:
        """The cells that are in the queue. Raises SlurmError."""
        return _keys_of(*self._look()) & self.jobs.keys()

    def submit(self, keys: Collection[str] | None = None) -> Sent:
        """Submits the cells that are neither finished nor in the queue.

        Jobs that ended without a word are given records first, see `bury`.

        Args:
            keys: only these.

        Raises:
            SlurmError: Slurm is not here, or refuses.
        """
        queue.require()
        with _one_at_a_time(self.arrays):
            if self._cancelled():
                return Sent(0, 0, 0)
            arrays, entries = self._look()
            queued = _keys_of(arrays, entries)
            self.bury(arrays, entries, queued)
            records = self.store.read(self.jobs, fields=FIELDS).records
            left = [
                job for key, job in self.jobs.items()
                if key not in queued and not _finished(records.get(key))
                and (keys is None or key in keys)
            ]  # fmt: skip
            n_queued = len(queued & self.jobs.keys())
            if not left:
                return Sent(0, 0, n_queued)
            code = self._freeze()
            running = sorted({entry.job for entry in entries.values() if entry.alive})
            tasks = [self._task(pack, code) for pack in self.packs(left, records)]
            about = {
                "suite": self.suite, "command": left[0].command, "accidents": _accidents(records),
            }  # fmt: skip
            self.arrays.submit(tasks, self.site, code, about, behind=running)
            return Sent(len(left), len(tasks), n_queued)

    def _look(self) -> tuple[list[Array], Entries]:
        """The arrays that are not settled, and what the queue shows of them."""
        arrays = [array for array in self.arrays.read() if array.is_open]
        entries = self.arrays.entries(arrays)
        numbers = {name: entry.job for (name, _), entry in entries.items()}
        return [replace(a, job=a.job or numbers.get(a.name)) for a in arrays], entries

    def _freeze(self) -> Path:
        """A copy of this package and the plug-ins, with what git says of them now."""
        here = (methods, results, slurm, suites)
        files = {environment.FROZEN: environment.git_text()}
        for n, plugin in enumerate(self.plugins):
            files[f"plugins/{n}/{plugin.name}"] = plugin.read_text()
        packages = [Path(str(package.__file__)).parent for package in here]
        return freeze(packages, files, self.arrays.folder / "code")

    def _task(self, pack: Sequence[Job], code: Path) -> Task:
        plugins = [code / "plugins" / str(n) / p.name for n, p in enumerate(self.plugins)]
        work = CellWork(tuple(pack), self.site.side_by_side, tuple(plugins), self.site.nodes)
        return Task(tuple(job.cell.key for job in pack), work)

    # ------------------------------------------------------------------------ packing

    def packs(self, jobs: Sequence[Job], records: Mapping[str, Record]) -> Iterator[list[Job]]:
        """Jobs in their order, as many together as fill the minutes of a pack."""
        known = {  # by cells of the same sort: other seeds
            _sort_of(self.jobs[key].cell): minutes_of(record)
            for key, record in records.items() if record["status"] == "ok"
        }  # fmt: skip
        room = self.site.pack_minutes * self.site.side_by_side
        pack: list[Job] = []
        filled = 0.0
        for job in jobs:
            minutes = known.get(_sort_of(job.cell)) or self._guess(job)
            if pack and filled + minutes > room:
                yield pack
                pack, filled = [], 0.0
            pack.append(job)
            filled += minutes
        if pack:
            yield pack

    def _guess(self, job: Job) -> float:
        """Minutes that a cell may take: thrice the operations of a forward pass for each image."""
        cell = job.cell
        if cell.kind != "train":
            return 2.0
        images = self.sizes.get(cell.dataset, 60_000) * cell.protocol.epochs
        operations = 3 * _operations(cell.architecture, cell.dataset) * images
        rate = GPU_RATE if self.site.gpus else CORE_RATE * self.site.cpus / self.site.side_by_side
        return START_MINUTES + operations / rate / 60

    # ------------------------------------------------------------------------ accidents

    def bury(
        self, arrays: Sequence[Array], entries: Entries, queued: Collection[str]
    ) -> list[Record]:
        """Makes records of cells whose job is over without having left any; returns them.

        Args:
            arrays: those to look into.
            entries: what the queue shows of them.
            queued: cells of jobs in the queue.
        """
        over = [
            (array, n) for array in arrays for n, keys in enumerate(array.keys)
            if not _alive(entries.get((array.name, n)))
            and any(key in self.jobs and key not in array.settled for key in keys)
        ]  # fmt: skip
        if not over:
            return []
        fates = queue.fates({array.job for array, _ in over if array.job})
        records = self.store.read(self.jobs, fields=FIELDS).records
        made = []
        ends: dict[str, list[str]] = {}
        shifts = {array.name: array.shifts() for array in {a.name: a for a, _ in over}.values()}
        for array, n in over:
            mine = [k for k in array.keys[n] if k in self.jobs and k not in array.settled]
            ends.setdefault(array.name, []).extend(mine)
            fate = fates.get((array.job or "", n), "")
            entry = entries.get((array.name, n))
            if entry is not None and fate.split(" ")[0] not in queue.OVER:
                fate = entry.fate  # accounting is late by seconds
            silent = [
                key for key in mine
                if key not in queued and not _told(records.get(key), array.about["accidents"])
            ]  # fmt: skip
            told = shifts[array.name].get(n, ())
            # unknown to Slurm, and it never began: its submitter was killed before it was sent
            sent = bool(array.job or told)
            if silent and sent and _needs_record(told, fate):
                # a job that died at one cell is no news of those it had not come to
                begun = {k for k in array.keys[n] if (self.store.live_dir / f"{k}.json").exists()}
                for key in [k for k in silent if k in begun] if begun else silent:
                    record = self._accident(self.jobs[key], array, n, fate)
                    self.store.publish(record)
                    made.append(record)
        for array in arrays:
            self.arrays.settle(array, ends.get(array.name, ()))
        return made

    def _accident(self, job: Job, array: Array, n: int, fate: str) -> Record:
        """The record of a cell whose job is gone."""
        number = (array.job or "?") + ("" if len(array.keys) == 1 else f"_{n}")
        status = next((s for word, s in ACCIDENTS.items() if fate.startswith(word)), "killed")
        what = fate or "no longer in the queue, without a word"
        record = engine.accident(job, status, f"{LOST} {number}: {what}")
        log = array.log(n)
        return {**record, "error": tail(log), "log": str(log)}

    # ------------------------------------------------------------------------ following

    def unfinished(self) -> dict[str, Job]:
        """The cells without a finished record."""
        records = self.store.read(self.jobs, fields=("status",)).records
        return {key: job for key, job in self.jobs.items() if not _finished(records.get(key))}

    def follow(
        self,
        on_end: Callable[[Job, Outcome], None],
        tick: Callable[[], None],
        say: Callable[[str], None],
        retries: int,
    ) -> None:
        """Submits; returns when every cell is finished, or has failed more often than is retried.

        Args:
            on_end: called when a cell has ended.
            tick: called several times a second.
            say: told what was submitted, and when Slurm does not answer, which is no reason to
                stop following.
            retries: how often a cell that was killed is submitted again.

        Raises:
            KeyboardInterrupt: the user stopped looking; the jobs go on.
            SlurmError: as from `submit`, at the first time.
        """
        self._cancels = self._cancel_mark()
        open_keys = set(self.unfinished())
        fields = ("key", "status", "reason", "finished_at", "metrics", "warnings")
        seen = _accidents(self.store.read(open_keys, fields=fields).records)
        times: Counter[str] = Counter()
        if not open_keys:
            return
        try:
            say(str(self.submit()))
            self.sent = True
        except SlurmError as error:  # a cluster may take a part of them, and the rest later
            if not _keys_of(*self._look()) & self.jobs.keys():
                raise
            say(f"warning: {error}")
        looked = time.monotonic()
        while True:
            for key, record in self.store.read(open_keys, fields=fields).records.items():
                if not _told(record, seen):
                    continue
                seen[key] = record["finished_at"]
                times[key] += 1
                if not _by_accident(record) or times[key] > retries:
                    open_keys.discard(key)
                    on_end(self.jobs[key], Outcome.of(record))
            if self._cancelled():
                say(f"{self.suite} was cancelled; submitting again goes on from the checkpoints")
                return
            if not open_keys:
                return
            if time.monotonic() - looked >= LOOK_S:
                try:
                    again = self.submit(open_keys)
                    if again.cells:
                        say(f"again: {again}")
                except SlurmError as error:
                    say(f"warning: {error}")
                looked = time.monotonic()
            pause = time.monotonic() + 1.0
            while time.monotonic() < pause:
                tick()
                time.sleep(0.1)

    def _cancelled(self) -> bool:
        """Whether somebody has cancelled the suite since the following began."""
        return self._cancels is not None and self._cancel_mark() != self._cancels

    def _cancel_mark(self) -> int:
        """What changes when the suite is cancelled."""
        path = self.arrays.folder / f"{self.suite}.cancelled"
        return path.stat().st_mtime_ns if path.exists() else 0


def cancel(store: Store, suite: str) -> int:
    """Takes the jobs of a suite out of the queue; returns how many. Raises SlurmError."""
    arrays = Arrays(store.root.resolve() / "slurm")
    with _one_at_a_time(arrays):
        mine = [a for a in arrays.read() if a.about["suite"] == suite and a.is_open]
        if mine:
            (arrays.folder / f"{suite}.cancelled").touch()  # those who follow it shall not go on
        alive = [entry for entry in arrays.entries(mine).values() if entry.alive]
        queue.cancel({entry.job for entry in alive})
        for array in mine:  # no accidents
            arrays.settle(array, itertools.chain.from_iterable(array.keys))
    return len(alive)


@contextmanager
def _one_at_a_time(arrays: Arrays) -> Iterator[None]:
    """Two submitters at once would both see the same cells missing."""
    lease = Lease(arrays.folder / "submitting.json", {"cell": "submission"})
    begun, told = time.monotonic(), False
    while not lease.acquire():
        if time.monotonic() - begun > 5 and not told:
            told = True
            sys.stderr.write(f"waiting for another submission, see {lease.path}\n")
        time.sleep(0.2)
    try:
        yield
    finally:
        lease.release()


# ------------------------------------------------------------------------------------ details


def _alive(entry: Entry | None) -> bool:
    return entry is not None and entry.alive


def _keys_of(arrays: Sequence[Array], entries: Entries) -> set[str]:
    """The cells of all jobs that run or will."""
    return {
        key for array in arrays for n, keys in enumerate(array.keys) for key in keys
        if _alive(entries.get((array.name, n)))
    }  # fmt: skip


def _finished(record: Record | None) -> bool:
    return record is not None and record["status"] in FINAL


def _accidents(records: Mapping[str, Record]) -> dict[str, str]:
    """When the last accident of each cell was: key -> time. It tells records from later ones."""
    return {k: r["finished_at"] for k, r in records.items() if r["status"] not in FINAL}


def _by_accident(record: Record) -> bool:
    """Whether something from outside ended the cell: one that failed by itself would fail again."""
    reason = record["reason"] or ""
    return record["status"] in ("killed", "timeout") or reason.startswith(LOST)


def _told(record: Record | None, before: Mapping[str, str]) -> bool:
    """Whether there is a record, and it is finished or not one of the accidents of before.

    Clocks of different machines are not compared.
    """
    if record is None:
        return False
    return record["status"] in FINAL or record["finished_at"] != before.get(record["key"])


def _needs_record(shifts: Sequence[Mapping[str, Any]], fate: str) -> bool:
    """Whether the cells that a job left without a record met an accident.

    They did not where the job ended in good order and left them to somebody else, or came further
    and could not put itself back into the queue.
    """
    last = shifts[-1] if shifts else {}
    # what a job that is completed has written may be slow to come into sight
    if last.get("end") == "done" or fate.startswith("COMPLETED"):
        return False
    return not (
        last.get("end") == "stopped" and last["advanced"] and not fate.startswith("CANCELLED")
    )


def minutes_of(record: Record) -> float:
    """What the cell of a record took, start included."""
    return START_MINUTES + seconds_taken(record) / 60


def _sort_of(cell: Cell) -> str:
    """All of a cell but its seed."""
    return repr({k: v for k, v in cell.identity().items() if k != "seed"})


@functools.cache
def _operations(architecture: str, dataset: str) -> float:
    """Floating-point operations of one image's forward pass."""
    task = bare_task(dataset)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        blocks = ARCHITECTURES[architecture].blocks(task).eval()
        blocks(torch.empty(1, *task.shape))
    return float(counter.get_total_flops())


def tail(path: Path, lines: int = LOG_LINES) -> str | None:
    """The last lines of a log; None where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 20_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return None
    return "\n".join(text.splitlines()[-lines:]) or None
