"""The table as LaTeX: booktabs, pure ASCII, nothing to be escaped by hand."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import jinja2

from reports import speed
from reports.caption import caption, counts
from reports.formatting import MINUS, decimals, letter_of, published_text
from reports.statistics import Estimate
from reports.table import Cell, Table

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "`": r"\`{}",
    '"': r"{\char34}",  # a shorthand character in some languages of babel
    # After a line break `[` starts an argument and `*` a variant of the command.
    "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip
_SYMBOLS = {
    "±": r"$\pm$", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$", "≈": r"$\approx$",
    "≠": r"$\neq$", "→": r"$\rightarrow$", "∞": r"$\infty$", "·": r"$\cdot$", "−": "$-$",
    "—": r"\textemdash{}", "–": r"\textendash{}", "‐": "-", "‑": "-", "…": r"\ldots{}",
    "†": r"$\dagger$",
    "‘": "`", "’": "'", "“": "``", "”": "''", "°": r"$^\circ$", "²": "$^2$", "³": "$^3$",
    "ß": r"{\ss}", "æ": r"{\ae}", "Æ": r"{\AE}", "ø": r"{\o}", "Ø": r"{\O}", "ł": r"{\l}",
    "Ł": r"{\L}", "ı": r"{\i}", "œ": r"{\oe}", "Œ": r"{\OE}", "§": r"{\S}",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "ε": r"$\epsilon$",
    "η": r"$\eta$", "θ": r"$\theta$", "λ": r"$\lambda$", "μ": r"$\mu$", "π": r"$\pi$",
    "ρ": r"$\rho$", "σ": r"$\sigma$", "τ": r"$\tau$", "φ": r"$\phi$", "ω": r"$\omega$",
    "Δ": r"$\Delta$", "Σ": r"$\Sigma$", "\u00a0": "~", "\u202f": r"\,", "\u2009": r"\,",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r",
    "\u030c": "v", "\u0306": "u", "\u0304": "=", "\u0307": ".", "\u030b": "H", "\u0327": "c",
}  # fmt: skip
DAGGER = r"$^{\dagger}$"


def escape(text: object) -> str:
    """Any text as LaTeX that prints it: ASCII only, whatever the input encoding of the document.

    A character that no rule covers is printed as its code point, [U+4E2D]; nothing is lost and
    nothing stops the compiler.
    """
    # Two hyphens in a row would be printed as one dash, and commands are full of them.
    return re.sub("-(?=-)", "-{}", "".join(map(_character, str(text))))


def _character(c: str) -> str:
    if c in _SPECIAL:
        return _SPECIAL[c]
    if c in _SYMBOLS:
        return _SYMBOLS[c]
    if c.isspace() or unicodedata.category(c) == "Cc":
        return " "
    if c.isascii():
        return c
    plain = unicodedata.normalize("NFD", c)
    if len(plain) == 2 and plain[0].isascii() and plain[1] in _ACCENTS:
        return f"\\{_ACCENTS[plain[1]]}{{{plain[0]}}}"
    folded = unicodedata.normalize("NFKC", c)
    if folded != c:
        return escape(folded)
    return f"{{[}}U+{ord(c):04X}{{]}}"


def render(table: Table, aligned: bool = False) -> str:
    """The tabular with the notes under it, ready for `\\input` below `\\usepackage{booktabs}`.

    Args:
        aligned: numbers in columns of siunitx, at their decimal point; needs that package, too.
    """
    notes: dict[str, str] = {}  # text -> letter; equal texts share one
    specs = {
        column.id: _aligned([table.cell(row, column) for row in table.rows]) if aligned else ""
        for column in table.columns
    }
    widths = {name: 2 if spec else 1 for name, spec in specs.items()}
    body = []
    for row in table.rows:
        cells = [table.cell(row, column) for column in table.columns]
        published = [_across(_published(cell), widths[cell.column]) for cell in cells]
        body.append(
            {
                "label": row.label,
                "cells": [_cell(cell, notes, widths[cell.column] > 1) for cell in cells],
                "published": published if any(cell.shown_claims for cell in cells) else [],
            }
        )
    groups, first = [], 2
    for dataset, columns in table.groups():
        last = first - 1 + sum(widths[column.id] for column in columns)
        n = last + 1 - first
        groups.append({"dataset": dataset, "n": n, "span": f"{first}-{last}"})
        first = last + 1
    template = _environment().get_template("table.tex.j2")
    return template.render(
        suite=table.plan["suite"],
        spec="".join(specs[column.id] or "c" for column in table.columns),
        aligned=aligned,
        columns=[_across(escape(c.label), widths[c.id]) for c in table.columns],
        groups=groups,
        rows=body,
        caption=" ".join(caption(table)),
        notes=[{"letter": letter, "text": text} for text, letter in notes.items()],
    )


def render_costs(table: Table) -> str:
    """What was timed: one method against another, then every method; "" where nothing was.

    Ready for `\\input` below `\\usepackage{booktabs,longtable}`.
    """
    sections = speed.sections(table)
    if not sections:
        return ""
    template = _environment().get_template("costs.tex.j2")
    return template.render(
        table=table,
        suite=table.plan["suite"],
        stale=counts(table)["stale"],
        comparisons=speed.comparisons(table),
        sections=sections,
        terms=speed.TERMS,
        quiet=speed.quiet(table),
    )


def render_standalone(table: Table, aligned: bool = False) -> str:
    """A document that inputs the tables and compiles with pdflatex."""
    n = len(table.columns)
    template = _environment().get_template("standalone.tex.j2")
    return template.render(
        suite=table.plan["suite"],
        title=table.plan["title"],
        paper="a4paper" if n <= 3 else "a4paper,landscape" if n <= 9 else "a3paper,landscape",
        size=r"\small" if n <= 6 else r"\footnotesize",
        costs=bool(speed.sections(table)),
        aligned=aligned,
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        # Braces belong to LaTeX, and every expression is escaped unless it says `| latex`.
        block_start_string="<%", block_end_string="%>",
        variable_start_string="<<", variable_end_string=">>",
        comment_start_string="<#", comment_end_string="#>",
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, _Latex) else escape(value),
    )  # fmt: skip
    environment.filters["latex"] = _Latex
    return environment


class _Latex(str):
    """Text that is LaTeX already."""


def _aligned(cells: list[Cell]) -> str:
    """Two columns of siunitx, for means and half-widths; "" where no cell has an interval."""
    found = [
        (f"{e.mean:.{decimals(e)}f}", f"{e.half_width:.{decimals(e)}f}")
        for e in (cell.estimate for cell in cells) if e and e.half_width is not None
    ]  # fmt: skip
    if not found:
        return ""
    formats = []
    for texts in zip(*found, strict=True):
        parts = [text.lstrip("-").partition(".") for text in texts]
        sign = "-" * any(text.startswith("-") for text in texts)
        whole, places = (max(len(part[i]) for part in parts) for i in (0, 2))
        formats.append(f"table-format={sign}{whole}.{places}")
    if any(cell.tied or cell.n_stale for cell in cells):  # marks behind a number need room
        formats[1] += r",table-space-text-post={$^{\approx\dagger}$}"
    return f"S[{formats[0]}]@{{${{}}\\pm{{}}$}}S[{formats[1]}]"


def _across(text: str, width: int) -> str:
    return f"\\multicolumn{{{width}}}{{c}}{{{text}}}" if width > 1 else text


def _cell(cell: Cell, notes: dict[str, str], aligned: bool = False) -> str:
    """One entry of the tabular; what its marks mean is added to the notes."""
    marks = ""
    if cell.estimate is None:
        words = {"unsupported": "n/a", "missing": "missing", "running": "running", "unwanted": "--"}
        text = words.get(cell.state, cell.state)
        if cell.reason and cell.state not in ("missing", "unwanted"):
            marks += _mark(f"{text}: {cell.reason}", notes)
    else:
        text = _number(cell.estimate, cell.best)
        if cell.tied:
            marks += r"$^{\approx}$"
        if cell.state == "partial" and cell.reason:
            marks += _mark(cell.reason, notes)
    marks += DAGGER if cell.n_stale else ""
    if aligned and cell.estimate is not None and cell.estimate.half_width is not None:
        places, bold = decimals(cell.estimate), r"\bfseries " if cell.best else ""
        half = f"{cell.estimate.half_width:.{places}f}"
        return f"{bold}{cell.estimate.mean:.{places}f} & {half}" + (f"{{{marks}}}" if marks else "")
    return _across(text + marks, 2 if aligned else 1)


def _mark(text: str, notes: dict[str, str]) -> str:
    return f"$^{{\\mathrm{{{letter_of(text, notes)}}}}}$"


def _number(value: Estimate, bold: bool) -> str:
    places = decimals(value)
    if value.half_width is None:
        text = ", ".join(f"{v:.{places}f}" for v in value.values)
        return rf"\textbf{{{text}}}" if bold else text.replace("-", "$-$")
    mean, half = f"{value.mean:.{places}f}", f"{value.half_width:.{places}f}"
    return rf"$\mathbf{{{mean}}} \pm {half}$" if bold else rf"${mean} \pm {half}$"


def _published(cell: Cell) -> str:
    if not cell.shown_claims:
        return ""
    text = published_text([(c.accuracy_pct, c.decimals, c.difference) for c in cell.shown_claims])
    return re.sub(r"\(([^)]*)\)", lambda m: f"(${m[1].replace(MINUS, '-')}$)", text)
