"""The locality audit as it is read: what a method says of itself beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.formatting import count, number, plural
from reports.table import Row, Table

DENIED = " \u2260 declared"
# (measure of the audit, heading)
AUDIT = (
    ("declared", "says of itself"),
    ("measured", "measured"),
    ("units", "units"),
    ("chain_longest", "longest chain, layers"),
    ("chain_nearest", "nearest loss, layers"),
    ("crosses_units", "gradient crosses units"),
    ("depends_on_later", "update depends on later units"),
    ("true_gradient", "first unit follows the true gradient"),
    ("label_free", "prediction sees no label"),
    ("passes_per_prediction", "passes per prediction"),
    ("memory_slope_bytes", "memory per added block, KiB"),
    ("memory_deepest_bytes", "memory at 32 blocks, MiB"),
)
# (term, what it means)
AUDIT_TERMS = (
    (
        "units",
        "parts with a loss of their own, as the method names them (a block, mostly), beside the "
        "number of blocks of the architecture.",
    ),
    (
        "measured",
        "global: a gradient reaches units by way of others; local, with feedback: none does, but "
        "what becomes of a unit depends on later ones by another way; local: neither.",
    ),
    (
        "longest chain",
        "layers on the longest path from a loss to a weight in autograd's graph, local "
        "classifiers included; 0 where updates are made without it. A rule may be local and have "
        "a long chain: its units are deep then.",
    ),
    ("nearest loss", "the same for the shortest path, of the unit that is farthest from any loss."),
    (
        "update depends on later units",
        "after a later unit is perturbed, the updates of an earlier one, followed for some steps "
        "and looked at again in the middle and at the end of training, are not the same, bit for "
        "bit, by whatever way the news came.",
    ),
    (
        "first unit follows the true gradient",
        "the gradient that moves it, against finite differences of the cross-entropy of what is "
        "predicted; a dash where a rule keeps no gradient.",
    ),
    (
        "memory",
        "slope of the peak of a training step over stacks of 4 to 32 equal blocks, beside it as a "
        "multiple of backprop's where that is in the table, and the peak of the deepest; a dash "
        "for residual blocks, and where a rule refuses a deep stack.",
    ),
    (
        "\u2260 declared, not seen",
        "measured otherwise than the method says of itself; declared, but not met in so few steps.",
    ),
)


def section(table: Table) -> dict[str, Any]:
    """Headings, and per architecture a line per method: (row, [(value, text)], failure)."""
    groups: dict[str, list[tuple[Row, list[tuple[float | None, str]], str]]] = {}
    for column in table.columns:
        cells = {row.id: table.cell(row, column) for row in table.rows}
        control = cells["backprop"].audit if "backprop" in cells else {}
        lines = groups.setdefault(column.architecture, [])
        for row in table.rows:
            cell = cells[row.id]
            if not cell.audit and not cell.audit_failure:
                continue
            values = [_audited(row, cell.audit, name, control) for name, _ in AUDIT]
            # the settings of a row may differ by data set; where they do not, neither does this
            if (row, values, cell.audit_failure) not in lines:
                lines.append((row, values, cell.audit_failure))
    return {
        "headings": [h for _, h in AUDIT],
        "groups": [(name, lines) for name, lines in groups.items() if lines],
        "seeds": max((len(c.runs) for c in table.cells.values() if c.audit), default=0)
        if table.plan["headline"]["split"] == "audit"
        else 1,
        "terms": AUDIT_TERMS,
    }


def _audited(
    row: Row, audit: Mapping[str, Any], name: str, control: Mapping[str, Any]
) -> tuple[float | None, str]:
    if name == "declared":
        return None, declared(row)
    if name == "measured":
        found = _measured(audit)
        denied = found.startswith("local") != declared(row).startswith("local")
        return None, found + DENIED * denied if found else number(None)
    if name == "units":
        n = audit.get("n_units")
        return n, number(None) if n is None else f"{n} ({plural(audit['n_blocks'], 'block')})"
    if name == "memory_deepest_bytes":
        deepest = (audit.get("memory_bytes") or [None])[-1]
        return (None, number(None)) if deepest is None else (deepest, number(deepest / 2**20))
    value = audit.get(name)
    if value is None:
        return None, number(None)
    if isinstance(value, bool):
        text = "yes" if value else "no"
        if contradicts(row, name, value):
            text += DENIED
        elif name == "depends_on_later" and row.feedback and not value:
            text = "not seen"
        return float(value), text
    if name != "memory_slope_bytes":
        return value, count(value) if value == int(value) else number(value)
    text = number(value / 2**10)
    if control.get(name):
        text += f" (× {value / control[name]:.2f})"
    return value, text


def _measured(audit: Mapping[str, Any]) -> str:
    """What reaches an update, as measured, in the words of what is declared; "" if it was not."""
    if not {"crosses_units", "depends_on_later"} <= audit.keys():
        return ""
    if audit["crosses_units"]:
        return "global"
    return "local, with feedback" if audit["depends_on_later"] else "local"


def contradictions(table: Table) -> list[str]:
    """What audits found that methods deny: "HFF on mlp-2x500: gradient crosses units"."""
    found: dict[str, None] = {}  # in order, each once
    for row in table.rows:
        for column in table.columns:
            audit = table.cell(row, column).audit
            for name, heading in AUDIT:
                value = audit.get(name)
                if isinstance(value, bool) and contradicts(row, name, value):
                    said = "" if value else "not: "
                    found[f"{row.label} on {column.architecture}: {said}{heading}"] = None
    return list(found)


def contradicts(row: Row, name: str, measured: bool) -> bool:
    """Whether the audit found what the method denies."""
    if not measured:
        return name == "label_free"
    if name in ("crosses_units", "true_gradient"):
        return bool(row.local)
    return name == "depends_on_later" and bool(row.local) and not row.feedback


def declared(row: Row) -> str:
    """What reaches an update, as declared."""
    if row.local:
        return "local, with feedback" if row.feedback else "local"
    return "global feedback" if row.feedback else "global gradient"


def claimed(table: Table, row: Row) -> str:
    """What reaches an update, as declared, and whether an audit of this page denies it."""
    audits = [table.cell(row, column).audit for column in table.columns]
    names = ("crosses_units", "depends_on_later", "true_gradient")
    denied = any(
        contradicts(row, name, bool(audit.get(name))) for audit in audits for name in names
    )
    return declared(row) + (", as it says; measured otherwise" if denied else "")
