"""Which sources made a number: one hash of the code that a cell runs, comments left out.

A record keeps it; where it differs from that of today's sources, the record is shown as stale.
Adding a method, an architecture or a dataset, or rewording a docstring, changes no hash.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import io
import textwrap
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from methods import BlockStyle, Method
from suites import datasets
from suites.architectures import ARCHITECTURES

RUNNERS = {
    "train": ("suites.engine", "suites.seeds"),
    "audit": ("suites.auditing", "suites.locality"),
}
DATA: tuple[Callable[..., object], ...] = (
    datasets.load,
    datasets._channel_statistics,
    datasets.prepare,
    datasets._standardisation.__wrapped__,
    datasets.random_crop,
    datasets.random_flip,
)


def code_sha(
    kind: str, method: type[Method], architecture: str, dataset: str, style: BlockStyle
) -> str:
    """SHA-256, 16 digits, of the code behind a cell: rule, engine or audit, data path, network."""
    parts = [method_sha(kind, method), network(architecture, dataset, style)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@functools.cache
def network(architecture: str, dataset: str, style: BlockStyle) -> str:
    """The modules of an architecture as text, with all their settings."""
    with torch.device("meta"):
        return repr(ARCHITECTURES[architecture].blocks(datasets.bare_task(dataset), style))


@functools.cache
def method_sha(kind: str, method: type[Method]) -> str:
    """Hash of a method's files, of what they use of `methods`, and of what runs them."""
    own = {cls.__module__ for cls in method.__mro__ if issubclass(cls, Method)} - {"methods.base"}
    texts = {name: essence(_text(name)) for name in own | set(RUNNERS[kind])}
    wanted: dict[str, set[str]] = {
        "methods.base": {"Method"},
        "methods.blocks": {"Block", "Blocks"},
    }
    for name in own:
        _merge(wanted, _imports(_text(name)))
    done: dict[str, set[str]] = {}
    while wanted != done:  # what is used may use more
        done = {name: set(names) for name, names in wanted.items()}
        for name, names in done.items():
            texts[name], more = _used(_text(name), names)
            _merge(wanted, more)
    sha = hashlib.sha256()
    for name in sorted(texts):
        sha.update(name.rpartition(".")[2].encode() + b"\0" + texts[name].encode() + b"\0")
    for function in DATA:
        sha.update(essence(textwrap.dedent(inspect.getsource(function))).encode() + b"\0")
    return sha.hexdigest()


@functools.cache
def _text(name: str) -> str:
    return Path(str(importlib.import_module(name).__file__)).read_text(encoding="utf-8")


def _merge(into: dict[str, set[str]], more: dict[str, set[str]]) -> None:
    for name, names in more.items():
        into.setdefault(name, set()).update(names)


@functools.cache
def _imports(text: str) -> dict[str, set[str]]:
    """Files of `methods` that a source imports from -> the names that it takes from each."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("methods."):
            found.setdefault(str(node.module), set()).update(a.name for a in node.names)
    found.pop("methods.registry", None)  # it finds methods, and changes no number
    return found


def _used(text: str, names: set[str]) -> tuple[str, dict[str, set[str]]]:
    """The top-level definitions behind these names, with all they refer to in the same file.

    Returns:
        their essence in file order, and what they take from other files of `methods`.
    """
    definitions = _definitions(text)
    mentioned: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in mentioned:
            mentioned.add(name)
            waiting.extend(definitions[name].mentions if name in definitions else ())
    parts = {d.line: d.text for name, d in definitions.items() if name in mentioned}
    taken = {name: found & mentioned for name, found in _imports(text).items()}
    return (
        "\n".join(parts[line] for line in sorted(parts)),
        {name: found for name, found in taken.items() if found},
    )


class Definition(NamedTuple):
    """One top-level definition of a source: where it is, its essence, the names it mentions."""

    line: int
    text: str
    mentions: frozenset[str]


@functools.cache
def _definitions(text: str) -> dict[str, Definition]:
    lines = text.splitlines()
    found: dict[str, Definition] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [t.id for t in targets if isinstance(t, ast.Name)]
            first = node.lineno
        else:
            continue
        part = essence("\n".join(lines[first - 1 : node.end_lineno]))
        mentions = frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
        found |= {name: Definition(first, part, mentions) for name in names}
    return found


@functools.cache
def essence(text: str) -> str:
    """Source text without comments, docstrings, blank lines and trailing space.

    It cuts text by position, as the parsers of all Python versions report it, and prints nothing
    anew: so one file has one essence whatever the version.
    """
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) or not body:
            continue
        first = body[0]
        if (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)):  # fmt: skip
            assert first.end_lineno is not None
            for i in range(first.lineno - 1, first.end_lineno):
                lines[i] = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and lines[token.start[0] - 1]:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())
