"""The table as flat text: a line per wanted run and per pair not supported, or a line per place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from reports.formatting import estimate_text
from reports.table import Table
from results.frame import by_column

if TYPE_CHECKING:
    from pandas import DataFrame


def to_csv(table: Table) -> str:
    """CSV text with a header; an absent value is an empty field, as pandas reads it back.

    `headline` is the number of the `readout`; `settings` are all hyper-parameters, as JSON.
    """
    names, found = _columns(table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")  # pandas takes three times as long
    writer.writerow(names)
    writer.writerows(zip(*(found[name] for name in names), strict=True))
    return text.getvalue()


def to_short_csv(table: Table) -> str:
    """CSV text of the table as it is shown: a line per method and column, summarised over seeds.

    `shown` is the text of the page; mean and half_width are not rounded.
    """
    import pandas

    lines = []
    for row in table.rows:
        for column in table.columns:
            cell, value = table.cell(row, column), table.cell(row, column).estimate
            lines.append(
                {
                    "row": row.id, "label": row.label, "column": column.id,
                    "dataset": column.dataset, "architecture": column.architecture,
                    "state": cell.state, "seeds_wanted": cell.n_wanted,
                    "seeds_ok": value.n if value else 0,
                    "shown": estimate_text(value) if value else None,
                    "mean": value.mean if value else None,
                    "std": value.std if value else None,
                    "half_width": value.half_width if value else None,
                    "best": cell.best, "tied_with_best": cell.tied, "stale": cell.n_stale > 0,
                    "reason": cell.reason,
                }
            )  # fmt: skip
    return str(pandas.DataFrame(lines).to_csv(index=False, lineterminator="\n"))


def to_frame(table: Table) -> DataFrame:
    """Lines in the order of the table; metrics are named split.readout.metric, as in the record."""
    import pandas  # half a second that a look at --help need not wait for

    names, found = _columns(table)
    frame = pandas.DataFrame(found, columns=names)
    whole = [name for name in ("seed", "epochs_run") if name in frame]
    return frame.astype(dict.fromkeys(whole, "Int64") | {"stale": "boolean"})


def _columns(table: Table) -> tuple[list[str], dict[str, list[Any]]]:
    """The names in their order, and the values of each, one per line."""
    first = [
        "suite", "row", "method", "column", "dataset", "architecture", "seed", "status", "reason",
        "stale", "key", "headline", "readout", "settings",
    ]  # fmt: skip
    found = by_column(_lines(table))
    last = ["epochs_run", "started_at", "finished_at", "command", "code_sha", "git_commit"]
    measured = sorted(found.keys() - {*first, *last})
    n = len(next(iter(found.values()), []))
    names = [*first, *measured, *last]
    return names, {name: found.get(name) or [None] * n for name in names}


def _lines(table: Table) -> Iterator[dict[str, Any]]:
    for row in table.rows:
        for column in table.columns:
            cell = table.cell(row, column)
            place = {
                "suite": table.plan["suite"],
                "row": row.id,
                "method": row.method,
                "column": column.id,
                "dataset": column.dataset,
                "architecture": column.architecture,
            }
            if not cell.runs:
                yield {**place, "status": cell.state, "reason": cell.reason}
            for run in cell.runs:
                line = {
                    **place,
                    "seed": run.seed,
                    "status": run.status,
                    "reason": run.reason,
                    "stale": run.stale,
                    "key": run.key,
                    "headline": run.value,
                    "readout": cell.readout,
                }
                for name in ("code_sha", "started_at", "finished_at", "command"):
                    line[name] = (run.record or {}).get(name)
                if run.record:
                    line["epochs_run"] = len(run.record["curves"].get("epoch", ()))
                    line["settings"] = json.dumps(run.record["cell"].get("config"))
                    line["git_commit"] = run.record["environment"].get("git_commit")
                    for group in ("metrics", "timings", "memory", "cost", "speed", "audit"):
                        values = run.record.get(group) or {}
                        line |= values if group == "metrics" else {group: values}
                yield line
