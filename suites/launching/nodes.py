"""The other nodes of a job, where a cell is trained by processes of several machines together.

The job runs one task on each of its nodes. The first one has the cells; the others help: they start
the processes that they are asked for, and tell how these end. They find the first one by a file
that it leaves on the file system of all.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, wait
from pathlib import Path
from typing import Any

from results.files import write_atomically
from suites.launching import group
from suites.launching.group import LOST

PATIENCE_S = 300.0  # nodes of one job start together, give or take a slow file system


class OutOfReach(Exception):
    """The nodes of a job do not find each other; the message says which, and where."""


class Node:
    """Another node, as the first one sees it.

    Attributes:
        connection: by which it is asked, and tells.
        codes: of the processes that it has started last, as their `exitcode`; LOST where it is
            gone.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.codes: list[int | None] = []
        self._asked = 0

    def start(self, part: group.Part) -> None:
        """Has it start processes."""
        self.codes = [None] * len(part.ranks)
        self._ask(part)

    def end(self) -> None:
        """Has it kill those that are left."""
        self._ask(None)

    def hear(self) -> None:
        """Takes in what it has told."""
        try:
            while self.connection.poll():
                asked, codes = self.connection.recv()
                if asked == self._asked and codes:
                    self.codes = codes
        except (EOFError, OSError):
            self.codes = [LOST] * len(self.codes)

    def _ask(self, part: group.Part | None) -> None:
        self._asked += 1
        with contextlib.suppress(OSError):  # it is gone, which is noticed in hearing
            self.connection.send((self._asked, part))


def gather(meeting: Path, n: int, stop: Callable[[], bool]) -> list[Node]:
    """In the first node: waits for all others.

    Args:
        meeting: the file to leave for them.
        n: how many they are.
        stop: asked several times a second; True ends the waiting, with fewer.

    Raises:
        OutOfReach: they have not come within PATIENCE_S.
    """
    key = secrets.token_bytes(16)
    listener = Listener(("", 0), authkey=key)
    nodes: list[Node] = []

    def accept() -> None:
        while len(nodes) < n:
            with contextlib.suppress(OSError, EOFError, AuthenticationError):
                nodes.append(Node(listener.accept()))
        listener.close()

    threading.Thread(target=accept, daemon=True).start()
    said = {"address": group.address(), "port": listener.address[1], "key": key.hex()}
    write_atomically(meeting, json.dumps(said), mode=0o600)
    begun = time.monotonic()
    while len(nodes) < n and not stop():
        if time.monotonic() - begun > PATIENCE_S:
            where = f"{said['address']}, port {said['port']}"
            raise OutOfReach(
                f"{len(nodes)} of {n} other nodes have reached this one at {where}, within "
                f"{PATIENCE_S:.0f} s: does the cluster let its nodes connect?"
            )
        time.sleep(0.05)
    return list(nodes)


def assist(meeting: Path, over: Callable[[], bool]) -> None:
    """In another node: does what the first one asks for, until the job is over.

    The first one may come more than once: its process is replaced when it has met an error.

    Args:
        over: asked about once a second.
    """
    last, told = None, ""
    while not over():
        said = _read(meeting)
        if said is None or said == last:
            time.sleep(0.2)
            continue
        try:
            first = Client((said["address"], said["port"]), authkey=bytes.fromhex(said["key"]))
        except (OSError, EOFError, AuthenticationError) as error:
            why = f"{said['address']}, port {said['port']}: {error}"
            if why != told:  # it may be there the next time
                sys.stderr.write(f"the first node is not reached at {why}\n")
                sys.stderr.flush()
            told = why
            time.sleep(0.5)
            continue
        last = said
        with first, contextlib.suppress(OSError, EOFError):
            _serve(first, over)


def _read(meeting: Path) -> dict[str, Any] | None:
    try:
        said: dict[str, Any] = json.loads(meeting.read_text())
    except (OSError, ValueError):
        return None
    return said


def _serve(first: Connection, over: Callable[[], bool]) -> None:
    """Returns, or raises EOFError, when the first node is gone or the job is over."""
    asked, processes, told = 0, [], []  # type: ignore[var-annotated]
    try:
        while not over():
            wait([first, *(p.sentinel for p in processes if p.exitcode is None)], timeout=1.0)
            if first.poll():
                asked, part = first.recv()
                _kill(processes)
                processes = group.start(part) if part is not None else []
            codes = [process.exitcode for process in processes]
            if codes != told:
                first.send((asked, codes))
                told = codes
    finally:
        _kill(processes)


def _kill(processes: Sequence[Any]) -> None:
    for process in processes:
        process.kill()
        process.join()
