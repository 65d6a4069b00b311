"""What the main table of the page can show: the headline, other readouts, losses, costs.

A view is numbers and their texts, written into the page; the script of the page only swaps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from reports.caption import metric_text
from reports.formatting import count, estimate_text, number, numbered, signed
from reports.statistics import Estimate, estimate
from reports.table import Cell, Row, Table

Entry = tuple[str, float | None]  # text, and what the column is sorted by

# (measure in the record, heading, divisor); a measure that no record holds is not shown
COSTS = (
    ("train_s", "train, s", 1),
    ("train_images_per_s", "train, images/s", 1),
    ("eval_images_per_s", "predict, images/s", 1),
    ("data_wait_share", "train, waiting for images, %", 0.01),
    ("n_params", "parameters", 1),
    ("n_params_aux", "auxiliary parameters", 1),
    ("flops_train_per_image", "train, MFLOPs per image", 1e6),
    ("flops_eval_per_image", "predict, MFLOPs per image", 1e6),
    ("passes_per_prediction", "passes per prediction", 1),
    ("inputs_overwritten_pct", "inputs overwritten by labels, %", 1),
    ("energy_j", "train, J", 1),
    ("peak_tensor_bytes", "peak of tensors, MiB", 2**20),
    ("peak_rss_bytes", "peak process memory, MiB", 2**20),
    ("peak_rss_growth_bytes", "process memory growth, MiB", 2**20),
    ("peak_allocated_bytes", "peak device memory, MiB", 2**20),
    ("peak_reserved_bytes", "device memory reserved, MiB", 2**20),
)
_COUNTED = ("n_params", "n_params_aux", "passes_per_prediction")
_ACCURACIES, _LOSSES, _COSTS = "Accuracy", "Loss", "Cost, medians over the ok seeds"


@dataclass(frozen=True)
class View:
    """One choice of what the table shows; the first one is the headline."""

    group: str
    label: str
    note: str
    entries: Mapping[tuple[str, str], Entry]  # by row and column; a place may be absent


def views(table: Table) -> list[View]:
    """What there is to show, the headline first; what no cell has a number for is left out."""
    found = [View(_ACCURACIES, metric_text(table), "", _entries(table, _headline))]
    control = table.control
    if control is not None:
        found.append(
            View(
                _ACCURACIES,
                f"Difference from {control.label}",
                f"Difference from {control.label}, in percentage points: mean ± half-width of its "
                "95 % Student-t interval, of pairs where both have the same seeds (Welch's "
                "otherwise); * where a t test tells the two apart (5 %, Holm-corrected within the "
                "column, not for other columns).",
                _entries(table, _difference),
            )
        )
    for split, title in (("test", "Test"), ("val", "Validation")):
        for readout in _readouts(table, split):
            found.append(
                View(
                    _ACCURACIES,
                    f"{title}, readout {readout}",
                    f"{title} accuracy in percent of the readout {readout}, mean ± half-width of "
                    "the 95 % interval; methods without it have none.",
                    _entries(table, partial(_accuracy, split, readout)),
                )
            )
        found.append(
            View(
                _LOSSES,
                f"{title} loss",
                f"{title} loss of the headline readout: cross-entropy of its scores, in nats.",
                _entries(table, partial(_loss, split)),
            )
        )
    for name, heading, divisor in COSTS:
        label = heading[0].upper() + heading[1:]
        entries = _entries(table, partial(_cost, name, divisor))
        counted = name.startswith(("n_", "flops_", "passes_", "inputs_"))
        beside = "; other cells may have run beside it" * (table.kind != "cost" and not counted)
        note = f"{label}{beside}."
        found.append(View(_COSTS, label, note, entries))
    return [found[0], *(view for view in found[1:] if view.entries)]


def as_json(table: Table, found: list[View]) -> list[dict[str, Any]]:
    """For the page: entries in the order of its table, row by row, null where there is none."""
    places = [(row.id, column.id) for row in table.rows for column in table.columns]
    return [
        {"note": view.note, "entries": [view.entries.get(place) for place in places]}
        for view in found
    ]


def cost(cell: Cell, name: str, divisor: float) -> Entry | None:
    """A measure in the unit of its heading; None where no record of the cell has it."""
    value = cell.cost.get(name)
    if value is None:
        return None
    if name in _COUNTED and value == int(value):
        return count(value), value
    return number(value / divisor), value / divisor


def _entries(
    table: Table, entry_of: Callable[[Row, Cell], Entry | None]
) -> dict[tuple[str, str], Entry]:
    return {
        (row.id, column.id): entry
        for row in table.rows
        for column in table.columns
        if (entry := entry_of(row, table.cell(row, column))) is not None
    }


def _headline(row: Row, cell: Cell) -> Entry | None:
    return _of(cell.estimate)


def _difference(row: Row, cell: Cell) -> Entry | None:
    if cell.beside is None:
        return None
    found = cell.beside.difference
    places = 2 if found.half_width < 0.1 else 1
    text = f"{signed(found.mean, places)} ± {found.half_width:.{places}f}"
    return text + (" *" if cell.beside.distinct else ""), found.mean


def _accuracy(split: str, readout: str, row: Row, cell: Cell) -> Entry | None:
    return _of(cell.readouts.get(split, {}).get(readout))


def _cost(name: str, divisor: float, row: Row, cell: Cell) -> Entry | None:
    return cost(cell, name, divisor)


def _loss(split: str, row: Row, cell: Cell) -> Entry | None:
    values = [
        metrics["loss"]
        for run in cell.runs
        if run.status == "ok" and run.record
        if (metrics := run.record["metrics"].get(split, {}).get(cell.readout))
        and metrics.get("loss") is not None
    ]
    found = estimate(values)
    return None if found is None else (number(found.mean), found.mean)


def _of(value: Estimate | None) -> Entry | None:
    return None if value is None else (estimate_text(value), value.mean)


def _readouts(table: Table, split: str) -> list[str]:
    """Every readout of any method, in the order in which methods name them."""
    named = dict.fromkeys(name for row in table.rows for name in row.readouts)
    held = {name for cell in table.cells.values() for name in cell.readouts.get(split, ())}
    return [n for n in named if n in held] + sorted(held - named.keys(), key=numbered)
