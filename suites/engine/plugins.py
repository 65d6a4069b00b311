"""All methods there are: ours, those of installed packages, those in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from methods import METHODS, load_builtin, load_entry_points, load_file
from suites.engine import sources


def load_methods(plugins: Sequence[Path | str]) -> list[str]:
    """Registers all methods: ours, installed ones, those in files. Returns the names not ours.

    Raises:
        PluginError: a plug-in that cannot be used.
    """
    load_builtin()
    ours = set(METHODS)
    load_entry_points()
    for plugin in plugins:
        load_file(plugin)
    for cls in METHODS.values():
        for kind in sources.ROOTS:  # now, before the files can be edited under a running sweep
            sources.method_sha(kind, cls)
    return [name for name in METHODS if name not in ours]
