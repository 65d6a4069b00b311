"""Cells as jobs of a Slurm cluster: what is submitted, what became of it, and following it.

The truth is the record. What remains to be done = wanted cells − finished records − cells of jobs
that are in the queue. So the same request may be made again at any time, from anywhere: it goes on.
"""

from __future__ import annotations

import functools
import itertools
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import methods
import results
import slurm
import suites
from reports.formatting import plural
from results.command import trouble
from results.files import write_atomically
from results.lease import Lease
from results.record import FINAL, Record
from results.store import Store
from slurm import queue
from slurm.arrays import Array, Arrays, Task, alive
from slurm.frozen import freeze
from slurm.queue import SlurmError
from slurm.site import Site
from suites.cluster.accidents import Entries, accidents, bury, came_from_outside, is_told
from suites.cluster.packing import packs
from suites.cluster.work import CellWork
from suites.engine import environment
from suites.engine.trial import Job
from suites.launching.attempt import Outcome

LOOK_S = 10.0  # between two looks at the queue of those who follow


class Sent(NamedTuple):
    """What a submission came to, in numbers."""

    cells: int = 0
    jobs: int = 0
    queued: int = 0  # cells that were in the queue before
    elsewhere: int = 0  # cells that somebody else is at work on

    def __str__(self) -> str:
        text = f"submitted {plural(self.cells, 'cell')} in {plural(self.jobs, 'job')}"
        if self.queued:
            text += f"; {plural(self.queued, 'cell')} in the queue before, with their own settings"
        if self.elsewhere:
            text += (
                f"; {plural(self.elsewhere, 'cell')} at work elsewhere, or until a moment ago: "
                "should they get no record, submit again in two minutes"
            )
        return text


class Sweep:
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
        root = store.root.resolve()  # its own name for locks and marks, whatever leads to it
        self.jobs = {
            job.cell.key: replace(
                job,
                # as they were given: other nodes may know no other way there
                results_dir=store.root.absolute(),
                data_dir=job.data_dir and job.data_dir.absolute(),
                weights=job.weights and job.weights.absolute(),
            )
            for job in jobs
        }
        self.sizes = sizes or {}
        self.arrays = Arrays(root / "slurm")
        self.sent = False  # whether there may be jobs to follow
        self._cancels: str | None = None  # the mark of cancelling when the following began

    def queued(self) -> set[str]:
        """The cells that are in the queue. Raises SlurmError."""
        return alive(*self._look()).keys() & self.jobs.keys()

    def submit(self, keys: Collection[str] | None = None) -> Sent:
        """Submits the cells that are neither finished nor in the queue.

        Jobs that ended without a word are given records first, see `bury`.

        Args:
            keys: only these.

        Raises:
            SlurmError: Slurm is not here, or refuses.
        """
        require()
        with _one_at_a_time(self.arrays):
            if self._cancelled():
                return Sent()
            arrays, entries = self._look()
            queued = alive(arrays, entries).keys()
            bury(self.store, self.arrays, self.jobs, arrays, entries)
            fields = ("key", "status", "started_at", "finished_at", "timings")
            records = self.store.read(self.jobs, fields=fields).records
            open_keys = {k for k in self.jobs if not _finished(records.get(k))} - queued
            live = self.store.live().keys() & open_keys  # of a run on another machine, say
            left = [
                job for key, job in self.jobs.items()
                if key in open_keys - live and (keys is None or key in keys)
            ]  # fmt: skip
            n_queued = len(queued & self.jobs.keys())
            if not left:
                return Sent(0, 0, n_queued, len(live))
            code = self._code
            running = sorted({entry.job for entry in entries.values() if entry.alive})
            took = [(self.jobs[k].cell, r) for k, r in records.items() if r["status"] == "ok"]
            packed = packs(left, self.site, took, self.sizes)
            before = accidents(records)
            tasks = [self._task(pack, code, before) for pack in packed]
            about = {
                "suite": self.suite, "command": left[0].command, "accidents": before,
                "side_by_side": self.site.side_by_side,
            }  # fmt: skip
            self.arrays.submit(tasks, self.site, code, about, behind=running)
            return Sent(len(left), len(tasks), n_queued, len(live))

    def _look(self) -> tuple[list[Array], Entries]:
        """The arrays that are not settled, and what the queue shows of them."""
        arrays = [array for array in self.arrays.read() if array.is_open]
        entries = self.arrays.entries(arrays)
        numbers = {name: entry.job for (name, _), entry in entries.items()}
        return [replace(a, job=a.job or numbers.get(a.name)) for a in arrays], entries

    @functools.cached_property
    def _code(self) -> Path:
        """A copy of the sources and the plug-ins, with what git says of them: one for all jobs.

        Raises SlurmError.
        """
        try:
            files = {environment.FROZEN: environment.git_text()}
            for n, plugin in enumerate(self.plugins):
                files[f"plugins/{n}/{plugin.name}"] = plugin.read_text()
            packages = [
                Path(str(package.__file__)).parent for package in (methods, results, slurm, suites)
            ]
            return freeze(packages, files, self.arrays.folder / "code")
        except OSError as error:
            raise SlurmError(f"the sources cannot be copied for the jobs: {error}") from None

    def _task(self, pack: Sequence[Job], code: Path, before: Mapping[str, str]) -> Task:
        plugins = [code / "plugins" / str(n) / p.name for n, p in enumerate(self.plugins)]
        mine = {job.cell.key: before[job.cell.key] for job in pack if job.cell.key in before}
        work = CellWork(
            tuple(pack), self.site.side_by_side, tuple(plugins), self.site.nodes, mine,
            self.site.warning_s,
        )  # fmt: skip
        return Task(tuple(job.cell.key for job in pack), work)

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
        seen = accidents(self.store.read(open_keys, fields=fields).records)
        times: Counter[str] = Counter()
        if not open_keys:
            return
        try:
            say(str(self.submit()))
            self.sent = True
        except SlurmError as error:  # a cluster may take a part of them, and the rest later
            if not self.queued():
                raise
            say(f"warning: {error}")
        looked = time.monotonic()
        said = ""
        while True:
            for key, record in self.store.read(open_keys, fields=fields).records.items():
                if not is_told(record, seen):
                    continue
                seen[key] = record["finished_at"]
                times[key] += 1
                if not came_from_outside(record) or times[key] > retries:
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
                    stuck = self._stuck()
                except SlurmError as error:
                    stuck = str(error)
                if stuck and stuck != said:
                    say(f"warning: {stuck}")
                said = stuck
                looked = time.monotonic()
            pause = time.monotonic() + 1.0
            while time.monotonic() < pause:
                tick()
                time.sleep(0.1)

    def _stuck(self) -> str:
        """What to say of jobs that wait for somebody to do something, if there are any."""
        entries = {
            (entry.name, entry.task): entry
            for key, entry in alive(*self._look()).items() if key in self.jobs and entry.stuck
        }  # fmt: skip
        if not entries:
            return ""
        reasons = ", ".join(sorted({entry.reason for entry in entries.values()}))
        return (
            f"not to start without your help: {plural(len(entries), 'job')} ({reasons}); change "
            "or release them with scontrol, or take them out of the queue by "
            f"`python -m suites.cancel {self.suite} --results-dir {self.store.root}`"
        )

    def _cancelled(self) -> bool:
        """Whether somebody has cancelled the suite since the following began."""
        return self._cancels is not None and self._cancel_mark() != self._cancels

    def _cancel_mark(self) -> str:
        """What changes when the suite is cancelled."""
        try:  # by its content: other machines may see the age of a file late
            return (self.arrays.folder / f"{self.suite}.cancelled").read_text()
        except OSError:
            return ""


def require() -> None:
    """Raises SlurmError where jobs cannot be submitted."""
    try:
        queue.require()
    except SlurmError as error:
        raise SlurmError(f"{error}; `python -m suites.run` trains on this machine") from None


def cancel(store: Store, suite: str) -> int:
    """Takes the jobs of a suite out of the queue; returns how many. Raises SlurmError."""
    arrays = Arrays(store.root.resolve() / "slurm")
    with _one_at_a_time(arrays):
        # the settled, too: a job that was warned just ahead of an earlier call may be back
        mine = [a for a in arrays.read() if a.about["suite"] == suite]
        if any(array.is_open for array in mine):
            # those who follow it shall not go on
            write_atomically(arrays.folder / f"{suite}.cancelled", secrets.token_hex(8))
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
    try:
        while not lease.acquire():
            if time.monotonic() - begun > 5 and not told:
                told = True
                sys.stderr.write(f"waiting for another submission, see {lease.path}\n")
            time.sleep(0.2)
        yield
    except OSError as error:
        raise SlurmError(f"what is known of jobs cannot be kept: {trouble(error)}") from error
    finally:
        lease.release()


def _finished(record: Record | None) -> bool:
    return record is not None and record["status"] in FINAL
