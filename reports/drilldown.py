"""What stands behind one place of the table: seeds, settings, curves, how to run it again."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

from reports.commands import PLACES, without
from reports.formatting import NOTHING, decimals, number, setting_text, signed
from reports.statistics import Estimate
from reports.table import Cell, Column, Row, Run, Table

MOST_SEEDS = 100  # listed under a cell, those that are not ok first; the CSV file has them all
MOST_KEYS = 5  # in one command
MOST_CURVES = 10  # lines in one small picture
# folders of their own: nothing on record is touched, and no page replaced
AGAIN = "--results-dir results/again --report-dir reports/out/again"
WIDTH, HEIGHT = 240.0, 64.0  # of a small picture, in px


def drilldowns(table: Table) -> list[tuple[Column, list[tuple[Row, Cell, dict[str, Any]]]]]:
    """By column, every place that was asked for, with what the page shows of it."""
    return [
        (column, [(row, cell, _details(table, cell)) for row in table.rows
                  if (cell := table.cell(row, column)).state != "unwanted"])
        for column in table.columns
    ]  # fmt: skip


def anchor(row: Row, column: Column) -> str:
    """A fragment identifier; an id may hold anything but white space, so others are spelt out."""
    parts = (
        re.sub(r"[^\w.-]", lambda found: f"-{ord(found[0]):x}-", name, flags=re.ASCII)
        for name in (row.id, column.id)
    )
    return "cell-" + "--".join(parts)


def tip(cell: Cell) -> str:
    """What a reader is told who points at a number: all there is to it, in one line."""
    value = cell.estimate
    if value is None:
        return cell.reason or ""
    places = max(2, decimals(value)) if not value.counted else 0
    seeds = ", ".join(f"{v:.{places}f}" for v in value.values[:MOST_SEEDS])
    more = ", \u2026" if value.n > MOST_SEEDS else ""
    text = f"mean {value.mean:.{places}f}"
    if value.half_width is not None:
        text += f" ± {value.half_width:.{places}f} (95 % interval)"
    text += f", n = {value.n}: {seeds}{more}"
    return f"{text}; {cell.reason}" if cell.reason else text


def _details(table: Table, cell: Cell) -> dict[str, Any]:
    """What one drill-down shows: a line per seed and the spread over them."""
    names = sorted(
        {
            (split != "test", split, readout)
            for run in cell.runs
            if run.record
            for split, values in run.record["metrics"].items()
            for readout in values
        }
    )
    columns = [(split, readout) for _, split, readout in names]
    shown = sorted(cell.runs, key=lambda run: run.status == "ok")[:MOST_SEEDS]
    records = [run.record for run in cell.runs if run.record]
    return {
        "headings": [f"{split}, {readout}" for split, readout in columns],
        "runs": [(run, [_metric(run, s, r) for s, r in columns], _seconds(run))
                 for run in sorted(shown, key=lambda run: run.seed)],
        "left_out": len(cell.runs) - len(shown),
        "ok_left_out": sum(r.status == "ok" for r in cell.runs)
        - sum(r.status == "ok" for r in shown),
        "spread": _spread(cell.estimate),
        "beside": _beside(table, cell),
        "settings": _settings(records[0]) if records else [],
        "curves": _curves(cell),
        "commands": sorted({str(r["command"]) for r in records if r.get("command")}),
        "again": _again(table, cell),
        "logs": sorted({str(r["log"]) for r in records if r.get("log")}),
        "warnings": sorted({str(w) for r in records for w in r.get("warnings") or ()}),
    }  # fmt: skip


def _metric(run: Run, split: str, readout: str) -> str:
    values: Mapping[str, Any] = (run.record or {})["metrics"] if run.record else {}
    value = values.get(split, {}).get(readout, {}).get("accuracy_pct")
    return NOTHING if value is None else f"{value:.2f}"


def _seconds(run: Run) -> str:
    return number(run.record["timings"].get("train_s")) if run.record else NOTHING


def _spread(value: Estimate | None) -> str | None:
    if value is None or value.std is None:
        return None
    places = max(2, decimals(value))
    return (
        f"mean {value.mean:.{places}f}, standard deviation {value.std:.{places}f}, "
        f"lowest {min(value.values):.{places}f}, highest {max(value.values):.{places}f}"
    )


def _beside(table: Table, cell: Cell) -> str | None:
    """'−1.24 ± 0.40 beside Backprop, seed by seed: told apart (paired t test, p = 0.003, …)'."""
    if cell.beside is None or table.control is None:
        return None
    found = cell.beside.difference
    p = "p < 0.001" if cell.beside.p_value < 0.001 else f"p = {cell.beside.p_value:.3f}"
    effect = "" if found.effect is None else f", effect size g = {signed(found.effect)}"
    test = "t test of pairs of seeds" if found.paired else "Welch's t test: the seeds differ"
    verdict = "told apart" if cell.beside.distinct else "not told apart"
    return (
        f"{signed(found.mean, 2)} ± {found.half_width:.2f} beside "
        f"{table.control.label}: {verdict} ({test}, {p}, "
        f"Holm-corrected for the rivals of that one alone, where \u2248 is for all pairs{effect})"
    )


def _settings(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The hyper-parameters of the method; the protocol stands with the columns."""
    config = record["cell"].get("config") or {}
    return [(name, setting_text(value)) for name, value in config.items()]


def _again(table: Table, cell: Cell) -> str:
    """The command that runs this place once more, its first seeds, in a folder of its own."""
    command = str(table.plan.get("command") or "")
    runs = list(cell.runs)
    if "\n" in command:  # a union of requests: the records know which one of them was theirs
        command = next((str(r.record.get("command")) for r in runs if r.record), "")
        runs = [r for r in runs if r.record and r.record.get("command") == command]
    if not command.startswith("python -m suites.") or not runs:
        return ""
    keys = shlex.join(run.key for run in runs[:MOST_KEYS])
    with contextlib.suppress(ValueError):  # else it is not as a shell would read it
        command = shlex.join(without(command, PLACES))
    return f"{command} --only {keys} {AGAIN}"


def _curves(cell: Cell) -> dict[str, Any] | None:
    """A small picture of validation accuracy after each epoch, a line for each seed."""
    lines = []
    for run in cell.runs[:MOST_CURVES]:
        curves = (run.record or {}).get("curves") or {}
        pairs = zip(curves.get("epoch", ()), curves.get("val_accuracy_pct", ()), strict=False)
        points = [(float(e), float(v)) for e, v in pairs if e is not None and v is not None]
        if len({epoch for epoch, _ in points}) > 1:
            lines.append(points)
    if not lines:
        return None
    epochs = [e for points in lines for e, _ in points]
    values = [v for points in lines for _, v in points]
    (left, right), (low, high) = (min(epochs), max(epochs)), (min(values), max(values))
    room = 3.0  # so that lines at the edge are drawn whole
    across, up = (WIDTH - 2 * room) / (right - left), (HEIGHT - 2 * room) / (high - low or 1.0)
    return {
        "size": f"0 0 {WIDTH:g} {HEIGHT:g}",
        "lines": [
            " ".join(
                f"{room + across * (e - left):.1f},{HEIGHT - room - up * (v - low):.1f}"
                for e, v in points
            )
            for points in lines
        ],
        "told": f"Validation accuracy from {low:.1f} to {high:.1f} %, epochs {left:g} to {right:g}",
    }
