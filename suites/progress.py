"""What the user sees while cells are trained: bars on a terminal, one line a cell elsewhere."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from suites.engine.trial import Job
from suites.launching.attempt import Outcome

SPLITS = {"val": "validation"}


class Display:
    """Progress of a run; a context manager around it."""

    def __init__(self, console: Console, jobs: Sequence[Job], live_dir: Path) -> None:
        self.console, self.jobs = console, {job.cell.key: job for job in jobs}
        self.live_dir = live_dir
        self.ended: Counter[str] = Counter()
        self._begun = time.monotonic()
        self._drawn = 0.0
        self._rows: dict[str, TaskID] = {}
        wide = console.width >= 104  # else what is left matters most
        # of a line for the name of its cell: bar, "epoch 10/20, val 97.5 %" and times need the rest
        self._room = max(16, console.width - (76 if wide else 50))
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24 if wide else 8),
            TextColumn("{task.fields[note]}"),
            *([TimeElapsedColumn()] if wide else []),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        n = len(self.jobs)
        self._total = self._bars.add_task("all cells", total=n, note=f"0/{n}")

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def tick(self) -> None:
        """Redraws the bars of the cells being trained, at most four times a second."""
        now = time.monotonic()
        if not self.console.is_terminal or now - self._drawn < 0.25:
            return
        self._drawn = now
        room = max(1, self.console.height - 4)
        # those at work are few, even where the cells are thousands
        for key in sorted(path.stem for path in self.live_dir.glob("*.json")):
            job, sign = self.jobs.get(key), self._read(key)
            if job is None or sign is None or "step" not in sign:
                continue
            if key not in self._rows and len(self._rows) >= room:
                continue
            val = sign.get("val")
            note = f"epoch {sign['epoch']}/{sign['epochs']}"
            note += "" if val is None else f", val {val:.1f} %"
            if key not in self._rows:
                name = job.label
                if len(name) > self._room:
                    name = name[: self._room - 1] + "\u2026"
                self._rows[key] = self._bars.add_task(name, total=sign["steps"], note=note)
            self._bars.update(self._rows[key], completed=sign["step"], note=note)

    def _read(self, key: str) -> dict[str, Any] | None:
        try:
            sign: dict[str, Any] = json.loads((self.live_dir / f"{key}.json").read_text())
            return sign
        except (OSError, ValueError):
            return None

    def say(self, text: str) -> None:
        """Something the user should know, above the bars."""
        self.console.print(text, markup=False, highlight=False)

    def end(self, job: Job, outcome: Outcome) -> None:
        """One cell has ended."""
        self.ended[outcome.status] += 1
        done = sum(self.ended.values())
        row = self._rows.pop(job.cell.key, None)
        if row is not None:
            self._bars.remove_task(row)
        self._bars.update(self._total, completed=done, note=f"{done}/{len(self.jobs)}")
        for warning in outcome.warnings:
            self.console.print(f"warning: {job.label}: {warning}", markup=False, style="yellow")
        text = f"[{done}/{len(self.jobs)}] {job.label}: {outcome.status}"
        if (accuracy := outcome.accuracies_pct.get(job.told)) is not None:
            text += f", {accuracy:.2f} % on {SPLITS.get(job.told, job.told)}"
        if outcome.reason:
            text += f" ({outcome.reason})"
        if outcome.status == "failed" and job.log.is_file():
            text += f", more in {job.log}"
        self.console.print(
            f"{text}, {time.monotonic() - self._begun:.0f} s since the start",
            markup=False,
            highlight=False,
            style=None if outcome.status == "ok" else "red",
        )
