"""Imports go down only: methods and results and slurm stand alone, reports reads results."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "methods": set(),
    "results": set(),
    "slurm": set(),
    "reports": {"results"},
    "suites": {"methods", "results", "reports", "slurm"},
}


def imported_rooms(path: Path) -> set[str]:
    """Our top-level packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names & (ALLOWED.keys() | {"tests"})


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_down_only(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        wrong = imported_rooms(path) - ALLOWED[room] - {room}
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_no_file_is_a_drawer() -> None:
    drawers = [p for p in ROOT.glob("*/**/*.py") if p.stem in ("utils", "helpers", "common", "misc")
               and ".venv" not in p.parts]  # fmt: skip
    assert not drawers
