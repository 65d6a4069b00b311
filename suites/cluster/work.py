"""What a job of a cluster does: some cells, by the launcher of this machine.

Jobs import it from a frozen copy of the sources, so it names no more of them than it needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from results.store import Store
from slurm import job
from suites.cluster.accidents import came_from_outside, is_told
from suites.engine.plugins import load_methods
from suites.engine.trial import Job
from suites.launching import attempt, local, nodes
from suites.launching.attempt import Outcome

PATIENCE_S = 180.0  # longer than it takes to know that another machine is dead
LAST_WORDS_S = 30.0  # of the time between warning and end, for what comes after the checkpoints


@dataclass(frozen=True)
class CellWork:
    """Cells that one job runs, one after the other or side by side; see slurm.job."""

    jobs: tuple[Job, ...]
    side_by_side: int
    plugins: tuple[Path, ...]
    nodes: int
    before: Mapping[str, str]  # accidents of earlier jobs, see suites.cluster.accidents
    warning_s: float

    def __call__(self) -> None:
        load_methods(self.plugins)
        left = self._left()
        if not left:
            return
        cores = int(os.environ.get("SLURM_CPUS_PER_TASK") or local.usable_cores())
        # threads follow from the site, not from how full the pack is: sums over them round
        # differently, so the same command gives the same bits
        ranks = max(one.ranks for one in self.jobs)
        launcher = local.Launcher(
            self.side_by_side, self.plugins, cores, PATIENCE_S, ranks, self.nodes,
            job.meeting() if self.nodes > 1 else None,
            stop_patience_s=max(local.STOP_PATIENCE_S, self.warning_s - LAST_WORDS_S),
        )  # fmt: skip
        launcher.run(left, _say, lambda: None)

    def assist(self, over: Callable[[], bool]) -> None:
        """Lends the cores and GPUs of another node."""
        load_methods(self.plugins)
        nodes.assist(job.meeting(), over)

    def progress(self) -> object:
        """Which cells have a record, and when the others were saved."""
        store, left = Store(self.jobs[0].results_dir), self._left()
        return [(self._saved(store, one), one in left) for one in self.jobs]

    def _left(self) -> list[Job]:
        """The cells that are not over: those that failed here by themselves would fail again."""
        store, keys = Store(self.jobs[0].results_dir), [one.cell.key for one in self.jobs]
        fields = ("key", "status", "reason", "finished_at")
        records = store.read(keys, fields=fields).records
        over = {
            key for key, record in records.items()
            if is_told(record, self.before) and not came_from_outside(record)
        }  # fmt: skip
        return [one for one in self.jobs if one.cell.key not in over]

    @staticmethod
    def _saved(store: Store, job: Job) -> int:
        cells = [job.cell, *([job.cell.pretraining()] if job.cell.protocol.source else [])]
        paths = [store.checkpoints_dir / f"{cell.key}.pt" for cell in cells]
        return max((path.stat().st_mtime_ns for path in paths if path.exists()), default=0)

    def abandon(self, reason: str) -> None:
        """Makes records of the time-out, for all cells that did not end."""
        load_methods(self.plugins)
        store = Store(self.jobs[0].results_dir)
        for one in self._left():
            store.publish(attempt.accident(one, "timeout", reason))


def _say(job: Job, outcome: Outcome) -> None:
    reason = f" ({outcome.reason})" if outcome.reason else ""
    print(f"{job.label}: {outcome.status}{reason}", *outcome.warnings, sep="; ", flush=True)
