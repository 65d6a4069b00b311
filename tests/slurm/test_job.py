"""A job's start, warnings and end."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slurm.job import Shift, read_diary
from tests.slurm.conftest import Fake


@dataclass
class Count:
    """Counts to three in a file; sends its own process a signal at one of the numbers."""

    path: Path
    warned_at: int = 9
    number: int = signal.SIGUSR2
    steps: bool = True
    abandoned: list[str] = field(default_factory=list)

    def __call__(self) -> None:
        for n in range(self._count() + 1, 4):
            if n == self.warned_at:
                os.kill(os.getpid(), self.number)
                time.sleep(5)  # a signal is dealt with between two instructions
            if self.steps:
                self.path.write_text(str(n))

    def _count(self) -> int:
        return int(self.path.read_text()) if self.path.exists() else 0

    def progress(self) -> object:
        return self._count()

    def abandon(self, reason: str) -> None:
        self.path.with_suffix(".abandoned").write_text(reason)


@pytest.fixture(autouse=True)
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    before = {n: signal.getsignal(n) for n in (signal.SIGUSR2, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def shift(work: Count, minutes: float = 60) -> Shift:
    return Shift(pickle.dumps(work), work.path.parent, 0, minutes)


def ends(folder: Path) -> list[Any]:
    return [json.loads(p.read_text())["end"] for p in sorted(folder.glob("0.*.diary.json"))]


def test_work_that_ends(tmp_path: Path, fake: Fake) -> None:
    shift(Count(tmp_path / "n"))()
    assert (tmp_path / "n").read_text() == "3" and ends(tmp_path) == ["done"]
    assert not fake.heard("requeued")


def warned() -> None:
    """Any callable will do for work."""
    os.kill(os.getpid(), signal.SIGUSR2)
    time.sleep(5)


def test_any_callable(tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    Shift(pickle.dumps(time.time), tmp_path, 0, 60)()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with pytest.raises(SystemExit):
        Shift(pickle.dumps(warned), tmp_path, 0, 60)()
    assert ends(tmp_path) == ["done", "requeued"]


def test_a_warned_job_goes_back_into_the_queue_and_on(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its own number, without a result, whatever its time limit."""
    with pytest.raises(SystemExit) as end:
        shift(Count(tmp_path / "n", warned_at=2), minutes=1)()
    assert not end.value.code
    assert (tmp_path / "n").read_text() == "1" and fake.heard("requeued") == ["7"]
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    shift(Count(tmp_path / "n"))()
    assert (tmp_path / "n").read_text() == "3" and ends(tmp_path) == ["requeued", "done"]


def test_a_task_of_an_array_is_requeued_alone(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "12")
    with pytest.raises(SystemExit):
        shift(Count(tmp_path / "n", warned_at=2))()
    assert fake.heard("requeued") == ["5_12"]


def test_a_cancelled_job_stays_out(tmp_path: Path, fake: Fake) -> None:
    shift(Count(tmp_path / "n", warned_at=2, number=signal.SIGTERM))()
    assert not fake.heard("requeued") and ends(tmp_path) == ["stopped"]


def test_a_job_that_cannot_requeue_says_so(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.says("no_requeue", "")
    with pytest.raises(SystemExit):
        shift(Count(tmp_path / "n", warned_at=2))()
    assert ends(tmp_path) == ["stopped"] and "submit again" in capsys.readouterr().err


def test_no_progress_in_full_shifts_ends(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not where a job was preempted early, however often."""
    work = Count(tmp_path / "n", warned_at=1, steps=False)
    for restart in range(3):  # early in the limit
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        with pytest.raises(SystemExit):
            shift(work)()
    for restart in (3, 4):  # at its end
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        last = shift(work, minutes=1e-6)
        if restart == 3:
            with pytest.raises(SystemExit):
                last()
        else:
            last()
    assert len(fake.heard("requeued")) == 4 and ends(tmp_path)[-1] == "abandoned"
    assert "no progress in 2 jobs" in (tmp_path / "n.abandoned").read_text()


def test_work_that_raises_is_no_good_end(tmp_path: Path, fake: Fake) -> None:
    broken = Shift(b"no pickle", tmp_path, 0, 60)
    with pytest.raises(pickle.UnpicklingError):
        broken()
    assert ends(tmp_path) == ["failed"]


def test_a_diary_without_an_end_is_as_old_as_its_last_touch(tmp_path: Path) -> None:
    path = tmp_path / "0.0.diary.json"
    path.write_text(json.dumps({"started": 100.0}))
    os.utime(path, (160, 160))
    said = read_diary(path)
    assert said is not None and said["seen"] - said["started"] == 60
    assert read_diary(tmp_path / "none") is None
