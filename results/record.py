"""The record: everything that is known of one run of one cell, as one JSON document."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

SCHEMA = 1

# A cell whose record has one of the first two states is finished: running it again would give
# the same answer. The others are accidents of the machine, so they are kept and tried again.
FINAL = ("ok", "diverged")
STATUSES = (*FINAL, "failed", "oom", "timeout", "killed")

Record = dict[str, Any]

_REQUIRED: dict[str, type | tuple[type, ...]] = {
    "schema": int,
    "key": str,
    "suite": str,
    "status": str,
    "cell": dict,
    "metrics": dict,
    "curves": dict,
    "timings": dict,
    "memory": dict,
    "cost": dict,
    "environment": dict,
    "code_sha": str,
    "started_at": str,
    "finished_at": str,
}

# schema n -> function that turns a document of schema n into one of schema n + 1
_MIGRATIONS: dict[int, Callable[[Record], Record]] = {}


class RecordError(ValueError):
    """A document that is not a record this version can read; the message says why."""


class NewerSchema(RecordError):
    """A record of a version of bpfree that is newer than this one."""


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> str:
    """The one text form that is hashed: sorted keys, no spaces, no NaN."""
    return _CANONICAL.encode(value)


def cell_key(identity: Mapping[str, Any]) -> str:
    """The key of a cell: 16 hexadecimal digits of the SHA-256 of its resolved configuration.

    Equal key = same work. The whole configuration is hashed, defaults included, because a key
    made of differences from defaults changes its meaning when a default changes.
    """
    return hashlib.sha256(canonical_json(dict(identity)).encode()).hexdigest()[:16]


def _is_key(key: str, identity: Mapping[str, Any]) -> bool:
    """Whether this is the key of that cell."""
    with contextlib.suppress(orjson.JSONEncodeError):  # an integer of more than 64 bits
        # written three times as fast, and nearly always in the same text: few numbers differ
        quick = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
        if hashlib.sha256(quick).hexdigest()[:16] == key:
            return True
    return cell_key(identity) == key


def seconds_taken(record: Record) -> float:
    """What training and evaluation of a cell took; where it had neither, from start to end.

    Cells that measure costs or audit a rule count no training of their own.
    """
    counted = sum(record["timings"].get(name) or 0.0 for name in ("train_s", "eval_s"))
    return counted or max(0.0, moment(record["finished_at"]) - moment(record["started_at"]))


def moment(stamp: str) -> float:
    """Seconds since 1970 of an ISO time, UTC where it names no zone; what is none is oldest."""
    try:
        found = datetime.fromisoformat(stamp)
    except ValueError:
        return float("-inf")
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def without_nan(value: Any) -> Any:
    """The same document with every NaN or infinity replaced by None (JSON has neither)."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    return value


def check(document: Any) -> Record:
    """Returns the document as a record of the current schema.

    Raises:
        NewerSchema: a schema newer than this version knows.
        RecordError: not a record, or a broken field.
    """
    if not isinstance(document, dict):
        raise RecordError("not a JSON object")
    schema = document.get("schema")
    if not isinstance(schema, int):
        raise RecordError("no schema version")
    if schema > SCHEMA:
        raise NewerSchema(
            f"schema {schema} is newer than {SCHEMA}, the newest this version reads; "
            "update bpfree to read it"
        )
    while schema < SCHEMA:
        if schema not in _MIGRATIONS:
            raise RecordError(f"schema {schema} is too old and cannot be migrated")
        document = _MIGRATIONS[schema](document)
        schema = document["schema"]
    for field, kind in _REQUIRED.items():
        if not isinstance(document.get(field), kind):
            raise RecordError(f"field {field!r} is missing or of the wrong type")
    if document["status"] not in STATUSES:
        raise RecordError(f"unknown status {document['status']!r}")
    _check_measured(document)
    if not _is_key(document["key"], document["cell"]):
        raise RecordError("the key is not the hash of the cell: the record was edited")
    return document


def _check_measured(document: Record) -> None:
    """Raises RecordError where a figure is not in the form that every reader takes for granted."""
    for split, readouts in document["metrics"].items():
        if not isinstance(readouts, dict):
            raise RecordError(f"metrics of {split!r} are no table of readouts")
        for readout, metrics in readouts.items():
            if not isinstance(metrics, dict) or not all(map(_is_figure, metrics.values())):
                raise RecordError(f"metrics of readout {readout!r} on {split!r} are no numbers")
    for name, values in document["curves"].items():
        if not isinstance(values, list):
            raise RecordError(f"curve {name!r} is no list")
    for group in ("speed", "audit"):
        if not isinstance(document.get(group) or {}, dict):
            raise RecordError(f"field {group!r} is of the wrong type")


def _is_figure(value: object) -> bool:
    return value is None or isinstance(value, int | float)


def parse(text: str | bytes) -> Record:
    """Reads a record from JSON text. Raises RecordError."""
    try:
        try:
            document = orjson.loads(text)  # three times as fast as the standard library's
        except orjson.JSONDecodeError:
            document = json.loads(text)  # which reads a few more
        return check(document)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"not valid JSON ({error})") from None
