"""A sweep of 100,000 cells: planning it, loading its records, building its report.

    make bench

The records are made up from one; each work runs in a process of its own, as a user would run it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from methods import METHODS
from results.store import Store
from suites.engine.plugins import load_methods
from suites.request import expand
from suites.tables.table1 import SUITE

SEEDS = 5000  # 95,000 cells, in 20 places of which one is not supported
REFERENCE = Path(__file__).parent.parent / "results" / "reference" / "records"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a record for every cell."""
    load_methods([])
    folder = tmp_path_factory.mktemp("sweep")
    store = Store(folder)
    store.prepare()
    request = expand(SUITE, "quick", "python -m suites.run table1", seeds=SEEDS)
    store.write_plan(request.plan)
    template = json.loads(next(iter(sorted(REFERENCE.glob("*.json")))).read_text())
    rng = random.Random(0)
    for wanted in request.wanted:
        cell = wanted.cell
        record = template | {"key": cell.key, "cell": cell.identity(), "code_sha": cell.code_sha()}
        readouts = METHODS[cell.method].traits.readouts
        some = next(iter(template["metrics"]["test"].values()))
        record["metrics"] = {
            split: {name: some | {"accuracy_pct": 90 + rng.gauss(0, 1)} for name in readouts}
            for split in ("val", "test")
        }
        (store.records_dir / f"{cell.key}.json").write_text(json.dumps(record, indent=1))
    return folder


def timed(benchmark: Any, program: str, *arguments: str) -> tuple[float, float]:
    """Seconds and peak GiB of a Python program in a process of its own."""

    def run() -> tuple[float, float]:
        start = time.perf_counter()
        quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        command = [sys.executable, *program.split(), *arguments]
        pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=quiet)
        _, status, used = os.wait4(pid, 0)  # getrusage has the largest of all children so far
        assert os.waitstatus_to_exitcode(status) == 0
        return time.perf_counter() - start, used.ru_maxrss / 2**20

    seconds, gib = benchmark.pedantic(run, rounds=1, iterations=1)
    print(f"\n{program}: {seconds:.1f} s, {gib:.2f} GiB")
    return seconds, gib


def test_planning(store: Path, benchmark: Any) -> None:
    """At most 10 s and 2 GiB."""
    seconds, gib = timed(benchmark, f"-m suites.run table1 --seeds {SEEDS} --dry-run --results-dir",
                         str(store))  # fmt: skip
    assert seconds <= 10 and gib <= 2


def test_loading(store: Path, benchmark: Any) -> None:
    """At most 10 s without a cache, 2 s from it; imports are left out."""
    program = (
        "import sys, time, pandas, pyarrow.parquet; from results.frame import load\n"
        "for _ in range(2):\n"
        "    start = time.perf_counter(); load(sys.argv[1]); print(time.perf_counter() - start)"
    )

    def run() -> list[float]:
        done = subprocess.run([sys.executable, "-c", program, str(store)], check=True,
                              capture_output=True, text=True)  # fmt: skip
        return [float(line) for line in done.stdout.split()]

    cold, cached = benchmark.pedantic(run, rounds=1, iterations=1)
    print(f"\nloading: {cold:.1f} s, from the cache {cached:.2f} s")
    assert cold <= 10 and cached <= 2


def test_building_the_report(store: Path, benchmark: Any, tmp_path: Path) -> None:
    """At most 20 s."""
    seconds, _ = timed(benchmark, "-m reports.build table1 --results-dir", str(store),
                       "--report-dir", str(tmp_path))  # fmt: skip
    assert seconds <= 20
