"""Brings the results of several machines together in one folder.

    python -m results.merge laptop/runs cluster/runs --into results/runs

Every record of the folders is in INTO afterwards, byte by byte: finished ones, accidents and
superseded ones. Folders that are read are not changed, and in INTO nothing is overwritten or lost.
On one disk a record gets a second name (a hard link), from another one it is copied.

Two finished records of one cell that differ (two machines ran it) are a conflict. As after
`--fresh`, the one that finished last is the cell's record and the others are kept as superseded.
The rule looks at nothing but the records, so it does not matter in which order folders are merged,
but for what the next sentence says of records that were put aside.
A record that `--fresh` has replaced in one folder does not come back from another, whatever its
date; where it has been put aside and nothing has replaced it yet, it stays the cell's record
wherever else it is, and INTO does not take it back.

Accidents get the next number that is free and keep the time of their file, by which the latest is
told. What is in INTO already, under whatever number, is not added again: merging twice is merging
once.

Plans of one suite become the union of what they ask for where they can share a table, see plans.py;
otherwise the newest request stays, and the command of the other one is told. What had been united
with that one before is left out with it: merge again what can share a table.

Checkpoints, logs and signs of life stay where they are: they belong to their machine.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from results.command import Parser, one_line, refuse, trouble, warn
from results.plans import check_plan, unite
from results.record import (
    FINAL,
    Record,
    RecordError,
    canonical_json,
    moment,
    parse,
    without_nan,
)
from results.store import Plan, Store, is_record, without_collector

CURRENT, SUPERSEDED = "current", "superseded"  # else the status of an accident


class MergeError(ValueError):
    """A request that cannot be carried out; the message is one line: what, where, how to fix it."""


@dataclass
class Outcome:
    """What merging did, or would do.

    Attributes:
        added: records that INTO did not have; known: those that it had already.
        conflicts, repeated, replaced, plans, unreadable: one line each, for people. Cells that were
            run twice with the same numbers are repeated, and no conflict.
    """

    added: int = 0
    known: int = 0
    conflicts: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    plans: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class File:
    """A record as one folder has it.

    Attributes:
        kind: "current", "superseded", or the status of an accident.
        digest: of what it says; two files that differ in spaces alone say the same.
        finished_at: seconds since 1970.
    """

    path: Path
    kind: str
    digest: str
    finished_at: float
    record: Record
    content: bytes

    @property
    def age(self) -> tuple[float, str]:
        """What finished later is larger; digests settle what finished in the same second."""
        return self.finished_at, self.digest


@dataclass
class Decision:
    """What becomes of the records of one cell.

    Attributes:
        current: the record that becomes the cell's own; None where that stays as it is.
        kept: records to be added beside it, the oldest first.
        rivals: records that different folders take for the cell's own, if there are several.
    """

    current: File | None = None
    kept: list[File] = field(default_factory=list)
    rivals: list[File] = field(default_factory=list)


def merge(sources: Sequence[Store], into: Store, dry_run: bool = False) -> Outcome:
    """Adds to `into` what the other stores have; see the head of this file.

    Raises:
        MergeError: a folder that is none of results, or that cannot be read or written.
    """
    try:
        _check_folders(sources, into)
        outcome = Outcome()
        there = _by_key(into)
        given = [(store, _by_key(store)) for store in sources]
        if not dry_run:
            into.prepare()
        with without_collector():
            for key in sorted({key for _, names in given for key in names}):
                files = [
                    file for store, names in given
                    for file in _read(store, key, names.get(key, ()), outcome)
                ]  # fmt: skip
                _merge_cell(key, there.get(key, []), files, into, dry_run, outcome)
        _merge_plans(sources, into, dry_run, outcome)
    except OSError as error:
        raise MergeError(
            f"cannot merge: {trouble(error)}; what was merged so far is whole, and "
            "the same command goes on"
        ) from error
    return outcome


def _check_folders(sources: Sequence[Store], into: Store) -> None:
    for store in sources:
        if why := store.why_not():
            raise MergeError(why)
        if into.root.exists() and store.root.samefile(into.root):
            raise MergeError(f"{store.root} cannot be merged into itself; name another --into")
    if into.root.exists() and not into.root.is_dir():
        raise MergeError(f"{into.root} is not a folder; name another --into")


# --------------------------------------------------------------------------------- records


def _by_key(store: Store) -> dict[str, list[str]]:
    """key -> names of its files."""
    found: dict[str, list[str]] = {}
    if store.records_dir.is_dir():
        for name in sorted(filter(is_record, os.listdir(store.records_dir))):
            found.setdefault(name.partition(".")[0], []).append(name)
    return found


def _read(store: Store, key: str, names: Iterable[str], outcome: Outcome) -> Iterator[File]:
    """The files that can be read; the others are named in the outcome."""
    for name in names:
        path = store.records_dir / name
        try:
            yield _file(path, key)
        except FileNotFoundError:
            continue  # it was just given another name
        except ValueError as error:  # RecordError, or a number that JSON does not have
            outcome.unreadable.append(f"{path}: {error}")


def _file(path: Path, key: str) -> File:
    """Raises ValueError, OSError."""
    content = path.read_bytes()
    record = parse(content)
    if record["key"] != key:
        raise RecordError(f"it holds the record of {record['key']}")
    rest = path.name.removeprefix(key).removesuffix(".json").removeprefix(".")
    kind = rest.rpartition("-")[0] if rest else CURRENT
    finished = record["status"] in FINAL
    if finished != (kind in (CURRENT, SUPERSEDED)) or not (finished or kind == record["status"]):
        raise RecordError(f"its name does not fit a record that is {record['status']!r}")
    return File(path, kind, _digest(record), moment(record["finished_at"]), record, content)


def _digest(record: Record) -> str:
    try:
        text = orjson.dumps(record, option=orjson.OPT_SORT_KEYS)  # which writes NaN as null
    except orjson.JSONEncodeError:  # an integer of more than 64 bits, half a character
        text = canonical_json(without_nan(record)).encode(errors="replace")
    return hashlib.sha256(text).hexdigest()


def decide(there: Sequence[File], given: Sequence[File]) -> Decision:
    """What becomes of the records of one cell.

    Args:
        there: what INTO has.
        given: what the other folders have, in any order.
    """
    everything = [*there, *given]
    known = {file.digest for file in there}
    put_aside = {file.digest for file in everything if file.kind == SUPERSEDED}
    put_aside_there = {file.digest for file in there if file.kind == SUPERSEDED}
    claims = {file.digest: file for file in reversed(everything) if file.kind == CURRENT}
    rivals = [file for digest, file in claims.items() if digest not in put_aside]
    rest = [file for digest, file in claims.items() if digest not in put_aside_there]
    winner = max(rivals or rest, key=lambda file: file.age, default=None)
    new = {file.digest: file for file in reversed(given) if file.digest not in known}
    decision = Decision(rivals=sorted(rivals, key=lambda f: f.age) if len(rivals) > 1 else [])
    if winner is not None and winner.digest not in known:
        decision.current = new.pop(winner.digest)
    decision.kept = sorted(new.values(), key=lambda file: file.age)
    return decision


def _merge_cell(
    key: str, names: Sequence[str], given: Sequence[File], into: Store, dry: bool, outcome: Outcome
) -> None:
    ours = Outcome()
    there = list(_read(into, key, names, ours))
    own = into.records_dir / f"{key}.json"
    torn = [line for line in ours.unreadable if line.startswith(f"{own}: ")]
    outcome.unreadable += ours.unreadable
    if torn and "newer than" in torn[0]:
        return  # a newer version knows what to do with it, and with the others
    decision = decide(there, given)
    outcome.known += len({f.digest for f in given} & {f.digest for f in there})
    outcome.added += len(decision.kept) + (decision.current is not None)
    current = next((file for file in there if file.kind == CURRENT), None)
    if decision.rivals:
        first, *others = (file.record["metrics"] for file in decision.rivals)
        told = outcome.repeated if all(m == first for m in others) else outcome.conflicts
        told.append(_conflict_text(decision.rivals))
    elif current and decision.current:
        text = f"{_name(current.record)}: {_result(current.record)}"
        outcome.replaced.append(f"{text}, by {_result(decision.current.record)}")
    if dry:
        return
    for file in decision.kept:
        kind = SUPERSEDED if file.kind == CURRENT else file.kind
        into.place(file.content, into.names(key, kind), file.path)
    if decision.current:
        if current:
            into.supersede(key)
        elif torn:
            into.set_aside(own)
        # if a program has finished the cell in this very moment, its record stays
        names_left = itertools.chain([own], into.names(key, SUPERSEDED))
        into.place(decision.current.content, names_left, decision.current.path)


def _conflict_text(rivals: Sequence[File]) -> str:
    """'hff on digits/mlp-2x500, seed 0 (key): 97.20 % on a, 97.40 % on b; the last ...'."""
    *others, last = (file.record for file in rivals)
    text = f"{_name(last)}: " + ", ".join(_result(file.record) for file in rivals)
    if all(record["metrics"] == last["metrics"] for record in others):
        text += "; the same numbers"
    if len({record["code_sha"] for record in (*others, last)}) > 1:
        text += "; by different sources"
    return text + f"; the last is the newest ({last['finished_at']}) and counts"


def _name(record: Record) -> str:
    cell = record["cell"]
    parts = [str(cell[name]) for name in ("dataset", "architecture") if name in cell]
    place = f" on {'/'.join(parts)}" if parts else ""
    return f"{cell.get('method', 'a cell')}{place}, seed {cell.get('seed', '?')} ({record['key']})"


def _result(record: Record) -> str:
    """'97.22 % on node1': test accuracy by the first readout, else the status."""
    text = record["status"]
    tests = record["metrics"].get("test")
    for readout in list(tests.values())[:1] if isinstance(tests, dict) else ():
        if isinstance(accuracy := readout.get("accuracy_pct"), int | float):
            text = f"{accuracy:.2f} %"
    return f"{text} on {record['environment'].get('host') or 'an unknown machine'}"


# ----------------------------------------------------------------------------------- plans


def _merge_plans(sources: Sequence[Store], into: Store, dry: bool, outcome: Outcome) -> None:
    names = {path.stem for store in sources for path in store.plans_dir.glob("[!.]*.json")}
    for suite in sorted(names):
        ours, *others = (_plan(store, suite, outcome) for store in (into, *sources))
        plans = [plan for plan in (ours, *others) if plan]
        if not plans:
            continue
        united, lines = unite(plans)
        outcome.plans += lines
        if united == ours or dry:
            continue
        if ours is None and (torn := into.plans_dir / f"{suite}.json").exists():
            into.set_aside(torn)
        into.write_plan(united)


def _plan(store: Store, suite: str, outcome: Outcome) -> Plan | None:
    """The plan of a folder; None where there is none that can be read."""
    try:
        plan = store.read_plan(suite)
        if plan is not None:
            check_plan(plan, suite)
        return plan
    except RecordError as error:
        path = str(store.plans_dir / f"{suite}.json")
        outcome.unreadable.append(f"{path}: {str(error).removeprefix(f'{path}: ')}")
        return None


# ---------------------------------------------------------------------------- command line


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m results.merge",
        description="Brings the results of several machines together in one folder.\n"
        "Nothing is overwritten or lost, and merging twice is merging once.",
        epilog="what happens to a record:\n"
        "  not in INTO yet          added as it is; accidents get the next free number\n"
        "  in INTO already          left alone\n"
        "  another finished one     a conflict: the one that finished last is the cell's\n"
        "                           record, as after --fresh; the other is kept as superseded\n"
        "  cannot be read           reported and left where it is\n"
        "plans of one suite become one that asks for everything, if profile and protocols agree;\n"
        "else the newest stays. Checkpoints and logs stay on their machines.\n\n"
        "examples:\n"
        "  python -m results.merge /mnt/laptop/runs /mnt/node7/runs --into results/runs\n"
        "  python -m results.merge /mnt/laptop/runs --into results/runs --dry-run\n"
        "  python -m reports.build all\n\n"
        "exit status: 0 merged, 1 merged with conflicts or files that could not be read, 2 the\n"
        "request is wrong or a folder cannot be used",
    )
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="FROM",
        help="folder of results, such as results/runs of another machine",
    )  # fmt: skip
    parser.add_argument(
        "--into", type=Path, required=True, metavar="DIR",
        help="folder that gets everything; made if it is not there",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="say what would happen, do nothing")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        outcome = merge([Store(path) for path in args.sources], Store(args.into), args.dry_run)
    except MergeError as error:
        return refuse(str(error))
    for line in outcome.unreadable:
        warn(f"not read: {line}")
    for what, lines in (("conflict", outcome.conflicts), ("run twice", outcome.repeated),
                        ("replaced", outcome.replaced),
                        ("note", outcome.plans)):  # fmt: skip
        for line in lines:
            print(f"{what}: {one_line(line)}")
    would = "would be " if args.dry_run else ""
    counts = [
        f"{_counted(outcome.added, 'record')} {would}added to {args.into}",
        f"{outcome.known} there already",
        _counted(len(outcome.conflicts), "conflict"),
    ]
    if outcome.unreadable:
        counts.append(f"{_counted(len(outcome.unreadable), 'file')} not read")
    print(", ".join(counts))
    return 1 if outcome.conflicts or outcome.unreadable else 0


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


if __name__ == "__main__":
    sys.exit(main())
