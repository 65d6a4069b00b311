"""Where methods are registered and found: our files, entry points, a path on the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from methods.base import Method
from methods.space import Choice, check_space

ENTRY_POINT_GROUP = "bpfree.methods"

METHODS: dict[str, type[Method]] = {}


class PluginError(Exception):
    """A file or entry point that cannot be used as a method; the message says why."""


def register(cls: type[Method]) -> type[Method]:
    """Class decorator: makes a method known under its `name`.

    Raises:
        PluginError: another class has that name, or the class lacks a required attribute.
    """
    for attribute in ("name", "label", "version", "source", "traits", "Config"):
        if not hasattr(cls, attribute):
            raise PluginError(f"method {cls.__qualname__} does not set `{attribute}`")
    if not dataclasses.is_dataclass(cls.Config):
        raise PluginError(f"{cls.__qualname__}.Config must be a (frozen) dataclass")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", cls.name):  # a word of the command line
        raise PluginError(
            f"{cls.name!r} is no name for a method: small letters, digits and hyphens"
        )
    fields = dataclasses.fields(cls.Config)
    for field in fields:
        if field.default is field.default_factory is dataclasses.MISSING:
            raise PluginError(f"{cls.Config.__qualname__}.{field.name} needs a default")
    if not isinstance(cls.traits.readouts, tuple):
        raise PluginError(f"{cls.__qualname__}: traits.readouts must be a tuple, as in ('last',)")
    try:
        space, defaults = f"{cls.__qualname__}.space", cls.Config()
        check_space(space, cls.space, dataclasses.asdict(defaults))
        for name, values in cls.space.items():
            default = getattr(defaults, name)
            if isinstance(values, Choice) and not values.holds(default):
                raise ValueError(f"{space}[{name!r}] lacks the default, {default!r}")
    except ValueError as error:
        raise PluginError(str(error)) from error
    old = METHODS.setdefault(cls.name, cls)
    if old is not cls:
        raise PluginError(f"method name {cls.name!r} is already taken by {old.__module__}")
    return cls


def load_builtin() -> None:
    """Imports every file of this folder, so that one new file is one new method."""
    package = importlib.import_module("methods")
    for module in pkgutil.iter_modules(package.__path__):
        try:
            importlib.import_module(f"methods.{module.name}")
        except ImportError as error:
            raise PluginError(f"methods/{module.name}.py does not import: {error}") from error


def load_entry_points() -> None:
    """Imports what other installed packages offer in the group `bpfree.methods`."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry.load()
        except Exception as error:
            raise PluginError(
                f"entry point {entry.value!r} ({ENTRY_POINT_GROUP}): {error}"
            ) from error


def load_file(path: Path | str) -> list[str]:
    """Imports a Python file and returns the names of the methods it registered.

    Raises:
        PluginError: no such file, it does not import, or it has neither a method nor a SUITE.
    """
    module = plugin(path)
    found = _registered_by(module.__name__)
    if not found and not hasattr(module, "SUITE"):
        raise PluginError(
            f"plugin {module.__file__} registers no method: decorate its class with @register "
            "(a file with a table of your own defines SUITE)"
        )
    return found


def plugin(path: Path | str) -> ModuleType:
    """The module of a Python file, imported once.

    Raises:
        PluginError: no such file, or it does not import.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise PluginError(f"plugin file {path} does not exist")
    # two files of one name in two folders are two modules
    place = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    module_name = f"bpfree_plugin_{path.stem}_{place}"
    known = sys.modules.get(module_name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        for name in _registered_by(module_name):
            del METHODS[name]
        frame = frame_in(path, error)
        where = f", line {frame.lineno}" if frame else ""
        raise PluginError(f"plugin {path}{where}: {type(error).__name__}: {error}") from error
    return module


def _registered_by(module_name: str) -> list[str]:
    return [name for name, cls in METHODS.items() if cls.__module__ == module_name]


def frame_in(path: Path | str, error: Exception) -> traceback.FrameSummary | None:
    """The innermost place in a file that an exception came through, or None."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame for frame in reversed(frames) if frame.filename == str(path)), None)
