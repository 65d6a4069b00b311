"""Imports go down only: methods and results and slurm stand alone, reports reads results."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import pytest

from methods import METHODS, load_builtin
from suites.description import departures

load_builtin()

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "methods": set(),
    "results": set(),
    "slurm": set(),
    "reports": {"results"},
    "suites": {"methods", "results", "reports", "slurm"},
}
# Below the suites: what each folder may import of the others there.
BELOW = {
    "images": set(),
    "engine": {"images"},
    "auditing": {"engine"},
    "costs": {"engine"},
    "transfer": {"engine", "images"},
    "launching": {"engine", "auditing", "costs", "transfer"},  # a cell can be one of theirs
    "cluster": {"engine", "launching"},
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


@pytest.mark.parametrize("folder", BELOW)
def test_what_runs_a_cell_knows_no_suite(folder: str) -> None:
    for path in (ROOT / "suites" / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("suites"):
                room = f"{node.module}.".split(".")[1]
                fine = room in BELOW[folder] | {folder}
                assert fine, f"suites/{folder}/{path.name} imports {node.module}"


def test_no_rule_is_built_on_another_rule() -> None:
    """What rules share has a file of its own, which registers none."""
    files = {path.stem: path.read_text() for path in (ROOT / "methods").glob("*.py")}
    rules = {name for name, text in files.items() if "\n@register\n" in text}
    for name in rules:
        for node in ast.walk(ast.parse(files[name])):
            if isinstance(node, ast.ImportFrom) and node.module:
                taken = {node.module.removeprefix("methods."), *(a.name for a in node.names)}
                assert not taken & rules, f"methods/{name}.py imports {taken & rules}"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_rule_says_what_it_is(name: str) -> None:
    """Its paper, its equations, and where it departs from them: the page shows all three."""
    cls = METHODS[name]
    assert cls.source and inspect.getdoc(cls)
    assert "=" in (inspect.getdoc(sys.modules[cls.__module__]) or "")
    assert departures(cls)


def test_no_file_is_a_drawer() -> None:
    drawers = [p for p in ROOT.glob("*/**/*.py") if p.stem in ("utils", "helpers", "common", "misc")
               and ".venv" not in p.parts]  # fmt: skip
    assert not drawers
