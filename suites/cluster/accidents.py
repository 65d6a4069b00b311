"""Jobs that are over and left cells without a record: what became of these, as records.

A job that is lost with its node, cancelled or out of memory cannot write one itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from results.files import last_lines
from results.record import FINAL, Record
from results.store import Store
from slurm import queue
from slurm.arrays import Array, Arrays, alive
from slurm.queue import Entry
from suites.engine.trial import Job
from suites.launching import attempt

STATUS = {"TIMEOUT": "timeout", "DEADLINE": "timeout", "OUT_OF_MEMORY": "oom"}  # else "killed"
LOST = "Slurm job"  # begins the reason of a record that a job could not make itself

Entries = Mapping[tuple[str, int], Entry]  # (name of an array, task) -> its entry in the queue


def bury(
    store: Store,
    folder: Arrays,
    jobs: Mapping[str, Job],
    arrays: Sequence[Array],
    entries: Entries,
) -> list[Record]:
    """Makes records of cells whose job is over without having left any; returns them.

    Each end is looked into once: the arrays are noted as settled for these cells.

    Args:
        folder: of all arrays.
        jobs: the cells to look after, by key.
        arrays: those that are not settled.
        entries: what the queue shows of them.
    """
    over = [
        (array, n) for array in arrays for n, keys in enumerate(array.keys)
        if not _is_alive(entries.get((array.name, n)))
        and any(key in jobs and key not in array.settled for key in keys)
    ]  # fmt: skip
    if not over:
        return []
    queued = alive(arrays, entries)
    fates = queue.fates({array.job for array, _ in over if array.job})
    records = store.read(jobs, fields=("key", "status", "finished_at")).records
    live = store.live()
    made = []
    ends: dict[str, list[str]] = {}
    shifts = {array.name: array.shifts() for array in {a.name: a for a, _ in over}.values()}
    for array, n in over:
        mine = [k for k in array.keys[n] if k in jobs and k not in array.settled]
        ends.setdefault(array.name, []).extend(mine)
        fate = fates.get((array.job or "", n), "")
        entry = entries.get((array.name, n))
        if entry is not None and fate.split(" ")[0] not in queue.OVER:
            fate = entry.fate  # accounting is late by seconds
        silent = [
            key for key in mine
            if key not in queued and not is_told(records.get(key), array.about["accidents"])
        ]  # fmt: skip
        diaries = shifts[array.name].get(n, ())
        # unknown to Slurm, and it never began: its submitter was killed before it was sent
        sent = bool(array.job or diaries)
        if silent and sent and _is_accident(diaries, fate):
            # a job that died at one cell is no news of those it had not come to
            number = diaries[-1].get("job") if diaries else None
            if number:
                begun = {k for k in array.keys[n] if _was_at(store, k, number)}
            else:  # it never began: who is at work on them is somebody else
                begun, silent = set(), [key for key in silent if key not in live]
            for key in [k for k in silent if k in begun] if begun else silent:
                record = _record(jobs[key], array, n, fate)
                store.publish(record)
                made.append(record)
    for array in arrays:
        folder.settle(array, ends.get(array.name, ()))
    return made


def _was_at(store: Store, key: str, number: str) -> bool:
    """Whether a job of this number was at work on a cell, and nobody has released it since."""
    try:
        lease = json.loads((store.live_dir / f"{key}.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(lease, dict) and lease.get("slurm_job") == number


def _is_alive(entry: Entry | None) -> bool:
    return entry is not None and entry.alive


def _is_accident(diaries: Sequence[Mapping[str, Any]], fate: str) -> bool:
    """Whether the cells that a job left without a record met an accident.

    They did not where the job ended in good order and left them to somebody else, or came further
    and could not put itself back into the queue.
    """
    last = diaries[-1] if diaries else {}
    if last.get("end") == "stopped":
        return not last["advanced"] or fate.startswith("CANCELLED")
    # what a job that is completed has written may be slow to come into sight
    return not (last.get("end") == "done" or fate.startswith("COMPLETED"))


def _record(job: Job, array: Array, n: int, fate: str) -> Record:
    """The record of a cell whose job is gone."""
    status = next((s for word, s in STATUS.items() if fate.startswith(word)), "killed")
    what = fate or "no longer in the queue, without a word"
    if fate.startswith("COMPLETED"):  # in good order, and yet
        what = "stopped ahead of its end, before the cell came any further"
    record = attempt.accident(job, status, f"{LOST} {array.number(n)}: {what}")
    if record["error"]:  # the cell's own last words say more than those of its job
        return record
    log = array.log(n)
    return {**record, "error": last_lines(log), "log": str(log)}


# ------------------------------------------------------------------- records of accidents


def accidents(records: Mapping[str, Record]) -> dict[str, str]:
    """When the last accident of each cell was: key -> time. It tells records from later ones."""
    return {k: r["finished_at"] for k, r in records.items() if r["status"] not in FINAL}


def is_told(record: Record | None, before: Mapping[str, str]) -> bool:
    """Whether there is a record, and it is finished or not one of the accidents of before.

    Clocks of different machines are not compared.
    """
    if record is None:
        return False
    return record["status"] in FINAL or record["finished_at"] != before.get(record["key"])


def came_from_outside(record: Record) -> bool:
    """Whether something else ended the cell: one that failed by itself would fail again.

    So would one that came no further in the time of whole jobs, and said so itself.
    """
    return record["status"] == "killed" or (record["reason"] or "").startswith(LOST)
