"""The page: one file, no network, the same bytes for the same records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from reports import (
    claims,
    cost_figures,
    environments,
    figures,
    locality,
    pages,
    speed,
    targets,
    transfer,
    tuning,
)
from reports.caption import caption, counts, metric_text
from reports.drawing import Panel
from reports.formatting import (
    count,
    decimals,
    estimate_text,
    number,
    plural,
    published_text,
    signed,
    when,
)
from reports.statistics import Estimate
from reports.table import TOP5, Cell, Claim, Column, Row, Run, Table

# (measure in the record, heading, divisor); a measure that no record holds gets no column
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
MOST_SEEDS = 100  # listed under a cell, those that are not ok first; the CSV file has them all
_COUNTED = ("n_params", "n_params_aux", "passes_per_prediction")
_STATES = {"unsupported": "not supported", "oom": "out of memory"}


def render(table: Table, again: str = "") -> str:
    """The whole page as text, with the command that builds it again."""
    # a page about the audit alone, or about costs: nothing was trained
    audited = table.plan["headline"]["split"] == "audit"
    timed = any(column.axes for column in table.columns)
    environment = pages.environment()
    environment.filters |= {
        "signed": signed,
        "number": number,
        "when": when,
        "state": _state,
        "signal": lambda row: locality.claimed(table, row),
    }
    environment.globals |= {"estimate_text": estimate_text, "anchor": _anchor, "plural": plural,
        "published_text": _published, "claim_text": _claim}  # fmt: skip
    return environment.get_template("page.html.j2").render(
        table=table,
        plan=table.plan,
        profile_note=table.plan.get("profile_note") or "",
        command=table.plan.get("command") or "",
        again=again,
        verdict=_verdict(table),
        n=counts(table),
        metric=metric_text(table),
        caption=caption(table),
        costs=_costs(table),
        readouts=_readouts(table),
        audit=locality.section(table),
        memory=_drawn(cost_figures.memory_panels(table)),
        memory_has_lines=cost_figures.memory_has_lines(table),
        claims=_claims(table),
        budgets=_budgets(table),
        tuned=tuning.tuned_lines(table),
        drill=_drill(table),
        failures=[f for f in table.runs if f[2].status not in ("ok", "missing", "running")],
        first_line=_first_line,
        unsupported=[
            (row, column, table.cell(row, column).reason)
            for row in table.rows
            for column in table.columns
            if table.cell(row, column).state == "unsupported"
        ],
        protocol=_protocol(table.columns),
        environments=environments.grouped(table),
        audited=audited,
        trained=not (audited or timed),
        speeds=speed.sections(table),
        speed_terms=speed.TERMS,
        quiet=speed.quiet(table),
        comparisons=speed.comparisons(table),
        scalings=_drawn(cost_figures.scaling_panels(table)),
        accuracy=[] if audited or timed else _drawn(figures.accuracy_panels(table)),
        curves=_drawn(figures.curve_panels(table)),
        by_depth=_drawn(transfer.depth_panels(table)),
        by_labels=_drawn(transfer.label_panels(table)),
        pareto=[] if audited or timed else _drawn(cost_figures.pareto_panels(table)),
        swatches=[(label, Markup(svg)) for label, svg in figures.swatches(table)],
    )


def _verdict(table: Table) -> str:
    n = counts(table)
    left = n["missing"] + n["running"]
    if not n["wanted"]:
        return "Nothing is asked for by this plan."
    if n["ok"] == n["wanted"]:
        text = f"Complete: all {plural(n['wanted'], 'cell')} ok"
    else:
        head = "Unfinished" if left else "Finished, not all ok"
        bad = [f"{n[s]} {s}" for s in ("diverged", "failed", "running", "missing") if n[s]]
        text = f"{head}: {n['ok']} of {plural(n['wanted'], 'cell')} ok, {', '.join(bad)}"
    return text + (f"; {n['stale']} made by older sources." if n["stale"] else ".")


def _state(state: str) -> str:
    return _STATES.get(state, state)


def _published(cell: Cell) -> str:
    text = published_text([(c.accuracy_pct, c.decimals, c.difference) for c in cell.claims])
    return text + (f", {cell.claims[0].verdict}" if len(cell.claims) == 1 else "")


def _claim(claim: Claim) -> str:
    """'99.47 ± 0.05 (standard error)', as printed in the source."""
    text = f"{claim.accuracy_pct:.{claim.decimals}f}"
    if claim.std is not None:
        text += f" ± {claim.std:g}"
    return text + (f" ({claim.std_kind})" if claim.std_kind else "")


def _anchor(row: Row, column: Column) -> str:
    """A fragment identifier; an id may hold anything but white space, so others are replaced."""
    return "cell-" + re.sub(r"[^\w.-]", "-", f"{row.id}-{column.id}", flags=re.ASCII)


def _first_line(text: str | None) -> str:
    return (text or "no reason recorded").strip().partition("\n")[0]


def _drawn(panels: list[Panel]) -> list[tuple[str, Markup]]:
    return [(panel.title, Markup(panel.svg)) for panel in panels]


def _costs(table: Table) -> dict[str, Any]:
    """Headings, and per column of the table a line per method: (row, cell, [(value, text)])."""
    present = {
        name for cell in table.cells.values() for name, value in cell.cost.items()
        if value or not name.startswith("inputs_")
    }  # fmt: skip
    shown = [c for c in COSTS if c[0] in present]
    groups = []
    aims = {column.id: targets.target(table, column) for column in table.columns}
    aimed = any(aims.values())
    for column in table.columns:
        lines = []
        for row in table.rows:
            cell = table.cell(row, column)
            if cell.cost:
                values = [_cost(cell, name, by) for name, _, by in shown]
                lines.append((row, cell, values + [_to_target(cell, aims[column.id])] * aimed))
        if lines:
            aim = aims[column.id]
            groups.append((column, lines, f"target {number(aim)} %" if aim else ""))
    headings = [heading for _, heading, _ in shown] + ["train to target, s"] * aimed
    return {"headings": headings, "groups": groups, "share": targets.SHARE if aimed else None}


def _to_target(cell: Cell, accuracy_pct: float | None) -> tuple[float | None, str]:
    seconds = None if accuracy_pct is None else targets.seconds_to(cell, accuracy_pct)
    return seconds, number(seconds)


def _cost(cell: Cell, name: str, divisor: float) -> tuple[float | None, str]:
    value = cell.cost.get(name)
    if value is None:
        return None, number(None)
    if name in _COUNTED and value == int(value):
        return value, count(value)
    return value / divisor, number(value / divisor)


def _claims(table: Table) -> dict[str, Any]:
    """Published numbers by verdict, in the order of the verdicts: (row, claim)."""
    rows = {row.id: row for row in table.rows}
    groups = [
        (verdict, [(rows[c.row], c) for c in table.claims if c.verdict == verdict])
        for verdict in claims.VERDICTS
    ]
    return {
        "summary": claims.summary(table.claims),
        "rule": claims.RULE,
        "groups": [(verdict, found) for verdict, found in groups if found],
    }


def _budgets(table: Table) -> list[str]:
    labels = {row.id: row.label for row in table.rows}
    return [
        f"{labels[b['row']]} on {b['column']}: "
        + ", ".join(f"{name.replace('_', ' ')} {_value(v)}" for name, v in b["protocol"].items())
        for b in table.plan.get("budgets") or ()
    ]


def _readouts(table: Table) -> list[dict[str, Any]]:
    """A line per method and readout that any cell holds, on the test set."""
    lines = []
    for row in table.rows:
        values = {
            column.id: table.cell(row, column).readouts.get("test", {}) for column in table.columns
        }
        known = {f"{name}{of}": i for i, name in enumerate(row.readouts) for of in ("", TOP5)}
        found = {name for of_column in values.values() for name in of_column}
        for readout in sorted(found, key=lambda name: (known.get(name, len(known)), name)):
            lines.append(
                {
                    "row": row,
                    "readout": readout,
                    "headline": readout == row.readout,
                    "values": [values[column.id].get(readout) for column in table.columns],
                }
            )
    return lines


def _drill(table: Table) -> list[tuple[Column, list[tuple[Row, Cell, dict[str, Any]]]]]:
    return [
        (column, [(row, cell, _details(cell)) for row in table.rows
                  if (cell := table.cell(row, column)).state != "unwanted"])
        for column in table.columns
    ]  # fmt: skip


def _details(cell: Cell) -> dict[str, Any]:
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
    commands = {run.record.get("command") for run in cell.runs if run.record}
    return {
        "headings": [f"{split}, {readout}" for split, readout in columns],
        "runs": [(run, [_metric(run, s, r) for s, r in columns], _seconds(run))
                 for run in sorted(shown, key=lambda run: run.seed)],
        "left_out": len(cell.runs) - len(shown),
        "spread": _spread(cell.estimate),
        "commands": sorted(str(c) for c in commands if c),
        "warnings": sorted(
            {str(w) for run in cell.runs if run.record for w in run.record.get("warnings") or ()}
        ),
    }  # fmt: skip


def _metric(run: Run, split: str, readout: str) -> str:
    values: Mapping[str, Any] = (run.record or {})["metrics"] if run.record else {}
    value = values.get(split, {}).get(readout, {}).get("accuracy_pct")
    return "\u2013" if value is None else f"{value:.2f}"


def _seconds(run: Run) -> str:
    return number(run.record["timings"].get("train_s")) if run.record else "\u2013"


def _spread(value: Estimate | None) -> str | None:
    if value is None or value.std is None:
        return None
    places = max(2, decimals(value))
    return (
        f"mean {value.mean:.{places}f}, standard deviation {value.std:.{places}f}, "
        f"lowest {min(value.values):.{places}f}, highest {max(value.values):.{places}f}"
    )


def _protocol(columns: tuple[Column, ...]) -> dict[str, Any]:
    """What all columns share, and what differs between them."""
    names = list(dict.fromkeys(name for column in columns for name in column.protocol))
    absent = object()
    shared, differing = [], []
    for name in names:
        values = [column.protocol.get(name, absent) for column in columns]
        texts = ["\u2013" if v is absent or v is None else _value(v) for v in values]
        label = name.replace("_", " ")
        if len(set(texts)) == 1:
            shared.append((label, texts[0]))
        else:
            differing.append((label, texts))
    return {"shared": shared, "differing": differing}


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return count(value) if isinstance(value, int) else str(value)
