"""Suites: what is compared, how one cell of it is run, and the command line."""

import os
import sys
from types import TracebackType


def _without_trace(
    kind: type[BaseException], error: BaseException, at: TracebackType | None
) -> None:
    """Ctrl-C while torch is still being imported: no program is there yet that could handle it."""
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, at)
    sys.stderr.write("interrupted\n")
    sys.stderr.flush()
    os._exit(130)


if sys.argv[:1] == ["-m"]:  # `python -m suites.run`, and not a program that imports this
    sys.excepthook = _without_trace
