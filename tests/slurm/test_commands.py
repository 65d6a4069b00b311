"""The commands for clusters, on a machine that has none and on a pretend one."""

from __future__ import annotations

from pathlib import Path

import pytest

from results.store import Store
from suites import cancel, run, submit
from tests.slurm.conftest import Fake


def test_a_missing_slurm_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    results = tmp_path / "r"
    Store(results).write_plan({"suite": "table1", "cells": []})
    for module, more in ((submit, []), (run, ["--launcher", "slurm"]), (cancel, [])):
        with pytest.raises(SystemExit) as end:
            module.main(["table1", *more, "--results-dir", str(results)])
        said = capsys.readouterr().err
        assert end.value.code == 2 and said.count("\n") == 1, module
        assert said.startswith("error: no sbatch on this machine"), said
    assert not (results / "slurm").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["table1", "--site", "/no/such.toml"], ["site file /no/such.toml cannot be read"]),
        (["table1", "--cpus", "0"], ["cpus must be at least 1"]),
        (["table1", "--minutes", "1"], ["warning_s = 120", "1 minutes"]),
        (["table2", "--side-by-side", "2"], ["--side-by-side 2", "one cell at a time"]),
        (["table1", "--nodes", "2"], ["--nodes 2", "--ranks 1"]),
        (["table1", "--ranks", "2", "--gpus", "1"], ["--ranks 2", "there are 1"]),
        (["table1", "--gpus", "2"], ["jobs get 2 GPUs", "cells would use 1"]),
        (["tabel1"], ["unknown suite 'tabel1'", "table1"]),
    ],
)
def test_wrong_requests(
    arguments: list[str], words: list[str], fake: Fake, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as end:
        submit.main([*arguments, "--results-dir", str(tmp_path)])
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1
    assert all(word in said for word in words), said
    assert not fake.scripts()


def test_a_cell_in_two_places_is_one_here_and_on_a_cluster(
    fake: Fake, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Backprop that is fine-tuned "by itself" is backprop fine-tuned by backprop."""
    what = ["table3", "--methods", "backprop", "--finetune", "itself", "backprop", "--seeds", "1",
            "--results-dir", str(tmp_path)]  # fmt: skip
    for module in (run, submit):
        assert module.main([*what, "--dry-run"]) == 0
        assert "2 cells in 4 places, 2 to do" in capsys.readouterr().out
    assert submit.main(what) == 0
    assert "2 cells in 4 places, 0 on record" in capsys.readouterr().out


def test_cancel_takes_whole_arrays_and_no_other_suites(
    fake: Fake, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A waiting task that is cancelled alone would be forgotten by Slurm."""
    what = ["--methods", "hff", "--results-dir", str(tmp_path), "--pack-minutes", "0"]
    assert submit.main(["table1", *what, "--seeds", "2"]) == 0
    assert submit.main(["audit", *what]) == 0
    names = {
        path.parent.name: "audit" in path.read_text()
        for path in (tmp_path / "slurm/arrays").glob("*/array.json")
    }
    for name, audit in names.items():
        job = 102 if audit else 101
        with open(fake.folder / "queue", "a") as file:
            file.write(f"{job}|0|RUNNING|n1|None|{name}\n{job}|1|PENDING||None|{name}\n")
    capsys.readouterr()
    assert cancel.main(["table1", "--results-dir", str(tmp_path)]) == 0
    assert fake.heard("cancelled") == ["101"]
    assert capsys.readouterr().out.startswith("2 jobs cancelled")
    fake.says("queue", "")
    assert cancel.main(["table1", "--results-dir", str(tmp_path)]) == 0
    assert "no job of table1" in capsys.readouterr().out


def test_cancel_of_nothing(fake: Fake, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        cancel.main(["table1", "--results-dir", str(tmp_path)])
    assert end.value.code == 2 and "no request of 'table1'" in capsys.readouterr().err
