"""The table as LaTeX: booktabs, pure ASCII, nothing to be escaped by hand."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import jinja2

from reports import speed
from reports.caption import caption
from reports.formatting import MINUS, decimals, published_text
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
    "\u0328": "k",
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


def render(table: Table) -> str:
    """The tabular with the notes under it, ready for `\\input` below `\\usepackage{booktabs}`."""
    notes: dict[str, str] = {}  # text -> letter; equal texts share one
    body = []
    for row in table.rows:
        cells = [table.cell(row, column) for column in table.columns]
        published = [_published(cell) for cell in cells]
        body.append(
            {
                "label": row.label,
                "cells": [_cell(cell, notes) for cell in cells],
                "published": published if any(published) else [],
            }
        )
    groups, first = [], 2
    for dataset, columns in table.groups():
        last = first + len(columns) - 1
        groups.append({"dataset": dataset, "n": len(columns), "span": f"{first}-{last}"})
        first = last + 1
    template = _environment().get_template("table.tex.j2")
    return template.render(
        suite=table.plan["suite"],
        columns=[column.label for column in table.columns],
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
        suite=table.plan["suite"],
        comparisons=speed.comparisons(table),
        sections=sections,
        terms=speed.TERMS,
        quiet=speed.quiet(table),
    )


def render_standalone(table: Table) -> str:
    """A document that inputs the tables and compiles with pdflatex."""
    n = len(table.columns)
    template = _environment().get_template("standalone.tex.j2")
    return template.render(
        suite=table.plan["suite"],
        title=table.plan["title"],
        paper="a4paper" if n <= 3 else "a4paper,landscape" if n <= 9 else "a3paper,landscape",
        size=r"\small" if n <= 6 else r"\footnotesize",
        costs=bool(speed.sections(table)),
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


def _cell(cell: Cell, notes: dict[str, str]) -> str:
    """One entry of the tabular; what its marks mean is added to the notes."""
    if cell.estimate is None:
        words = {"unsupported": "n/a", "missing": "missing", "running": "running", "unwanted": "--"}
        text = words.get(cell.state, cell.state)
        if cell.reason and cell.state not in ("missing", "unwanted"):
            text += _mark(f"{text}: {cell.reason}", notes)
    else:
        text = _number(cell.estimate, cell.best)
        if cell.tied:
            text += r"$^{\approx}$"
        if cell.state == "partial" and cell.reason:
            text += _mark(cell.reason, notes)
    return text + (DAGGER if cell.n_stale else "")


def _mark(text: str, notes: dict[str, str]) -> str:
    if text not in notes:
        index, letter = len(notes), ""
        while True:
            letter = chr(ord("a") + index % 26) + letter
            index = index // 26 - 1
            if index < 0:
                break
        notes[text] = letter
    return f"$^{{\\mathrm{{{notes[text]}}}}}$"


def _number(value: Estimate, bold: bool) -> str:
    places = decimals(value)
    if value.half_width is None:
        text = ", ".join(f"{v:.{places}f}" for v in value.values)
        return rf"\textbf{{{text}}}" if bold else text.replace("-", "$-$")
    mean, half = f"{value.mean:.{places}f}", f"{value.half_width:.{places}f}"
    return rf"$\mathbf{{{mean}}} \pm {half}$" if bold else rf"${mean} \pm {half}$"


def _published(cell: Cell) -> str:
    if not cell.claims:
        return ""
    text = published_text([(c.accuracy_pct, c.decimals, c.difference) for c in cell.claims])
    return re.sub(r"\(([^)]*)\)", lambda m: f"(${m[1].replace(MINUS, '-')}$)", text)
