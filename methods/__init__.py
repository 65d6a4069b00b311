"""Methods: learning rules over a stack of blocks. Needs torch and nothing above it."""

from methods.base import Method, Task, Traits
from methods.blocks import Block, Blocks, BlockStyle
from methods.registry import (
    METHODS,
    PluginError,
    load_builtin,
    load_entry_points,
    load_file,
    plugin,
    register,
)

__all__ = [
    "METHODS",
    "Block",
    "BlockStyle",
    "Blocks",
    "Method",
    "PluginError",
    "Task",
    "Traits",
    "load_builtin",
    "load_entry_points",
    "load_file",
    "plugin",
    "register",
]
