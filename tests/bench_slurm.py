"""What planning, submitting and looking cost at 10,000 cells, on a Slurm that only pretends.

make bench
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.slurm.conftest import Fake, fake  # noqa: F401, a fixture

ROOT = Path(__file__).parents[1]
CELLS = ["table1", "--methods", "hff", "--architectures", "mlp-2x500", "--seeds", "10000"]


def timed(words: str, *command: str) -> float:
    """Seconds of a command, which must say these words."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert words in done.stdout, done.stderr
    return time.perf_counter() - begun


def test_ten_thousand_cells(tmp_path: Path, fake: Fake, benchmark: Any) -> None:  # noqa: F811
    """Submission at most 60 s, status at most 5 s and with one question to the queue."""
    where = ("--results-dir", str(tmp_path / "results"))
    # one job each, in 10 arrays
    submit = benchmark.pedantic(
        timed,
        args=("10000 cells", "suites.submit", *CELLS, *where, "--pack-minutes", "0"),
        rounds=1,
    )
    arrays = sorted((tmp_path / "results/slurm/arrays").iterdir())
    fake.says(
        "queue",
        "".join(f"{100 + i}|{n}|PENDING||Priority|{a.name}\n"
                for i, a in enumerate(arrays) for n in range(1000)),
    )  # fmt: skip
    asked = len(fake.heard("asked"))
    status = timed("10000 queued", "suites.status", "table1", *where)
    print(f"\nsubmit {submit:.1f} s, status {status:.1f} s, {len(fake.scripts())} arrays")
    benchmark.extra_info |= {"submit_s": submit, "status_s": status}
    assert len(fake.scripts()) == 10
    assert len(fake.heard("asked")) - asked == 1
    assert submit <= 60
    assert status <= 5
