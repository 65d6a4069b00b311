"""The page: one file, no network, the same bytes for the same records."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
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
from reports.drilldown import MOST_SEEDS, anchor, drilldowns, tip
from reports.formatting import (
    NOTHING,
    estimate_text,
    first_line,
    number,
    numbered,
    plural,
    published_text,
    setting_text,
    signed,
    when,
)
from reports.summary import Summary, summarise
from reports.table import TOP5, Cell, Claim, Column, Row, Run, Table
from reports.tuning import settings_text
from reports.views import COSTS, Entry, View, as_json, cost, views

MOST_EMBEDDED = 300_000  # bytes of a download inside the page; a larger one lies beside it
MOST_LINES = 24  # of a performance profile; with more, no line can be followed
MOST_TEXTS = 5  # of errors and names of logs, in one line of the failures
_STATES = {"unsupported": "not supported", "oom": "out of memory"}


def render(table: Table, again: str = "", downloads: Mapping[str, str] | None = None) -> str:
    """The whole page as text.

    Args:
        again: the command that builds it again.
        downloads: name of a file beside the page -> its text, which is put into the page as well
            where it is small enough.
    """
    # a page about the audit alone, or about costs: nothing was trained
    audited = table.plan["headline"]["split"] == "audit"
    timed = any(column.axes for column in table.columns)
    shown, summary = views(table), summarise(table)
    summarised = [line.row for line in summary.lines] if summary else []
    swatches = [(row, Markup(svg)) for row, svg in figures.swatches(table)]
    environment = pages.environment()
    environment.filters |= {
        "signed": signed,
        "number": number,
        "when": when,
        "state": _state,
        "signal": lambda row: locality.claimed(table, row),
        "settings": settings_text,
    }
    row_at = {row.id: i for i, row in enumerate(table.rows)}
    column_at = {column.id: i for i, column in enumerate(table.columns)}
    environment.globals |= {
        "estimate_text": estimate_text, "anchor": anchor, "tip": tip, "plural": plural,
        "published_text": _published, "claim_text": _claim,
        # what the script filters by
        "of_row": lambda row: Markup(f' data-row="{row_at[row.id]}"'),
        "of_column": lambda column: Markup(f' data-column="{column_at[column.id]}"'),
    }  # fmt: skip
    return environment.get_template("page.html.j2").render(
        table=table,
        plan=table.plan,
        profile_note=table.plan.get("profile_note") or "",
        command=table.plan.get("command") or "",
        again=again,
        verdict=_verdict(table),
        n=counts(table),
        metric=metric_text(table),
        caption=caption(table, profile=False),
        costs=_costs(table),
        readouts=_readouts(table),
        audit=locality.section(table),
        memory=_drawn(cost_figures.memory_panels(table)),
        memory_has_lines=cost_figures.memory_has_lines(table),
        claims=_claims(table),
        budgets=_budgets(table),
        tuned=tuning.tuned_lines(table),
        drill=drilldowns(table),
        view_groups=_view_groups(shown),
        views_json=as_json(table, shown),
        names_json={
            "rows": [f"{row.label} {row.id}" for row in table.rows],  # labels, or names of flags
            "columns": [
                {"dataset": c.dataset, "architecture": c.architecture} for c in table.columns
            ],
        },
        filters=_filters(table),
        summary=summary,
        profile=_profile(table, summary),
        downloads=_embedded(downloads or {}),
        failures=_failures(table),
        stale=_stale(table),
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
        hollow=any(c.state != "ok" and c.estimate for c in table.cells.values()),
        pareto=[] if audited or timed else _drawn(cost_figures.pareto_panels(table)),
        swatches=[(row.label, svg) for row, svg in swatches],
        summary_swatches=[(row.label, svg) for row, svg in swatches if row in summarised],
    )


def _filters(table: Table) -> list[tuple[str, list[str]]]:
    """(field of a column, its values), where there is a choice."""
    found = {
        name: list(dict.fromkeys(getattr(column, name) for column in table.columns))
        for name in ("dataset", "architecture")
    }
    return [(name, values) for name, values in found.items() if len(values) > 1]


def _view_groups(shown: list[View]) -> list[tuple[str, list[tuple[int, str]]]]:
    """(group, [(number of the view, its label)]), in the order in which groups appear."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for i, view in enumerate(shown):
        groups.setdefault(view.group, []).append((i, view.label))
    return list(groups.items())


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
    shown = cell.shown_claims
    text = published_text([(c.accuracy_pct, c.decimals, c.difference) for c in shown])
    return text + (f", {shown[0].verdict}" if len(shown) == 1 else "")


def _claim(claim: Claim) -> str:
    """'99.47 ± 0.05 (standard error)', as printed in the source."""
    text = f"{claim.accuracy_pct:.{claim.decimals}f}"
    if claim.std is not None:
        text += f" ± {claim.std:g}"
    return text + (f" ({claim.std_kind})" if claim.std_kind else "")


def _stale(table: Table) -> list[tuple[Row, Column, list[int], int]]:
    """(method, column, seeds, how many) of cells whose records were made by older sources."""
    found = []
    for row in table.rows:
        for column in table.columns:
            seeds = [run.seed for run in table.cell(row, column).runs if run.stale]
            if seeds:
                found.append((row, column, seeds[:MOST_SEEDS], len(seeds)))
    return found


def _failures(table: Table) -> list[dict[str, Any]]:
    """What ended without a result; seeds of one cell with the same reason are told together."""
    groups: dict[tuple[str, str, str, str], list[tuple[Row, Column, Run]]] = {}
    for row, column, run in table.runs:
        if run.status not in ("ok", "missing", "running"):
            place = (row.id, column.id, run.status, first_line(run.reason))
            groups.setdefault(place, []).append((row, column, run))
    return [
        {
            "row": runs[0][0],
            "column": runs[0][1],
            "status": status,
            "reason": reason,
            "seeds": [run.seed for _, _, run in runs[:MOST_SEEDS]],
            "n": len(runs),
            "stale": any(run.stale for _, _, run in runs),
            "texts": _texts([run for _, _, run in runs[:MOST_TEXTS]], reason),
            "logs": list(dict.fromkeys(
                str(run.record["log"]) for _, _, run in runs[:MOST_TEXTS]
                if run.record and run.record.get("log")
            )),
        }
        for (_, _, status, reason), runs in groups.items()
    ]  # fmt: skip


def _texts(runs: list[Run], reason: str) -> list[str]:
    """Each different text of an error once, where it says more than the reason."""
    texts = [str((r.record or {}).get("error") or r.reason or "").strip() for r in runs]
    return [text for text in dict.fromkeys(texts) if text not in ("", reason)]


def _profile(table: Table, summary: Summary | None) -> Panel | None:
    if summary is None or len(summary.lines) > MOST_LINES:
        return None
    return _drawn([figures.profile_panel(table, summary.scores)])[0]


def _drawn(panels: list[Panel]) -> list[Panel]:
    return [replace(panel, svg=Markup(panel.svg)) for panel in panels]


def _embedded(files: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(what it is, name of the file, address within the page), of those that are small enough."""
    found = []
    for name, text in files.items():
        if len(text) <= MOST_EMBEDDED:
            what = {"tex": "LaTeX", "csv": "CSV"}[name.rpartition(".")[2]]
            coded = base64.b64encode(text.encode()).decode()
            found.append((f"this table as {what}", name, f"data:text/plain;base64,{coded}"))
    return found


def _costs(table: Table) -> dict[str, Any]:
    """Headings, and per column of the table a line per method: (row, cell, [(text, value)])."""
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
                values = [cost(cell, name, by) or (NOTHING, None) for name, _, by in shown]
                lines.append((row, cell, values + [_to_target(cell, aims[column.id])] * aimed))
        if lines:
            aim = aims[column.id]
            groups.append((column, lines, f"target {number(aim)} %" if aim else ""))
    headings = [heading for _, heading, _ in shown] + ["train to target, s"] * aimed
    return {"headings": headings, "groups": groups, "share": targets.SHARE if aimed else None}


def _to_target(cell: Cell, accuracy_pct: float | None) -> Entry:
    seconds = None if accuracy_pct is None else targets.seconds_to(cell, accuracy_pct)
    return number(seconds), seconds


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
        + ", ".join(
            f"{name.replace('_', ' ')} {setting_text(v)}" for name, v in b["protocol"].items()
        )
        for b in table.plan.get("budgets") or ()
    ]


def _readouts(table: Table) -> list[dict[str, Any]]:
    """A line per method and readout that any cell holds, on the test set."""
    lines = []
    for row in table.rows:
        cells = [table.cell(row, column) for column in table.columns]
        values = [cell.readouts.get("test", {}) for cell in cells]
        known = {f"{name}{of}": i for i, name in enumerate(row.readouts) for of in ("", TOP5)}
        found = {name for of_column in values for name in of_column}
        for readout in sorted(
            found, key=lambda name: (known.get(name, len(known)), numbered(name))
        ):
            lines.append(
                {
                    "row": row,
                    "readout": readout,
                    "values": [
                        (of_column.get(readout), readout == cell.readout)
                        for cell, of_column in zip(cells, values, strict=True)
                    ],
                }
            )
    return lines


def _protocol(columns: tuple[Column, ...]) -> dict[str, Any]:
    """What all columns share, and what differs between them."""
    names = list(dict.fromkeys(name for column in columns for name in column.protocol))
    absent = object()
    shared, differing = [], []
    for name in names:
        values = [column.protocol.get(name, absent) for column in columns]
        texts = ["\u2013" if v is absent or v is None else setting_text(v) for v in values]
        label = name.replace("_", " ")
        if len(set(texts)) == 1:
            shared.append((label, texts[0]))
        else:
            differing.append((label, texts))
    return {"shared": shared, "differing": differing}
