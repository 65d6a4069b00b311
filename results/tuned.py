"""Tuned hyper-parameters: the values that `suites.tune` chose, each with where it comes from.

One JSON file holds those of one suite. `tuned/<suite>-<profile>.json`, where there is one, is what
a profile takes that asks for tuned values; a user's own has the same form.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from results.files import write_atomically

FOLDER = Path(__file__).parent / "tuned"
SCHEMA = 1


class TunedError(ValueError):
    """A file that holds no tuned values; the message is one line: what, where, how to mend it."""


@dataclass(frozen=True)
class Chosen:
    """The values chosen for one row of a table on one data set and network.

    Attributes:
        settings: field of the method's configuration -> value, of the fields that were tuned.
        point: which of the points they are; 0 is the row's untuned settings.
        points: how many were tried, those included that diverged or failed.
        val_accuracy_pct: in percent, after the last epoch; of point 0 None where it gave none.
        key, code_sha: of the cell that was chosen, and of the sources that made its record.
        date: when the last of the points was finished.
    """

    row: str
    dataset: str
    architecture: str
    settings: dict[str, Any]
    method: str
    method_version: int
    profile: str
    protocol: dict[str, Any]
    seed: int
    point: int
    points: int
    ok: int
    diverged: int
    failed: int
    val_accuracy_pct: float
    untuned_val_accuracy_pct: float | None
    key: str
    code_sha: str
    date: str
    command: str

    @property
    def place(self) -> tuple[str, str, str]:
        """What the values are for: (row, dataset, architecture)."""
        return (self.row, self.dataset, self.architecture)


@dataclass(frozen=True)
class Tuned:
    """The values of one suite.

    Attributes:
        path: the file they were read from.
    """

    suite: str
    entries: tuple[Chosen, ...]
    path: Path = field(default=Path(), compare=False)

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str], Chosen]:
        return {entry.place: entry for entry in self.entries}

    def at(self, row: str, dataset: str, architecture: str) -> Chosen | None:
        """The values for a place of the table, or None."""
        return self._by_place.get((row, dataset, architecture))


def read(path: Path | str) -> Tuned:
    """Reads a file of tuned values.

    Raises:
        TunedError: it is not there, cannot be read, or is none.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise TunedError(f"no file {path}; `python -m suites.tune` makes one") from None
    except OSError as error:
        raise TunedError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise TunedError(f"{path} is no file of tuned values: not valid JSON ({error})") from None
    if not isinstance(document, dict) or not isinstance(document.get("schema"), int):
        raise TunedError(f"{path} is no file of tuned values: it has no schema version")
    if document["schema"] > SCHEMA:
        raise TunedError(
            f"{path} has schema {document['schema']}, newer than {SCHEMA}, the newest this version "
            "reads; update bpfree to read it"
        )
    if not isinstance(document.get("suite"), str) or not isinstance(document.get("entries"), list):
        raise TunedError(f"{path} is no file of tuned values: it has no suite, or no entries")
    entries = tuple(_parse(entry, i, path) for i, entry in enumerate(document["entries"]))
    return Tuned(document["suite"], entries, path)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _parse(entry: Any, number: int, path: Path) -> Chosen:
    types = {
        "settings": dict, "protocol": dict, "val_accuracy_pct": int | float,
        "untuned_val_accuracy_pct": int | float | None,
        **dict.fromkeys(
            ("method_version", "seed", "point", "points", "ok", "diverged", "failed"), int
        ),
    }  # fmt: skip
    names = [f.name for f in dataclasses.fields(Chosen)]
    where = f"{path}, entries[{number}]"
    if not isinstance(entry, dict):
        raise TunedError(f"{where} is no object")
    for name in names:
        value = entry.get(name)
        if (
            name not in entry
            or not isinstance(value, types.get(name, str))
            or isinstance(value, bool)
        ):
            raise TunedError(f"{where}: {name!r} is missing or of the wrong type")
    return Chosen(**{name: entry[name] for name in names})


def write(path: Path, tuned: Tuned) -> None:
    """Writes the values, in an order of their own, so that a file changes where values do."""
    entries = sorted(tuned.entries, key=lambda e: (e.dataset, e.architecture, e.row))
    document = {
        "schema": SCHEMA,
        "suite": tuned.suite,
        "entries": [dataclasses.asdict(entry) for entry in entries],
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    write_atomically(path, text + "\n")


def merge(
    path: Path, suite: str, entries: Iterable[Chosen], tried: Container[tuple[str, str, str]] = ()
) -> Tuned:
    """Puts new values into a file: those of the same places are replaced, all others kept.

    Args:
        tried: places whose old values do not count any more, whether there are new ones or not.

    Raises:
        TunedError: what is there is no file of tuned values, or one of another suite.
        OSError: it cannot be written.
    """
    old = for_suite(path, suite) if path.exists() else Tuned(suite, ())
    kept = (entry for entry in old.entries if entry.place not in tried)
    places = {entry.place: entry for entry in (*kept, *entries)}
    merged = Tuned(suite, tuple(places.values()), path)
    write(path, merged)
    return merged


def for_suite(path: Path, suite: str) -> Tuned:
    """Reads a file of this suite's values. Raises TunedError."""
    found = read(path)
    if found.suite != suite:
        raise TunedError(f"{path} holds values for suite {found.suite!r}, not for {suite!r}")
    return found


def committed(suite: str, profile: str) -> Tuned | None:
    """The values that come with this version, or None. Raises TunedError."""
    path = FOLDER / f"{suite}-{profile}.json"
    return for_suite(path, suite) if path.exists() else None
