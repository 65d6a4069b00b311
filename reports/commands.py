"""Commands of a plan, told anew: without some of their flags, or of another program."""

from __future__ import annotations

import shlex
from collections.abc import Collection

PLACES = ("--results-dir", "--report-dir")  # where results and page of that one run went


def without(command: str, flags: Collection[str]) -> list[str]:
    """The words of a command without some flags and the one value of each.

    Raises:
        ValueError: it is not as a shell would read it.
    """
    words, kept = iter(shlex.split(command)), []
    for word in words:
        if word in flags:
            next(words, None)
        elif word.partition("=")[0] not in flags:
            kept.append(word)
    return kept
