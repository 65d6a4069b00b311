"""Leases: the file `live/<key>.json` says who is at work on a cell, and how far they are.

One lease a cell keeps two runs of the same suite from training the same cell twice. A lease whose
process is gone is taken over: on the same machine when the process no longer exists, from another
machine when the file has not been renewed for two minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

from results.files import write_atomically

FOREIGN_TIMEOUT_S = 120.0
BEAT_S = 15.0
RENEW_S = 0.5


class Lease:
    """The right to work on one cell, kept alive by a thread until it is released."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self._about = {"host": platform.node(), "process": process_id(os.getpid()), **about}
        self._renewed = 0.0
        self._over = threading.Event()

    def acquire(self) -> bool:
        """True when the cell is ours; False when somebody alive is at work on it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(10):
            try:
                handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
                with os.fdopen(handle, "w") as file:
                    json.dump({**self._about, "at": time.time()}, file)
                threading.Thread(target=self._beat, daemon=True).start()
                return True
            except FileExistsError:
                if not self._clear_if_abandoned():
                    return False
        return False

    def _clear_if_abandoned(self) -> bool:
        """Removes a dead lease; False when it is alive."""
        try:
            text = self.path.read_text()
            age_s = time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return True
        try:
            owner = json.loads(text)
        except ValueError:  # being written this moment, or torn by a crash
            owner = None
        if is_alive(owner, age_s):
            return False
        # Rename first, look again, then delete: between reading and removing, another process
        # may have taken the dead lease over, and its fresh one must survive.
        aside = self.path.with_name(f".{self.path.name}.{platform.node()}.{os.getpid()}")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return True
        try:
            if aside.read_text() != text:
                os.link(aside, self.path)
                return False
        except FileExistsError:
            return False
        finally:
            aside.unlink(missing_ok=True)
        return True

    def _beat(self) -> None:
        """Shows other machines that we live, while data is loaded or a long evaluation runs."""
        while not self._over.wait(BEAT_S):
            with contextlib.suppress(OSError):
                if self.is_ours():
                    os.utime(self.path)

    def is_ours(self) -> bool:
        """Whether the file still names us, and not somebody who thought us dead."""
        try:
            owner = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return False
        return all(owner.get(name) == self._about[name] for name in ("host", "process"))

    def renew(self, **progress: Any) -> bool:
        """Writes progress into the lease, at most twice a second.

        Returns:
            False when somebody else has taken the cell over: stop working on it. Trouble with the
            file system is no reason to stop.
        """
        now = time.monotonic()
        if now - self._renewed < RENEW_S:
            return True
        self._renewed = now
        try:
            if self.path.exists() and not self.is_ours():
                return False
            write_atomically(self.path, json.dumps({**self._about, **progress, "at": time.time()}))
        except OSError:
            pass
        return True

    def release(self) -> None:
        """Gives the cell back, if it is still ours."""
        self._over.set()
        with contextlib.suppress(OSError):
            if self.is_ours():
                self.path.unlink(missing_ok=True)


def is_alive(owner: Any, age_s: float) -> bool:
    """Whether the process that wrote a lease, renewed age_s seconds ago, still works on it."""
    if not isinstance(owner, dict) or "process" not in owner:
        return age_s < 5.0
    if owner.get("host") == platform.node():
        pid = str(owner["process"]).partition(":")[0]
        return pid.isdigit() and process_id(int(pid)) == owner["process"]
    return age_s < FOREIGN_TIMEOUT_S


def process_id(pid: int) -> str | None:
    """pid and start time of a running process, "4711:88214"; None when there is none.

    The start time tells a process from a later one that was given the same number.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else f"{pid}:{fields[19]}"
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except OSError:
        return None
    try:  # a system without /proc: the number has to do
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return f"{pid}:"
