"""A pretend Slurm of shell scripts, for what needs no cluster; and the real one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.slurm import cluster

SCRIPTS = {
    "sbatch": """
[ -e refuse ] && { cat refuse >&2; exit 1; }
n=$(( $(cat last 2>/dev/null || echo 100) + 1 )); echo $n > last
cp "$OLDPWD/$1" submitted/$n 2>/dev/null || cp "$1" submitted/$n
echo "Submitted batch job $n"
""",
    "srun": "exit 0",
    "squeue": "echo x >> asked; cat queue 2>/dev/null; exit 0",
    "scontrol": """
case "$1 $2" in
"show config") echo "MaxArraySize            = $(cat largest 2>/dev/null || echo 1001)" ;;
"requeue "*) echo "$2" >> requeued; [ ! -e no_requeue ] ;;
"--oneliner show") cat jobs 2>/dev/null ;;
esac
""",
    "scancel": 'echo "$@" >> cancelled',
    "sacct": '[ -e accounts ] && cat accounts || { echo "accounting is disabled" >&2; exit 1; }',
}


@dataclass(frozen=True)
class Fake:
    """The pretend Slurm; its commands read and write files of `folder`."""

    folder: Path

    def says(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def heard(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def scripts(self) -> list[str]:
        """The batch scripts that were submitted, in order."""
        files = sorted(self.folder.glob("submitted/*"), key=lambda p: int(p.name))
        return [path.read_text() for path in files]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    folder = tmp_path / "fake-slurm"
    (folder / "bin").mkdir(parents=True)
    (folder / "submitted").mkdir()
    for name, body in SCRIPTS.items():
        path = folder / "bin" / name
        path.write_text(f'#!/bin/sh\nOLDPWD=$PWD; cd "{folder}"\n{body}\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return Fake(folder)


@pytest.fixture(scope="session")
def slurm() -> Iterator[cluster.Cluster]:
    """Two nodes of 2 cores, two fake GPUs each, arrays of at most 4 tasks.

    BPFREE_SLURM_ACCOUNTING=1 gives it accounting.
    """
    accounting = os.environ.get("BPFREE_SLURM_ACCOUNTING") == "1"
    lacking = cluster.missing(accounting)
    if lacking:
        if os.environ.get("BPFREE_REQUIRE_SLURM") == "1":
            pytest.fail(f"BPFREE_REQUIRE_SLURM=1, but there is no {lacking[0]}")
        pytest.skip(f"needs a SLURM on this machine: no {', '.join(lacking)}")
    with cluster.Cluster(2, 2, 2, largest_array=5, accounting=accounting) as running:
        yield running
