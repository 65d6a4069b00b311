"""What a page says of a row: source, readouts, equations, departures from the paper."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from methods import METHODS, Method
from suites.engine.cell import Kind
from suites.suite import Row
from suites.transfer import measure as transfer

# of a row that has no epoch anywhere: what its method says of learning is not about it
UNTRAINED: dict[str, Any] = {
    "source": "", "local": None, "feedback": "", "equations": "", "differs": [],
    "description": "The initial weights, without any training on the source; fine-tuned, they are "
    "a network that backprop has trained on the target alone.",
}  # fmt: skip


def describe(row: Row, kind: Kind) -> dict[str, Any]:
    """The entry of a row in a plan."""
    cls = METHODS[row.method]
    readouts = transfer.readouts() if kind == "transfer" else list(cls.traits.readouts)
    return {
        "id": row.id,
        "label": row.label,
        "method": row.method,
        "settings": dict(row.settings),
        "source": cls.source,
        "readout": readouts[0],
        "readouts": readouts,
        "local": cls.traits.local_updates,
        "feedback": cls.traits.feedback,
        "description": (inspect.getdoc(cls) or "").partition("\n")[0],
        "equations": (inspect.getdoc(sys.modules[cls.__module__]) or "").strip(),
        "differs": departures(cls),
    }


def departures(cls: type[Method]) -> list[str]:
    """The `Differs:` notes of a method's file: what departs from its paper, one line each.

    Those of another method in the same file are left out.
    """
    source = inspect.getsource(sys.modules[cls.__module__])
    for other in METHODS.values():
        if other.__module__ == cls.__module__ and other not in cls.__mro__:
            source = source.replace(inspect.getsource(other), "")
    found = re.findall(r"^ *Differs: ((?:.+\n)(?: {6,}.+\n)*)", source, flags=re.MULTILINE)
    return [" ".join(note.split()) for note in found]
