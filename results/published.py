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


@functools.cache
def load() -> tuple[Published, ...]:
    """All claims, in file order.

    Raises:
        ValueError: a line of the file cannot be read; the message names it.
    """
    with FILE.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        expected = [field.name for field in fields(Published) if field.name != "decimals"]
        if reader.fieldnames != expected:
            raise ValueError(f"{FILE.name}: columns are {reader.fieldnames}, not {expected}")
        return tuple(_parse(line, reader.line_num) for line in reader)


def _parse(line: dict[str, str], number: int) -> Published:
    try:
        return Published(
            row=line["row"],
            method=line["method"],
            dataset=line["dataset"],
            architecture=line["architecture"],
            readout=line["readout"],
            network=line["network"],
            accuracy_pct=float(line["accuracy_pct"]),
            std=float(line["std"]) if line["std"] else None,
            std_kind=line["std_kind"],
            epochs=line["epochs"],
            augmentation=line["augmentation"],
            suite=line["suite"],
            source=line["source"],
            note=line["note"],
            decimals=len(line["accuracy_pct"].partition(".")[2]),
        )
    except (ValueError, TypeError) as error:
        raise ValueError(f"{FILE.name}, line {number}: {error}") from error


def published(row: str, dataset: str) -> list[Published]:
    """The claims about one method on one dataset, whatever the network."""
    return [c for c in load() if (c.row, c.dataset) == (row, dataset)]
