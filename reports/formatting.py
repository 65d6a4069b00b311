"""How numbers and dates are written, the same in every output."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from reports.statistics import Estimate

MINUS = "\u2212"
NOTHING = "\u2013"  # stands for what is not known
THIN = "\u202f"  # narrow no-break space between groups of three digits


def decimals(value: Estimate) -> int:
    """One decimal; more when the interval is too narrow to be seen in one; none for counts.

    Without an interval two where that is all there is to a value: of 10,000 test images each is one
    hundredth of a point.
    """
    if value.counted and all(v == int(v) for v in value.values):
        return 0
    if value.half_width is None:
        if abs(value.mean) >= 1000:
            return 0
        hundredths = all(abs(v - round(v, 2)) < 1e-9 for v in value.values)
        return 2 if hundredths and any(abs(v - round(v, 1)) > 1e-9 for v in value.values) else 1
    if 0 < value.half_width < 0.005:
        return 3
    if value.half_width < 0.1:
        return 2
    return 0 if abs(value.mean) >= 1000 and value.half_width >= 1 else 1


def estimate_text(value: Estimate, plus_minus: str = " \u00b1 ") -> str:
    """'97.1 ± 0.4', or the single values when there is no interval: '97.2, 96.9'."""
    places = decimals(value)
    if value.half_width is None:
        return ", ".join(f"{v:.{places}f}" for v in value.values)
    return f"{value.mean:.{places}f}{plus_minus}{value.half_width:.{places}f}"


def signed(value: float, places: int = 1) -> str:
    """'+1.3' or '−1.3'; never a signed zero."""
    text = f"{abs(value):.{places}f}"
    if float(text) == 0:
        return text
    return ("+" if value > 0 else MINUS) + text


def published_text(claims: Sequence[tuple[float, int, float | None]]) -> str:
    """'98.6 (−0.3)' for one claim and the difference to it, '98.3 to 98.6' for several.

    Args:
        claims: published value, its decimals as printed, ours minus it.
    """
    values = [f"{value:.{places}f}" for value, places, _ in claims]
    if len(claims) != 1:  # under several protocols: none of them is the published number
        low, high = min(values, key=float), max(values, key=float)
        return low if low == high else f"{low} to {high}"
    _, places, difference = claims[0]
    return values[0] + (f" ({signed(difference, places)})" if difference is not None else "")


def letter_of(note: str, notes: dict[str, str]) -> str:
    """The letter of a note under a table, 'a' to 'z', 'aa' ...; a new one is added to the notes.

    Args:
        notes: text -> letter; equal texts share one.
    """
    if note not in notes:
        index, letter = len(notes), ""
        while index >= 0:
            letter = chr(ord("a") + index % 26) + letter
            index = index // 26 - 1
        notes[note] = letter
    return notes[note]


def number(value: float | None) -> str:
    """Three significant digits, whole numbers from 100 on, digits grouped: '12 300'."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    value = float(f"{value:.3g}")  # a timing has no more than three digits to trust
    if abs(value) < 1e-6:
        text = f"{value:.2e}"
    else:
        places = max(0, 2 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{min(places, 8)}f}".replace(",", THIN)
    return text.replace("-", MINUS, 1) if value < 0 else text


def count(value: float | None) -> str:
    """A whole number with grouped digits, all of them."""
    return NOTHING if value is None else f"{value:,.0f}".replace(",", THIN)


def setting_text(value: Any) -> str:
    """A hyper-parameter or a field of a protocol: '0.0021', '1e-5', 'yes', 'none', '1, 2'.

    Two that differ are written differently.
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        text = f"{value:g}"
        return re.sub(r"e([+-])0+", r"e\1", text if float(text) == value else repr(value))
    if isinstance(value, list | tuple):
        return ", ".join(map(setting_text, value)) or "none"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def when(stamp: Any) -> str:
    """'2026-03-01 14:05 UTC' from an ISO time; anything else comes back as it is."""
    try:
        moment = datetime.fromisoformat(str(stamp))
    except ValueError:
        return str(stamp)
    if moment.tzinfo is None:
        return moment.strftime("%Y-%m-%d %H:%M")
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def first_line(text: object, otherwise: str = "no reason recorded") -> str:
    """The first line of a reason, which may be the text of a whole traceback."""
    return str(text or "").strip().partition("\n")[0] or otherwise


def numbered(text: str) -> list[tuple[str, int]]:
    """To sort by: words as they are, and numbers in them by size."""
    parts = re.split(r"(\d+)", text)
    return [(word, int(n)) for word, n in zip(parts[::2], [*parts[1::2], "0"], strict=True)]


def plural(n: int, noun: str) -> str:
    """'1 seed', '3 seeds'."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
