"""Arrays on a pretend Slurm: how they are cut, capped, known and asked after."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurm import queue
from slurm.arrays import Arrays, Task
from slurm.frozen import freeze
from slurm.queue import SlurmError
from slurm.site import Site
from tests.slurm.conftest import Fake


@dataclass(frozen=True)
class Nothing:
    def __call__(self) -> None:
        pass


def tasks(n: int) -> list[Task]:
    return [Task((f"key{i}",), Nothing()) for i in range(n)]


def option(script: str, name: str) -> str | None:
    found = re.search(rf"^#SBATCH --{name}=(.*)$", script, flags=re.MULTILINE)
    return found[1].strip("'\"") if found else None


def test_a_long_array_is_cut(tmp_path: Path, fake: Fake) -> None:
    fake.says("largest", "5")  # Slurm's number is one more than the length
    jobs = Arrays(tmp_path).submit(tasks(10), Site(), tmp_path, {})
    assert jobs == ["101", "102", "103"]
    sizes = [option(script, "array") for script in fake.scripts()]
    assert sizes == ["0-3%4", "0-3%4", "0-1%2"]
    known = Arrays(tmp_path).read()
    assert [k for array in known for keys in array.keys for k in keys] == [
        f"key{i}" for i in range(10)
    ]
    assert [array.job for array in known] == jobs
    Arrays(tmp_path).submit(tasks(4), Site(array_size=3), tmp_path, {})  # shorter than allowed
    assert [option(script, "array") for script in fake.scripts()[3:]] == ["0-2%3", None]


def test_a_cap_holds_over_all_arrays(tmp_path: Path, fake: Fake) -> None:
    """Each waits for those before it, for Slurm's own cap is one of an array."""
    fake.says("largest", "5")
    Arrays(tmp_path).submit(tasks(10), Site(at_once=2), tmp_path, {}, behind=["90"])
    scripts = fake.scripts()
    assert [option(script, "array") for script in scripts] == ["0-3%2", "0-3%2", "0-1%2"]
    assert [option(script, "dependency") for script in scripts] == [
        "afterany:90", "afterany:90:101", "afterany:90:101:102",
    ]  # fmt: skip


def test_a_refusal_is_one_line_and_leaves_nothing(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.says(
        "refuse",
        "sbatch: error: invalid partition specified: nope\n"
        "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
    )
    with pytest.raises(SlurmError, match="Invalid partition name specified"):
        Arrays(tmp_path).submit(tasks(2), Site(partition="nope"), tmp_path, {})
    assert Arrays(tmp_path).read() == []
    assert capsys.readouterr().err == ""


def test_jobs_are_known_before_they_are_submitted(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submitter that is killed between sbatch and its next line has not lost them."""
    folder = Arrays(tmp_path)
    folder.submit(tasks(3), Site(), tmp_path, {"suite": "table1"})
    path = next(tmp_path.glob("arrays/*/array.json"))
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "job": None}))
    (array,) = folder.read()
    fake.says("queue", f"101|1|RUNNING|n1|None|{array.name}\n101|2|PENDING||Priority|{array.name}\n"
              f"101|0|COMPLETED|n1|None|{array.name}\n102|N/A|RUNNING|n1|None|other\n")  # fmt: skip
    alive = {place: entry for place, entry in folder.entries([array]).items() if entry.alive}
    assert {task: entry.state for (_, task), entry in alive.items()} == {
        1: "RUNNING", 2: "PENDING",
    }  # fmt: skip
    assert alive[array.name, 2].waiting and not alive[array.name, 1].waiting


def test_a_job_in_between_is_alive(tmp_path: Path, fake: Fake) -> None:
    """For a moment, a job that Slurm puts back after a lost node is shown as NODE_FAIL."""
    fake.says(
        "queue",
        "1|0|NODE_FAIL|n1|x|a\n1|1|CANCELLED|n1|x|a\n1|2|REQUEUED||x|a\n9|N/A|RUNNING|n1|x|a|b\n\nand\n",
    )
    found = {entry.task: entry.alive for entry in queue.entries(["a"])}
    assert found == {0: True, 1: False, 2: True}


def test_how_jobs_ended(fake: Fake) -> None:
    fake.says("jobs", "JobId=9 ArrayJobId=5 ArrayTaskId=1 JobState=TIMEOUT ExitCode=0:15 "
              "NodeList=n2\nJobId=6 JobState=CANCELLED ExitCode=0:0 NodeList=(null)\n")  # fmt: skip
    assert queue.fates(["5", "6"]) == {
        ("5", 1): "TIMEOUT on n2, exit status 0:15", ("6", 0): "CANCELLED",
    }  # fmt: skip
    fake.says("accounts", "5_1|OUT_OF_MEMORY|0:125|n1\n6|CANCELLED by 0|0:0|None assigned\n")
    assert queue.fates(["5", "6"]) == {
        ("5", 1): "OUT_OF_MEMORY on n1, exit status 0:125", ("6", 0): "CANCELLED by 0",
    }  # fmt: skip
    # the rest of an array that waits in one piece is no task
    fake.says("accounts", "5_0|TIMEOUT|0:0|n1\n5_[2-9%2]|PENDING|0:0|None assigned\n")
    assert queue.fates(["5"]) == {("5", 0): "TIMEOUT on n1"}
    (fake.folder / "accounts").unlink()
    fake.says("jobs", "No jobs in the system\n")
    assert queue.fates(["5"]) == {}


def test_without_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match="no sbatch on this machine"):
        queue.require()
    assert not queue.here()


def test_a_job_may_submit_jobs(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own limits, in variables, are not those of the new ones."""
    script = fake.folder / "bin" / "sbatch"
    script.write_text(f"#!/bin/sh\nenv > {fake.folder}/env\n" + script.read_text())
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CONF", "/its/conf")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")  # a default of the user's
    for account in ("", "lab"):
        Arrays(tmp_path).submit(tasks(1), Site(account=account), tmp_path, {})
        heard = fake.heard("env")
        assert "SLURM_CONF=/its/conf" in heard and "SLURM_MEM_PER_CPU=100" not in heard
        assert "SBATCH_TIMELIMIT=1" not in heard
        assert ("SBATCH_ACCOUNT=mine" in heard) != bool(account)  # it would win over the site's


def test_frozen_copies(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "inner").mkdir(parents=True)
    (package / "inner" / "__init__.py").touch()
    (package / "runs" / "old").mkdir(parents=True)
    (package / "runs" / "old" / "copy.py").write_text("no source of this package")
    (package / "__init__.py").write_text("x = 1\n")
    (package / "inner" / "a.py").write_text("y = 1\n")
    (package / "notes.txt").write_text("no code")
    one = freeze([package], {"said.json": "{}"}, tmp_path / "code")
    assert sorted(str(p.relative_to(one)) for p in one.rglob("*") if p.is_file()) == [
        "package/__init__.py", "package/inner/__init__.py", "package/inner/a.py", "said.json",
    ]  # fmt: skip
    assert freeze([package], {"said.json": "{}"}, tmp_path / "code") == one
    (package / "inner" / "a.py").write_text("y = 2\n")
    two = freeze([package], {"said.json": "{}"}, tmp_path / "code")
    assert two != one and (one / "package/inner/a.py").read_text() == "y = 1\n"
    assert [p.name for p in (tmp_path / "code").iterdir() if p.name.startswith(".")] == []
