"""Suites: what is compared, how one cell of it is run, and the command line."""

import importlib.util
import os
import signal
import sys
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    """Ctrl-C while torch is still being imported: no program is there yet that could handle it.

    An exception would not do: it is raised wherever the import is, and some code there keeps it.
    """
    sys.stderr.write("interrupted\n")
    sys.stderr.flush()
    os._exit(130)


# in `python -m suites.run`, and not in a program that imports this; see command.exit_with
if sys.argv[:1] == ["-m"] and importlib.util.find_spec("torch") is None:
    sys.stderr.write(
        f"error: {sys.executable} has no torch: `make setup` installs all that is needed into "
        ".venv, and `source .venv/bin/activate` takes it from there\n"
    )
    raise SystemExit(2)
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
