"""Published numbers: what papers and their repositories report, each with its source.

They are read from `published/accuracy.csv`, one claim a line. Errors are turned into accuracies
(the note keeps the printed error). `row` and `architecture` are filled only where the claim is
about the very method and network of that name here, so that a table never sets a number beside a
different experiment; everything else is kept for reading, with both empty. One cell may have
several claims that differ in their protocol: no single one of them is "the" published number.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

FILE = Path(__file__).parent / "published" / "accuracy.csv"


@dataclass(frozen=True)
class Published:
    """One claim of test accuracy (top-1).

    Attributes:
        row: table row of the same method here, or empty.
        method: name of the method where it was published.
        dataset: dataset name here, or the published one in lower case.
        architecture: name of the same network here, or empty.
        readout: which of the row's readouts the claim is about; empty for the headline.
        network: the network in the words of the source.
        decimals: as printed.
        std: spread as published.
        std_kind: "standard error" where the source says that std is one; else empty.
        augmentation: name here of what was done to training images, "none" included; empty when
            it is not known.
        suite: name here of the suite whose profile `paper` has the published protocol, or empty.
        epochs: training budget in the words of the source, empty when it is not stated.
    """

    row: str
    method: str
    dataset: str
    architecture: str
    readout: str
    network: str
    accuracy_pct: float
    std: float | None
    std_kind: str
    epochs: str
    augmentation: str
    suite: str
    source: str
    note: str
    decimals: int = 0


COLUMNS = tuple(field.name for field in fields(Published) if field.name != "decimals")
Line = Mapping[str, str]  # column -> text


@functools.cache
def load() -> tuple[Published, ...]:
    """All claims of this repository, in file order.

    Raises:
        ValueError: a line of the file cannot be read; the message names it.
    """
    with FILE.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        if reader.fieldnames != list(COLUMNS):
            raise ValueError(f"{FILE.name}: columns are {reader.fieldnames}, not {list(COLUMNS)}")
        return tuple(parse(line, f"{FILE.name}, line {reader.line_num}") for line in reader)


def lines_of(text: str) -> list[dict[str, str]]:
    """Claims as CSV text without the line of columns, as a method file of the user's has them.

    Raises:
        ValueError: a line that is no claim; the message quotes it.
    """
    found = []
    for written in filter(None, map(str.strip, text.splitlines())):
        where = f"published number {written!r}"
        try:
            (values,) = csv.reader([written], strict=True)
        except csv.Error as error:
            raise ValueError(f"{where}: {error}") from error
        if len(values) != len(COLUMNS):
            raise ValueError(
                f"{where}: has {len(values)} columns, not {len(COLUMNS)}: {','.join(COLUMNS)} "
                '(a text with a comma in it stands in "quotes")'
            )
        line = dict(zip(COLUMNS, values, strict=True))
        parse(line, where)
        if not all(line[name] for name in ("row", "dataset", "network", "source")):
            raise ValueError(f"{where}: row, dataset, network and source are needed")
        found.append(line)
    return found


def parse(line: Line, where: str) -> Published:
    """A claim from its texts. Raises ValueError, which begins with where it stands."""
    fine = isinstance(line, Mapping) and set(line) == set(COLUMNS)
    if not fine or not all(isinstance(text, str) for text in line.values()):
        raise ValueError(f"{where}: needs a text for each of {','.join(COLUMNS)}, and no more")
    try:
        accuracy, std = float(line["accuracy_pct"]), line["std"]
        if not 0 <= accuracy <= 100:
            raise ValueError(f"{accuracy:g} is no accuracy in percent")
        if 0 < accuracy <= 1:
            raise ValueError(f"{accuracy:g} looks like a share of 1: an accuracy is in percent")
        if std and not 0 <= float(std) <= 100:
            raise ValueError(f"{std} is no spread in percentage points")
        return Published(
            **{name: line[name] for name in COLUMNS if name not in ("accuracy_pct", "std")},
            accuracy_pct=accuracy,
            std=float(std) if std else None,
            decimals=len(line["accuracy_pct"].partition(".")[2]),
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def published(row: str, dataset: str) -> list[Published]:
    """The claims about one method on one dataset, whatever the network."""
    return [c for c in load() if (c.row, c.dataset) == (row, dataset)]
