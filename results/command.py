"""What all command lines share: errors of one line and exit status 2."""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose epilog stays as it is written."""

    def __init__(self, **options: Any) -> None:
        if "description" in options:
            width = shutil.get_terminal_size().columns - 2
            options["description"] = textwrap.fill(options["description"], width)
        # no short forms: --seed for --seeds would mean something else than it says
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options
        )

    def error(self, message: str) -> NoReturn:
        if unknown := re.match(r"unrecognized arguments: (--[\w-]+)", message):
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            close = closest(unknown[1], flags)
            message += f"; did you mean {close}?" if close else ""
        fail(f"{message} (python -m {self.prog.removeprefix('python -m ')} --help explains)")


def fail(message: str) -> NoReturn:
    """Ends the program with one line and exit status 2."""
    raise SystemExit(refuse(message))


def refuse(message: str) -> int:
    """Says in one line what is wrong with a request; returns exit status 2."""
    sys.stderr.write(f"error: {one_line(message)}\n")
    return 2


def warn(message: str) -> None:
    """One line, and the program goes on."""
    sys.stderr.write(f"warning: {one_line(message)}\n")


def closest(name: str, known: Iterable[str], alike: float = 0.6) -> str:
    """The known name that was probably meant, or "" where none is alike enough (0 to 1)."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=alike)), "")


def one_line(text: str) -> str:
    """The text without line breaks, for people who read logs."""
    return " ".join(text.split())


def trouble(error: OSError) -> str:
    """'results/runs: Permission denied'."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"
