"""The store: a folder of records that many processes may write to at once.

    <results>/records/<key>.json                 the record of a finished cell (ok, diverged)
    <results>/records/<key>.<status>-<n>.json    the n-th accident of that cell (failed, oom, ...)
    <results>/records/<key>.superseded-<n>.json  a record that `--fresh` replaced
    <results>/plans/<suite>.json                 what was asked for last
    <results>/live/<key>.json                    who is at work on a cell, and how far
    <results>/checkpoints/<key>.pt               where to go on after an interruption
    <results>/pretrained/<key>-<code>.pt         weights for cells of transfer; may be deleted
    <results>/cache/records.parquet              what is known of all records, see frame.py
    <results>/set-aside/                         files that could not be read, kept for inspection

A file gets its name only when it is complete, and no name is ever given to a second content:
a record is linked, not renamed, into place, and linking refuses to overwrite.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import tempfile
import time
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import orjson

from results.files import write_atomically
from results.lease import is_alive
from results.record import FINAL, NewerSchema, Record, RecordError, check, parse, without_nan

Plan = dict[str, Any]
HEAD = ("status", "reason", "code_sha")  # what planning needs to know of a record


@dataclass
class Summary:
    """What was read for one set of keys."""

    records: dict[str, Record] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)  # one line per file
    newer: list[str] = field(default_factory=list)  # those of them that a newer version made


class Store:
    """Records, plans, checkpoints and signs of life below one folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.records_dir = self.root / "records"
        self.plans_dir = self.root / "plans"
        self.live_dir = self.root / "live"
        self.checkpoints_dir = self.root / "checkpoints"
        self.pretrained_dir = self.root / "pretrained"
        self.set_aside_dir = self.root / "set-aside"

    def prepare(self) -> None:
        """Makes the folders and proves that they can be written to.

        Raises:
            OSError: the folder cannot be made or written to.
        """
        for folder in (self.records_dir, self.plans_dir, self.live_dir, self.checkpoints_dir):
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.records_dir, prefix=".probe-") as probe:
            (Path(probe) / "a").write_text("writable")
            os.link(Path(probe) / "a", Path(probe) / "b")  # records are published by linking

    def why_not(self) -> str:
        """One line where this is no folder of results, with what may be meant; "" where it is."""
        if self.records_dir.is_dir():
            return ""
        hint = "give the folder that has records/ in it"
        if self.root.name == "records" and self.root.is_dir():
            hint = f"did you mean {self.root.parent}?"
        what = "is no folder of results" if self.root.exists() else "is not there"
        return f"{self.root} {what}; {hint}"

    # ---------------------------------------------------------------- records

    def publish(self, record: Record) -> Path | None:
        """Writes a record whole or not at all. None: another process was first.

        Raises:
            RecordError: the record is not a valid one.
        """
        record = check(without_nan(record))
        text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
        # half characters, of arguments that are no text, could not be read back: replaced
        content = text.encode(errors="replace")
        if record["status"] in FINAL:
            return self.place(content, [self.records_dir / f"{record['key']}.json"])
        return self.place(content, self.names(record["key"], record["status"]))

    def names(self, key: str, kind: str) -> Iterator[Path]:
        """The names of a cell's accidents of one status, or of its superseded records."""
        return (self.records_dir / f"{key}.{kind}-{n}.json" for n in range(1, 10_000))

    def place(
        self, content: bytes, names: Iterable[Path], original: Path | None = None
    ) -> Path | None:
        """Gives content the first name that is free, whole or not at all; None if none is.

        Args:
            original: a file with this content. On the same disk it gets a second name, since no
                record is ever written to; elsewhere it is copied, with its time, which accidents
                are ordered by.
        """
        self.records_dir.mkdir(parents=True, exist_ok=True)
        temporary = self.records_dir / f".part-{uuid.uuid4().hex}"
        try:
            if original is None or not _linked(original, temporary):
                with open(temporary, "xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                if original is not None:
                    modified_ns = original.stat().st_mtime_ns
                    os.utime(temporary, ns=(modified_ns, modified_ns))
            for name in names:
                try:
                    os.link(temporary, name)
                    return name
                except FileExistsError:
                    continue
            return None
        finally:
            temporary.unlink(missing_ok=True)

    def saved(self) -> set[str]:
        """Keys of the cells that have a checkpoint to go on from."""
        return {path.stem for path in self.checkpoints_dir.glob("*.pt")}

    def supersede(self, key: str) -> None:
        """Puts a finished record out of the way so that the cell runs again. Nothing is deleted."""
        (self.checkpoints_dir / f"{key}.pt").unlink(missing_ok=True)
        current = self.records_dir / f"{key}.json"
        if current.exists():
            _move(current, (self.records_dir / f"{key}.superseded-{n}.json" for n in count(1)))

    def read(
        self,
        keys: Iterable[str],
        set_aside: bool = False,
        fields: Collection[str] | None = None,
    ) -> Summary:
        """The record of each key: the finished one, else the latest accident, else none.

        Unreadable files are named in the summary and never hide the other records.

        Args:
            set_aside: also move unreadable files to `set-aside/`, so that their cells can be run
                again; for the program that runs cells. Files of a newer schema stay in any case.
            fields: the fields to keep of each record; all of them fill the memory soon.
        """
        summary = Summary()
        wanted = set(keys)
        accidents: dict[str, list[str]] = {}
        finished: set[str] = set()
        for name in self._names():
            key, _, rest = name.removesuffix(".json").partition(".")
            if key not in wanted:
                continue
            if not rest:
                finished.add(key)
            elif not rest.startswith("superseded-"):
                accidents.setdefault(key, []).append(name)
        share = _Sharing()
        with without_collector():
            for key in sorted(wanted):
                candidates = [f"{key}.json"] if key in finished else []
                candidates += sorted(accidents.get(key, []), key=self._age)
                for name in candidates:
                    record = self._load(name, key, summary, set_aside)
                    if record is not None:
                        if fields is not None:
                            record = {k: record[k] for k in fields if k in record}
                        summary.records[key] = share(record)
                        break
        return summary

    def _names(self) -> list[str]:
        try:
            with os.scandir(self.records_dir) as entries:
                return sorted(e.name for e in entries if is_record(e.name))
        except FileNotFoundError:
            return []

    def _age(self, name: str) -> float:
        """Newest first when sorted."""
        return -(self.records_dir / name).stat().st_mtime

    def _load(self, name: str, key: str, summary: Summary, set_aside: bool) -> Record | None:
        path = os.path.join(self.records_dir, name)  # a Path takes half as long as the reading
        try:
            with open(path, "rb") as file:
                record = parse(file.read())
            if record["key"] != key:
                raise RecordError(f"it holds the record of {record['key']}")
            return record
        except FileNotFoundError:
            return None
        except NewerSchema as error:
            summary.newer.append(f"{path}: {error}")
            summary.unreadable.append(summary.newer[-1])
            return None
        except RecordError as error:
            line = f"{path}: {error}"
            if set_aside:
                line += f"; moved to {self.set_aside(Path(path))}"
            summary.unreadable.append(line)
            return None

    def set_aside(self, path: Path) -> Path:
        """Moves an unreadable file out of the way, under a name that is not taken."""
        self.set_aside_dir.mkdir(parents=True, exist_ok=True)
        return _move(path, (self.set_aside_dir / f"{path.name}.{n}" for n in count(1)))

    # ------------------------------------------------------------------ plans

    def write_plan(self, plan: Plan) -> Path:
        """Stores what was asked for; a plan is only a question, so the last one wins."""
        path = self.plans_dir / f"{plan['suite']}.json"
        write_atomically(path, json.dumps(plan, indent=1, allow_nan=False))
        return path

    def read_plan(self, suite: str) -> Plan | None:
        """The plan stored last for a suite, or None.

        Raises:
            RecordError: the file is there but not a plan.
        """
        path = self.plans_dir / f"{suite}.json"
        try:
            plan = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RecordError(f"{path}: not valid JSON ({error})") from None
        if not isinstance(plan, dict) or "cells" not in plan:
            raise RecordError(f"{path}: not a plan")
        return plan

    # ----------------------------------------------------------- signs of life

    def live(self) -> dict[str, dict[str, Any]]:
        """Cells somebody is at work on: key -> {host, process, epoch, epochs, at, ...}."""
        alive = {}
        for path in self.live_dir.glob("*.json"):
            try:
                sign = json.loads(path.read_text())
                if is_alive(sign, time.time() - path.stat().st_mtime):
                    alive[path.stem] = sign
            except (OSError, ValueError):
                continue  # it was just replaced or removed
        return alive


class _Sharing:
    """Gives records that were made alike one object for what they have in common.

    A machine's description is a third of a record; 100,000 of them fill the memory, and take
    seconds to be freed.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, Any] = {}

    def __call__(self, record: Record) -> Record:
        for place, name in (
            (record, "environment"),
            (record, "command"),
            (record.get("cell"), "config"),
            (record.get("cell"), "protocol"),
        ):
            if place and name in place:
                with contextlib.suppress(orjson.JSONEncodeError):  # an integer of over 64 bits
                    text = orjson.dumps(place[name])
                    place[name] = self.known.setdefault(text, place[name])
        return record


def is_record(name: str) -> bool:
    """Whether a file of this name in the folder of records is one, and not one being written."""
    return name.endswith(".json") and name[0] != "."


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Has Python's garbage collector wait: it would walk over many records again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _linked(original: Path, name: Path) -> bool:
    """Gives a file a second name, where its disk and owner allow it."""
    if original.is_symlink():
        return False
    try:
        os.link(original, name)
    except OSError:
        return False
    return True


def _move(path: Path, names: Iterable[Path]) -> Path:
    """Gives a file the first name that is free; never replaces another file."""
    for name in names:
        try:
            os.link(path, name)
        except FileExistsError:
            continue
        except FileNotFoundError:  # another process was faster
            return name
        path.unlink(missing_ok=True)
        return name
    raise AssertionError("names never end")
