"""From a plan and its records to the table: every run in its place, summaries, marks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reports.claims import VERDICTS, claim_of
from reports.differences import beside_the_best, difference, holm_adjusted
from reports.formatting import first_line
from reports.plan import KIND, check_plan
from reports.statistics import (
    CONFIDENCE,
    Estimate,
    estimate,
)
from reports.table import (
    ACCIDENTS,
    TOP5,
    Beside,
    Cell,
    Claim,
    Column,
    Lookup,
    Row,
    Run,
    Table,
    control_of,
    lower_is_better,
    rounding_step,
)
from results.record import Record
from results.store import Plan

LEVEL = 1 - CONFIDENCE  # at or under which a difference is taken to be one
OUTDATED = "made by older sources"  # such an audit says nothing of the rule as it is now


def build_table(
    plan: Plan,
    records: Mapping[str, Record],
    live: Mapping[str, Mapping[str, Any]] | None = None,
    published: Lookup | None = None,
    set_aside: Iterable[str] = (),
) -> Table:
    """Puts records in the places that the plan gives them.

    Args:
        records: by key, of any status; live: signs of life by key.
        published: looks published numbers up; None leaves them out.

    Raises:
        PlanError: the plan is not one this version can lay out.
    """
    check_plan(plan)
    rows = tuple(_row(entry) for entry in plan["rows"])
    columns = _columns(plan["columns"])
    runs: dict[tuple[str, str], list[Run]] = {}
    readout_of = {(r.id, c.id): c.readout or r.readout for r in rows for c in columns}
    audits = {(a["row"], a["column"]): _audit(a, records) for a in plan.get("audits") or ()}
    for wanted in plan["cells"]:
        record = records.get(wanted["key"])
        place = wanted["row"], wanted["column"]
        sign = (live or {}).get(wanted["key"])
        run = _run(wanted, record, sign, plan["headline"], readout_of[place])
        runs.setdefault(place, []).append(run)
    unsupported = {(u["row"], u["column"]): str(u["reason"]) for u in plan["unsupported"]}
    cells: dict[tuple[str, str], Cell] = {}
    for column in columns:
        for row in rows:
            place = (row.id, column.id)
            found = sorted(runs.get(place, []), key=lambda run: run.seed)
            if found:
                counted = plan["headline"]["split"] == "audit"
                cell = _cell(row, column, tuple(found), counted, bool(plan.get("top5")))
            elif place in unsupported:
                cell = Cell(row.id, column.id, "unsupported", reason=unsupported[place])
            else:
                cell = Cell(row.id, column.id, "unwanted", reason="not asked for by this plan")
            cell = replace(cell, readout=readout_of[place])
            if place in audits:
                audit, failure = audits[place]
                cell = replace(cell, audit=audit, audit_failure=failure)
            cells[place] = cell
    claims: tuple[Claim, ...] = ()
    trained = plan.get("kind", "train") == "train"  # no paper's number is about anything else
    if published is not None and trained and plan["headline"]["metric"] == "accuracy_pct":
        claims = _claims(plan, rows, columns, cells, published)
    for place, cell in cells.items():
        about = tuple(c for c in claims if (c.row, c.column) == place)
        cells[place] = replace(cell, claims=about)
    control = control_of(rows)
    for column in columns:
        cells.update(_marked([cells[row.id, column.id] for row in rows], rows, plan))
        seeds = plan["headline"]["split"] in ("test", "val") and plan.get("kind") != KIND
        if control is not None and seeds:
            column_cells = [cells[row.id, column.id] for row in rows]
            cells.update(_beside(column_cells, control, plan))
    return Table(plan, rows, columns, cells, tuple(set_aside), claims)


def _row(entry: Mapping[str, Any]) -> Row:
    return Row(
        id=entry["id"],
        label=str(entry.get("label") or entry["id"]),
        method=str(entry.get("method") or entry["id"]),
        source=str(entry.get("source") or ""),
        readout=str(entry.get("readout") or "last"),
        readouts=tuple(entry.get("readouts") or (entry.get("readout") or "last",)),
        local=entry.get("local"),
        feedback=entry.get("feedback") or "",
        description=str(entry.get("description") or ""),
        equations=str(entry.get("equations") or ""),
        differs=tuple(map(str, entry.get("differs") or ())),
        settings=dict(entry.get("settings") or {}),
    )


def _columns(entries: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    datasets = list(dict.fromkeys(entry["dataset"] for entry in entries))
    pairs = [(entry["dataset"], entry["architecture"]) for entry in entries]
    columns = []
    for entry in sorted(entries, key=lambda e: datasets.index(e["dataset"])):
        dataset, architecture = entry["dataset"], entry["architecture"]
        # Two protocols of one pair differ in their id alone, so that is what is shown; and so is
        # the dataset that features come from.
        unique = pairs.count((dataset, architecture)) == 1 and not (
            (entry.get("protocol") or {}).get("source")
        )
        label = architecture if unique else str(entry["id"]).removeprefix(f"{dataset}/")
        columns.append(
            Column(
                entry["id"],
                dataset,
                architecture,
                label,
                entry.get("protocol") or {},
                entry.get("axes") or {},
                str(entry.get("published_as") or ""),
                str(entry.get("readout") or ""),
                int(entry.get("n_classes") or 0),
            )
        )
    return tuple(columns)


def _audit(
    wanted: Mapping[str, Any], records: Mapping[str, Record]
) -> tuple[Mapping[str, Any], str]:
    """What the audit of one place measured, or why it is not shown; both empty if not made."""
    record = records.get(wanted["key"])
    if record is None:
        return {}, ""
    if record["status"] != "ok":
        return {}, f"{record['status']}: {first_line(record.get('reason'))}"
    if record["code_sha"] != wanted["code_sha"]:
        return {}, OUTDATED
    return record.get("audit") or {}, ""


def _run(
    wanted: Mapping[str, Any],
    record: Record | None,
    sign: Mapping[str, Any] | None,
    headline: Mapping[str, Any],
    readout: str,
) -> Run:
    status = record["status"] if record else "missing"
    reason = record.get("reason") if record else None
    value = None
    # A live cell with a finished record is a leftover sign; one with an accident is a new try.
    if sign is not None and status not in ("ok", "diverged"):
        status = "running"
        epoch, epochs = sign.get("epoch"), sign.get("epochs")
        reason = None if epoch is None else f"epoch {epoch} of {epochs}"
    elif record and status == "ok":
        value = _headline(record, headline, readout)
        if value is None:
            status = "failed"
            reason = f"the record holds no {headline['split']} {headline['metric']}"
    stale = record is not None and record["code_sha"] != wanted["code_sha"]
    return Run(
        wanted["key"], wanted["seed"], status, None if reason is None else str(reason),
        value, stale, record,
    )  # fmt: skip


def _headline(record: Record, headline: Mapping[str, Any], readout: str) -> float | None:
    split, metric = headline["split"], headline["metric"]
    if split in ("timings", "memory", "cost", "audit"):  # a suite may be about these
        value = (record.get(split) or {}).get(metric)
    else:
        value = record["metrics"].get(split, {}).get(readout, {}).get(metric)
    return None if value is None else float(value)


def _cell(
    row: Row, column: Column, runs: tuple[Run, ...], counted: bool, top5: bool = False
) -> Cell:
    ok = [run for run in runs if run.status == "ok"]
    audited = [run for run in ok if run.record and run.record.get("audit")]
    statuses = {run.status for run in runs}
    if len(ok) == len(runs):
        state = "ok"
    elif ok:
        state = "partial"
    elif "running" in statuses:
        state = "running"
    elif "diverged" in statuses:
        state = "diverged"
    else:
        state = "failed" if statuses & set(ACCIDENTS) else "missing"
    return Cell(
        row.id,
        column.id,
        state,
        runs,
        estimate([run.value for run in ok if run.value is not None], counted),
        why_incomplete(runs),
        readouts=_readouts(ok, top5),
        cost=_cost(ok),
        speed=_pooled([r.record["speed"] for r in ok if r.record and r.record.get("speed")]),
        audit=_least_local([r.record["audit"] for r in audited if r.record and not r.stale]),
        audit_failure=OUTDATED if audited and all(r.stale for r in audited) else "",
    )


def _least_local(audits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What audits of several seeds found, the finding that speaks against the rule of each kind."""
    found = dict(audits[0]) if audits else {}
    for other in audits[1:]:
        for name, value in other.items():
            if found.get(name) is None:
                found[name] = value
            elif name == "label_free":
                found[name] = found[name] and value is not False
            elif isinstance(value, bool | int):
                found[name] = max(found[name], value)
    return found


def _pooled(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was timed with several seeds: medians, and ranges at their widest."""
    pooled: dict[str, Any] = {}
    for name, value in (figures[0] if figures else {}).items():
        values = [other[name] for other in figures if other.get(name) is not None]
        if isinstance(value, Mapping):
            pooled[name] = _pooled(values)
        elif isinstance(value, int | float):
            pooled[name] = {"low": min, "high": max}.get(name, statistics.median)(values)
        else:
            pooled[name] = value
    return pooled


def why_incomplete(runs: Sequence[Run]) -> str | None:
    """'2 of 3 seeds diverged: loss is NaN; 1 of 3 seeds missing', or None when all are ok."""
    parts: dict[tuple[str, str | None], int] = {}
    for run in runs:
        if run.status != "ok":
            place = (run.status, first_line(run.reason, "") or None)
            parts[place] = parts.get(place, 0) + 1
    lines = []
    for (status, reason), n in parts.items():
        seeds = "seed" if len(runs) == 1 else "seeds"
        what = "out of memory" if status == "oom" else status
        lines.append(f"{n} of {len(runs)} {seeds} {what}" + (f": {reason}" if reason else ""))
    return "; ".join(lines) or None


def _readouts(ok: Sequence[Run], top5: bool) -> dict[str, dict[str, Estimate]]:
    values: dict[str, dict[str, list[float]]] = {}
    for run in ok:
        for split, per_readout in (run.record or {})["metrics"].items():
            for readout, metrics in per_readout.items():
                shown = ((readout, "accuracy_pct"), (f"{readout}{TOP5}", "top5_pct"))
                for name, metric in shown[: 1 + top5]:
                    if metrics.get(metric) is not None:
                        found = values.setdefault(split, {}).setdefault(name, [])
                        found.append(float(metrics[metric]))
    return {
        split: {name: e for name, v in per_readout.items() if (e := estimate(v)) is not None}
        for split, per_readout in values.items()
    }


def _cost(ok: Sequence[Run]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for run in ok:
        for group in ("timings", "memory", "cost"):
            for name, value in (run.record or {})[group].items():
                # 0 seconds: nothing was trained here, as where weights were found
                if isinstance(value, int | float) and (value or group != "timings"):
                    values.setdefault(name, []).append(float(value))
    return {name: statistics.median(v) for name, v in values.items()}


def _claims(
    plan: Plan,
    rows: Sequence[Row],
    columns: Sequence[Column],
    cells: Mapping[tuple[str, str], Cell],
    published: Lookup,
) -> tuple[Claim, ...]:
    """Every published number about these methods on these datasets, beside ours."""
    found = []
    tuned = {(t["row"], t["column"]) for t in plan.get("tuned") or ()}
    for row in rows:
        for dataset in dict.fromkeys(column.published_as or column.dataset for column in columns):
            for number in published(row.id, dataset):
                same: list[Column | None] = [
                    c for c in columns
                    if (c.published_as or c.dataset, c.architecture)
                    == (dataset, number.architecture)
                ]  # fmt: skip
                verdicts = [
                    claim_of(
                        number, row, dataset, column, cells[row.id, column.id] if column else None,
                        plan["suite"], plan["profile"],
                        column is not None and (row.id, column.id) in tuned,
                    )
                    for column in same or [None]
                ]  # fmt: skip
                # of several protocols the one that says most
                found.append(min(verdicts, key=lambda c: VERDICTS.index(c.verdict)))
    return tuple(found)


def _marked(column: list[Cell], rows: Sequence[Row], plan: Plan) -> dict[tuple[str, str], Cell]:
    """Marks the best complete cells of a column, and those that cannot be told from the best."""
    headline = plan["headline"]
    if headline["split"] in ("audit", "timings") or plan.get("kind") == KIND:
        return {}  # a description, or points of a search: no contest of seeds
    complete = {c.row: c for c in column if c.state == "ok" and c.estimate is not None}
    if len(complete) < 2:  # being the only one is no distinction
        return {}
    if headline["split"] in ("test", "val") and all(len(c.runs) < 2 for c in complete.values()):
        return {}  # one seed of each tells nothing of what another would bring
    means = {row: c.estimate.mean for row, c in complete.items() if c.estimate}
    top = (min if lower_is_better(headline["metric"]) else max)(means.values())
    winner = complete[next(row for row in means if means[row] == top)]
    marked = {row: replace(c, best=True) for row, c in complete.items() if means[row] == top}
    group = list(complete.values())
    by_id = {row.id: row for row in rows}
    step = max(rounding_step(plan, by_id[c.row], c.runs) for c in group)
    p_values = beside_the_best([c.by_seed for c in group], group.index(winner), step)
    for rival, p_value in zip(group, p_values, strict=True):
        if rival.row not in marked and p_value is not None and p_value > LEVEL:
            marked[rival.row] = replace(rival, tied=True)
    return {(c.row, c.column): c for c in marked.values()}


def _beside(column: list[Cell], control: Row, plan: Plan) -> dict[tuple[str, str], Cell]:
    """Adds what lies between the whole cells of a column and the control, where that is whole."""
    other = next(c for c in column if c.row == control.id)
    step = rounding_step(plan, control, other.runs)
    rivals, found = [], []
    for cell in column:
        if cell is other or not cell.state == other.state == "ok":
            continue
        if (between := difference(other.by_seed, cell.by_seed, step)) is not None:
            rivals.append(cell)
            found.append(between)
    p_values = holm_adjusted([d.p_value for d in found])
    return {
        (c.row, c.column): replace(c, beside=Beside(d, p_value, p_value <= LEVEL))
        for c, d, p_value in zip(rivals, found, p_values, strict=True)
    }
