"""One cell: runs it, once at a time, and turns whatever happens into a record."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from results.files import last_lines
from results.lease import Lease
from results.record import FINAL, SCHEMA, Record
from results.store import Store
from suites.auditing import measure as audit
from suites.costs import measure as costs
from suites.engine import datasets, environment, ranks
from suites.engine.checkpoint import Checkpoint
from suites.engine.evaluation import Diverged
from suites.engine.precision import computing
from suites.engine.trial import Job, LeaseLost, Stopped, Trial, now
from suites.transfer import measure as transfer


@dataclass(frozen=True)
class Outcome:
    """How a run of one cell ended.

    Attributes:
        status: that of the record, or "busy" when another process is at work on the cell, or
            "stopped" when the run was asked to stop, or "lost" when one of several processes that
            train the cell together is gone.
        warnings: what the user should read, such as a checkpoint that was set aside.
        accuracies_pct: split -> accuracy of the headline readout, where there is one.
    """

    status: str
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    accuracies_pct: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def of(record: Record) -> Outcome:
        """What a record says."""
        headlines = {s: next(iter(r.values())) for s, r in record["metrics"].items() if r}
        accuracies = {s: found["accuracy_pct"] for s, found in headlines.items()}
        return Outcome(record["status"], record["reason"], tuple(record["warnings"]), accuracies)


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
    about = {"key": key, "cell": job.label, "slurm_job": os.environ.get("SLURM_JOB_ID")}
    lease = Lease(store.live_dir / f"{key}.json", about)
    if not lease.acquire():
        return Outcome("busy")

    def report(progress: dict[str, Any]) -> None:
        watch(progress)
        if not lease.renew(**progress):
            raise LeaseLost

    try:
        # only the holder of the lease may look: another process may just have finished the cell
        found = store.read([key], set_aside=True)
        finished = found.records.get(key)
        if finished is not None and finished["status"] in FINAL:
            return Outcome(finished["status"], finished["reason"])
        if found.newer:
            return Outcome("failed", found.newer[0])
        checkpoint = Checkpoint(store, job.cell)
        record = _attempt(job, checkpoint, stop, report)
        record["warnings"] = [*record["warnings"], *found.unreadable]
        if store.publish(record) is None:
            in_vain = "in vain: another process has published its record first"
            record["warnings"] = [*record["warnings"], in_vain]
        if record["status"] in FINAL:
            checkpoint.remove()
        return Outcome.of(record)
    except Stopped:
        return Outcome("stopped")
    except LeaseLost:
        return Outcome("busy")
    except ranks.Lost:
        return Outcome("lost")
    finally:
        lease.release()


def assist(job: Job) -> None:
    """Makes the steps of a cell together with the process that runs it, and nothing else."""
    cell = job.cell
    trial = Trial(job, torch.device(job.device), Checkpoint(Store(job.results_dir), cell))
    data = datasets.load(cell.dataset, job.data_dir, cell.protocol.val_fraction)
    with computing(cell.protocol.precision, trial.device), contextlib.suppress(Diverged):
        trial.assist(data)


def _attempt(
    job: Job,
    checkpoint: Checkpoint,
    stop: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
) -> Record:
    """The record of one attempt at a cell, whatever becomes of it.

    Raises:
        Stopped, LeaseLost, ranks.Lost: the attempt ended, and the cell did not.
    """
    cell = job.cell
    trial = Trial(job, torch.device(job.device), checkpoint, stop, report)
    status, reason, error = "ok", None, None
    found: dict[str, Any] = {}
    try:
        data = datasets.load(cell.dataset, job.data_dir, cell.protocol.val_fraction)
        found["data_sha256"] = data.sha256
        with computing(cell.protocol.precision, trial.device):
            if cell.kind == "audit":
                found["audit"] = audit.measure(cell, data)
            elif cell.kind == "cost":
                found |= costs.measure(cell, data, trial.device, trial.alive)
            elif cell.kind == "transfer":
                trial.metrics = transfer.measure(trial, data)
                found["source_sha256"] = trial.source_sha256
            else:
                trial.run(data)
    except Diverged as event:
        status, reason = "diverged", str(event)
    except torch.OutOfMemoryError as event:
        status, reason = "oom", str(event).splitlines()[0]
    except MemoryError:
        status, reason = "oom", "the machine ran out of memory"
    except (Stopped, LeaseLost):
        raise
    except Exception as event:
        if ranks.is_lost(event):
            raise ranks.Lost from event
        status, reason = "failed", f"{type(event).__name__}: {event}".splitlines()[0]
        if "can't allocate memory" in reason:  # of torch on a CPU, a plain RuntimeError
            status = "oom"
        if cell.protocol.execution:
            reason += f" (with --execution {' '.join(cell.protocol.execution)})"
        error = traceback.format_exc()
    if status != "ok":
        sys.stderr.write(f"{job.label}: {error or f'{status}: {reason}'}\n")  # into its log
    return record_of(trial, status, reason, error) | found


def record_of(trial: Trial, status: str, reason: str | None, error: str | None) -> Record:
    """The record of a trial as far as it came; see results/record.py for the fields."""
    job, cell, progress = trial.job, trial.cell, trial.progress
    made = progress.step * trial.batch
    rate = made / progress.train_s if made and progress.train_s else None
    share = progress.data_wait_s / progress.train_s if progress.data_wait_s else None
    return {
        "schema": SCHEMA,
        "key": cell.key,
        "suite": job.suite,
        "profile": job.profile,
        "status": status,
        "reason": reason,
        "error": error,
        "log": None if status == "ok" else f"logs/{cell.key}.log",
        "cell": cell.identity(),
        "metrics": trial.metrics,
        "curves": progress.curves,
        "timings": {
            "train_s": progress.train_s,
            "eval_s": progress.eval_s,
            "train_images_per_s": rate,
            "eval_images_per_s": trial.test_images_per_s,
            "data_wait_share": share,
        },
        "memory": progress.memory,
        "cost": trial.cost,
        "speed": {},
        "audit": {},
        "data_sha256": None,
        "environment": environment.describe(trial.device) | {"processes": job.ranks},
        "code_sha": cell.code_sha(),
        "sessions": progress.sessions,
        "warnings": trial.warnings,
        "command": job.command,
        "started_at": progress.started_at,
        "finished_at": now(),
    }


def accident(job: Job, status: str, reason: str) -> Record:
    """The record of a cell whose process did not live to write one (killed, lost, timeout)."""
    store = Store(job.results_dir)
    trial = Trial(job, torch.device("cpu"), Checkpoint(store, job.cell))
    return record_of(trial, status, reason, last_lines(job.log))
