"""The table as a flat frame: one line per wanted run, and one per pair that is not supported."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from reports.table import Table
from results.frame import by_column

if TYPE_CHECKING:
    from pandas import DataFrame


def to_csv(table: Table) -> str:
    """CSV text with a header; an absent value is an empty field, as pandas reads it back."""
    return str(to_frame(table).to_csv(index=False, lineterminator="\n"))


def to_frame(table: Table) -> DataFrame:
    """Lines in the order of the table; metrics are named split.readout.metric, as in the record."""
    import pandas  # half a second that a look at --help need not wait for

    first = [
        "suite", "row", "method", "column", "dataset", "architecture", "seed", "status", "reason",
        "stale", "key", "headline",
    ]  # fmt: skip
    found = by_column(_lines(table))
    last = ["epochs_run", "started_at", "finished_at", "command", "code_sha", "git_commit"]
    measured = sorted(found.keys() - {*first, *last})
    frame = pandas.DataFrame(found, columns=[*first, *measured, *last])
    whole = [name for name in ("seed", "epochs_run") if name in frame]
    return frame.astype(dict.fromkeys(whole, "Int64") | {"stale": "boolean"})


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
                }
                for name in ("code_sha", "started_at", "finished_at", "command"):
                    line[name] = (run.record or {}).get(name)
                if run.record:
                    line["epochs_run"] = len(run.record["curves"].get("epoch", ()))
                    line["git_commit"] = run.record["environment"].get("git_commit")
                    for group in ("metrics", "timings", "memory", "cost", "speed", "audit"):
                        values = run.record.get(group) or {}
                        line |= values if group == "metrics" else {group: values}
                yield line
