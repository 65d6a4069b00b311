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
import sys
import textwrap
import tokenize
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from methods import BlockStyle, Method
from suites import datasets
from suites.architectures import ARCHITECTURES

CONTRACT = ("methods.base", "methods.blocks")
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
    """Hash of a method's files, of what they import from `methods`, and of what runs them."""
    modules = {name for cls in method.__mro__ if issubclass(cls, Method) and cls is not Method
               for name in _with_imports(cls.__module__)}  # fmt: skip
    modules |= {*CONTRACT, *RUNNERS[kind]}
    sha = hashlib.sha256()
    for name in sorted(modules):
        module = importlib.import_module(name)
        sha.update(Path(str(module.__file__)).name.encode() + b"\0")
        sha.update(essence(_text(module)).encode() + b"\0")
    for function in DATA:
        sha.update(essence(textwrap.dedent(inspect.getsource(function))).encode() + b"\0")
    return sha.hexdigest()


def _text(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def _with_imports(name: str) -> set[str]:
    """A module and all files of `methods` that it imports, directly or not."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name in found or not isinstance(module := sys.modules.get(name), ModuleType):
            continue
        found.add(name)
        for node in ast.walk(ast.parse(_text(module))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("methods."):
                waiting.append(str(node.module))
            elif isinstance(node, ast.Import):
                waiting.extend(a.name for a in node.names if a.name.startswith("methods."))
    return found - {"methods.registry"}


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
