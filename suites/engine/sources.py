"""Which sources made a number: one hash of the code that a cell runs, comments left out.

A record keeps it; where it differs from that of today's sources, the record is shown as stale.
What counts is found by following names, from the roots of the work through all imports: so adding
a method, an architecture or a data set, or rewording a docstring, changes no hash. Texts count and
not their places, so that a definition may move to another file. Of a class that counts, its fields
do, and those functions whose names are mentioned anywhere in what counts: a way to predict that
only benchmarks time, say, does not. Nor does the dictionary `space` of a class: it says what is
tuned, and the values that are tried are in the key of each cell.

Left out on purpose: the registries (the network and the data of the cell count by themselves), and
what keeps and counts without a say in the results: records, checkpoints, costs. What a method takes
from other packages than this one and its own file is not followed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import io
import itertools
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from methods import BlockStyle, Method
from suites.engine import datasets
from suites.engine.architectures import ARCHITECTURES

# what a file of the user's may hold beside its method: no line of it runs in a cell
NO_CODE = ("PUBLISHED", "SUITE")
# kind of cell -> (file, definition) that the work starts from
ALL = (
    ("methods.base", "Method"), ("methods.blocks", "Block"), ("methods.blocks", "Blocks"),
    ("suites.engine.datasets", "load"), ("suites.engine.cell", "Cell.method_config"),
    ("suites.engine.determinism", "use_deterministic_algorithms"),
)  # fmt: skip
CARRIED_OUT = (
    ("suites.engine.cell", "Cell.build"), ("suites.engine.execution", "carry_out"),
    ("suites.engine.precision", "computing"),
)  # fmt: skip
TRAINED = (
    *ALL, *CARRIED_OUT, ("suites.engine.training", "Training"),
    ("suites.engine.training", "Training.start"), ("suites.engine.training", "Training.epoch"),
)  # fmt: skip
ROOTS = {
    "train": (
        *TRAINED,
        ("suites.engine.evaluation", "validate"), ("suites.engine.evaluation", "read"),
    ),
    "transfer": (
        *TRAINED, ("suites.transfer.measure", "measure"),
        ("suites.engine.cell", "Cell.pretraining"), ("suites.engine.cell", "Cell.reads_source"),
        ("suites.engine.trial", "Trial._build"),  # which weights a network goes on from
        ("suites.engine.evaluation", "validate"), ("suites.engine.evaluation", "read"),
    ),
    "audit": (*ALL, ("suites.auditing.measure", "measure")),
    "cost": (
        *ALL, *CARRIED_OUT, ("suites.costs.measure", "measure"),
        ("methods.backprop", "Backprop"),  # what it is timed against
    ),
}  # fmt: skip
FOLLOWED = (
    "methods.", "suites.auditing.", "suites.costs.", "suites.engine.", "suites.images.",
    "suites.transfer.",
)  # fmt: skip
# of these files, what keeps, shares out and describes: no definition counts but the roots above
KEEPERS = tuple(
    f"suites.engine.{name}"
    for name in ("cell", "checkpoint", "environment", "plugins", "ranks", "registry", "sources",
                 "trial")
)  # fmt: skip
NOT_FOLLOWED = {
    ("suites.engine.architectures", "ARCHITECTURES"),
    ("suites.engine.datasets", "DATASETS"),
    ("suites.engine.datasets", "_read"),  # it only reads; what was read has a hash of its own
    ("methods.registry", "METHODS"),
    ("methods.registry", "register"),
}


class Name(NamedTuple):
    """A top-level definition, or "Class.method", of a file."""

    module: str
    name: str


def code_sha(
    kind: str, method: type[Method], architecture: str, dataset: str, style: BlockStyle, *more: str,
    tuned_by: type[Method] | None = None,
) -> str:  # fmt: skip
    """SHA-256, 16 digits, of the code behind a cell: rule, engine or audit, network, data.

    Args:
        dataset: what the network is made for; more: other datasets that are looked at.
        tuned_by: another method that trains it further.
    """
    parts = [
        method_sha(kind, method), builder_sha(architecture), network(architecture, dataset, style),
        *map(_data, (dataset, *more)),
        *([method_sha("train", tuned_by)] if tuned_by else []),
    ]  # fmt: skip
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@functools.cache
def network(architecture: str, dataset: str, style: BlockStyle) -> str:
    """The modules of an architecture as text, with all their settings."""
    with torch.device("meta"):
        return repr(ARCHITECTURES[architecture].blocks(datasets.bare_task(dataset), style))


@functools.cache
def builder_sha(architecture: str) -> str:
    """Hash of the code that makes an architecture: how it draws its weights does not show in it."""
    return _sha(_reached({_definition_of(ARCHITECTURES[architecture].build)}))


@functools.cache
def _data(name: str) -> str:
    """A data set by its registered hash, or by the code that makes it where there is none."""
    dataset = datasets.DATASETS[name]
    what = dataset.sha256
    if what is None:
        load: Any = dataset.load
        bound = [cell.cell_contents for cell in getattr(load, "__closure__", None) or ()]
        what = _sha(_reached({_definition_of(load)})) + repr(bound)
    return f"{what} {dataset.n_classes} {dataset.shape}"


def _definition_of(function: Callable[..., Any]) -> Name:
    """The top-level definition that a function is, or was made in."""
    function = getattr(function, "func", function)  # of a partial
    return Name(function.__module__, function.__qualname__.partition(".")[0])


@functools.cache
def method_sha(kind: str, method: type[Method]) -> str:
    """Hash of a method's files and of all that they, and what runs them, make use of."""
    return _sha(used(kind, method))


def _sha(parts: Mapping[str, Iterable[str]]) -> str:
    texts = sorted(itertools.chain.from_iterable(parts.values()))
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def used(kind: str, method: type[Method]) -> dict[str, tuple[str, ...]]:
    """File -> the essences of those of its parts that count for a method, in file order."""
    own = {cls.__module__ for cls in method.__mro__ if _counts(cls.__module__)} - {"methods.base"}
    names = {Name(*root) for root in ROOTS[kind]}
    for module in own:
        defined = _source(module).definitions
        names |= {Name(module, name) for name in defined if "." not in name and name not in NO_CODE}
    return _reached(names)


def _reached(names: Iterable[Name]) -> dict[str, tuple[str, ...]]:
    """File -> the essences of what these definitions lead to, themselves included."""
    found: set[Name] = set()
    words: set[str] = set()
    whole: set[str] = set()  # files where an attribute is looked up that the text does not name
    waiting = set(names)
    while waiting:
        found |= waiting
        more: set[Name] = set()
        for module, name in waiting:
            source = _source(module)
            for part in (source.definitions[name], source.always):
                more |= _resolved(module, part.mentions)
                words |= part.words
                if UNNAMED in part.words:
                    whole.add(module)
        waiting = (more | _members(found | more, words, whole)) - found
    texts = {}
    for module in {name.module for name in found}:
        source = _source(module)
        parts = {source.definitions[n.name] for n in found if n.module == module}
        if source.always.text:
            parts.add(source.always)
        texts[module] = tuple(part.text for part in sorted(parts))
    return texts


def _members(found: set[Name], words: set[str], whole: set[str]) -> set[Name]:
    """The functions of these classes that are mentioned, or that Python or a library calls."""
    members = set()
    for module, name in found:
        for path in _source(module).members.get(name, ()):
            member = path.partition(".")[2]
            if (member in words or module in whole
                    or _is_called_by_others(module, name, member)):  # fmt: skip
                members.add(Name(module, path))
    return members


@functools.cache
def _is_called_by_others(module: str, name: str, member: str) -> bool:
    """Whether a function of a class stands in for one of a library's class, as `forward` does."""
    if member.startswith("__"):
        return True
    cls = getattr(sys.modules[module], name, None)
    libraries = [base for base in getattr(cls, "__mro__", ()) if not _counts(base.__module__)]
    return cls is None or any(member in vars(base) for base in libraries)


def _counts(module: str) -> bool:
    """Whether a class of a method's ancestry is ours or a plug-in's, and not of a library."""
    return module.partition(".")[0] not in ("builtins", "abc", "typing", "torch")


def _resolved(module: str, mentioned: Iterable[str]) -> set[Name]:
    """The definitions that dotted names in a file stand for, of those that are followed."""
    found = (_resolve(module, dotted) for dotted in mentioned)
    return {name for name in found if name is not None and name not in NOT_FOLLOWED}


@functools.cache
def _resolve(module: str, dotted: str) -> Name | None:
    source = _source(module)
    first, _, rest = dotted.partition(".")
    if first in source.definitions:
        return Name(module, first)
    target = source.imports.get(first)
    if target is None:
        return None
    path = f"{target}.{rest}" if rest else target
    head, tail = path, ""
    while head and not _is_module(head):  # the longest part of the path that is a file
        head, _, last = head.rpartition(".")
        tail = f"{last}.{tail}" if tail else last
    if not tail or head in KEEPERS or not (head == "methods" or head.startswith(FOLLOWED)):
        return None
    return _resolve(head, tail)


@functools.cache
def _is_module(path: str) -> bool:
    if path.partition(".")[0] not in ("methods", "suites"):
        return False
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:  # its parent is no package
        return False


# ----------------------------------------------------------------------------- one file


UNNAMED = "getattr(…)"  # among words: an attribute whose name the text does not tell


class Definition(NamedTuple):
    """A part of a source.

    Attributes:
        line: where it is.
        text: its essence; of a class without its functions.
        mentions: dotted names in it, "datasets.prepare".
        words: all that may be the name of an attribute in it.
    """

    line: int
    text: str
    mentions: frozenset[str]
    words: frozenset[str]


class Source(NamedTuple):
    """A file.

    Attributes:
        definitions: by name; functions of a class as "Class.function", too.
        members: class -> the names of its functions, "Class.function".
        always: its other statements together.
        imports: what its imports bind.
    """

    definitions: dict[str, Definition]
    members: dict[str, tuple[str, ...]]
    always: Definition
    imports: dict[str, str]


@functools.cache
def _source(module: str) -> Source:
    loaded = importlib.import_module(module)
    path = Path(str(loaded.__file__))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return parse(path.read_text(encoding="utf-8"), package)


@functools.cache
def parse(text: str, package: str = "") -> Source:
    """Takes a source apart. Its relative imports are those of a file in `package`."""
    tree = ast.parse(text)
    lines = text.splitlines()
    definitions: dict[str, Definition] = {}
    members: dict[str, tuple[str, ...]] = {}
    rest: list[Definition] = []

    def bind(name: str, part: Definition) -> None:
        before = definitions.get(name)  # bound again, it is both
        definitions[name] = part if before is None else _joined(before, part)

    for node in tree.body:
        part = _definition(node, lines)
        names = _bound(node)
        for name in names:
            bind(name, part)
        if not names and part.text and not _only_imports(node):
            rest.append(part)
        if isinstance(node, ast.ClassDef):
            functions = _functions(node)
            for inner in functions:
                bind(f"{node.name}.{inner.name}", _definition(inner, lines, node.name))
            members[node.name] = tuple({f"{node.name}.{inner.name}": None for inner in functions})
    nothing = Definition(0, "", frozenset(), frozenset())
    always = functools.reduce(_joined, rest) if rest else nothing
    return Source(definitions, members, always, _imports(tree, package))


def _only_imports(node: ast.stmt) -> bool:
    """Whether a statement only says where names come from, if only to type checkers."""
    if isinstance(node, ast.If) and not node.orelse:
        return all(map(_only_imports, node.body))
    return isinstance(node, ast.Import | ast.ImportFrom)


def _joined(one: Definition, two: Definition) -> Definition:
    text = f"{one.text}\n{two.text}"
    return Definition(one.line, text, one.mentions | two.mentions, one.words | two.words)


def _functions(node: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions that a class consists of; none of anything else."""
    body = node.body if isinstance(node, ast.ClassDef) else []
    return [part for part in body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]


def _bound(node: ast.stmt) -> list[str]:
    """Names that a definition or an assignment binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if not isinstance(node, ast.Assign | ast.AnnAssign):
        return []
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    parts = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
    return [e.id for e in parts if isinstance(e, ast.Name)]


def _spaces(node: ast.AST, lines: list[str]) -> list[ast.stmt]:
    """The statements of a class that give it a search space, alone on their lines."""
    found: list[ast.stmt] = []
    for part in node.body if isinstance(node, ast.ClassDef) else []:
        if not (isinstance(part, ast.Assign | ast.AnnAssign) and isinstance(part.value, ast.Dict)):
            continue
        last = lines[(part.end_lineno or 0) - 1].encode()[part.end_col_offset :].strip()
        alone = not lines[part.lineno - 1].encode()[: part.col_offset].strip()
        if _bound(part) == ["space"] and alone and (not last or last.startswith(b"#")):
            found.append(part)
    return found


def _definition(node: ast.stmt, lines: list[str], owner: str = "") -> Definition:
    """A definition; `owner` is the class that a function belongs to."""
    first = _first_line(node)
    kept = dict(enumerate(lines[first - 1 : node.end_lineno], first))
    functions, spaces = _functions(node), _spaces(node, lines)
    for inner in (*functions, *spaces):
        for line in range(_first_line(inner), (inner.end_lineno or 0) + 1):
            kept.pop(line, None)
    part = "\n".join(kept.values())
    if isinstance(node, ast.ClassDef) and (functions or spaces):
        # a class whose functions count by themselves, if at all
        left = [s for s in node.body if s not in functions and s not in spaces]
        if functions or not left:
            part += f"\n{' ' * node.body[0].col_offset}pass"
        node = ast.ClassDef(node.name, node.bases, node.keywords, left, node.decorator_list)
    elif node.col_offset:  # of a class; its text must not be moved, or a string in it could break
        part = f"class {owner or '_'}:\n{part}"
    return Definition(first, essence(part), frozenset(_mentions(node)), frozenset(_words(node)))


def _first_line(node: ast.stmt) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def _words(tree: ast.AST) -> Iterator[str]:
    """All that may be the name of an attribute in a tree, strings that could be one included."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=word) | ast.Name(id=word):
                yield word
            case ast.Constant(value=str(word)) if word.isidentifier():
                yield word
            case ast.Call(func=ast.Name(id="getattr"), args=[_, name, *_]):
                if not isinstance(name, ast.Constant):
                    yield UNNAMED


def _mentions(tree: ast.AST) -> Iterator[str]:
    """Names, and names with attributes ("datasets.prepare"), in a tree."""
    for node in ast.walk(tree):
        path: list[str] = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            path.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield ".".join([inner.id, *reversed(path)])


def _imports(tree: ast.AST, package: str) -> dict[str, str]:
    """Name in this file -> dotted path of what it was imported as."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                found[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                kept = parents[: len(parents) - node.level + 1]
                base = ".".join([*kept, base] if base else kept)
            for alias in node.names:
                found[alias.asname or alias.name] = f"{base}.{alias.name}"
    return found


@functools.cache
def essence(text: str) -> str:
    """Source text without comments, docstrings, blank lines and trailing space.

    It cuts text by position, as the parsers of all Python versions report it, and prints nothing
    anew: so one file has one essence whatever the version.
    """
    given = text.splitlines()
    lines = list(given)
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) or not body:
            continue
        first = body[0]
        if (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)):  # fmt: skip
            assert first.end_lineno is not None
            alone = given[first.lineno - 1].lstrip()[:1] in "\"'rRuU"  # no code ahead of it
            if alone and not given[first.end_lineno - 1].partition(";")[2]:
                for i in range(first.lineno - 1, first.end_lineno):
                    lines[i] = ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and lines[token.start[0] - 1]:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    return "\n".join(line.rstrip() for line in lines if line.strip())
