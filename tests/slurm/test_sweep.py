"""Cells on a pretend sweep: what is submitted, and what becomes of jobs that say nothing."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path
from typing import Any

import pytest

from results.lease import Lease
from results.store import Store
from slurm.arrays import Array, Arrays
from slurm.queue import SlurmError
from slurm.site import Site
from suites import submit
from suites.cluster import packing
from suites.cluster.accidents import accidents, came_from_outside
from suites.cluster.packing import packs
from suites.cluster.sweep import Sent, Sweep, cancel
from suites.cluster.work import CellWork
from suites.engine.plugins import load_methods
from suites.engine.trial import Job
from suites.launching import attempt
from suites.request import expand
from suites.tables import table1, table3
from tests.records import make_record
from tests.slurm.conftest import Fake

load_methods([])


@pytest.fixture
def sweep(tmp_path: Path, fake: Fake) -> Sweep:
    """Six cells, two to a job."""
    request = expand(
        table1.SUITE, "quick", "the command", ["hff", "ff"], architectures=["mlp-2x500"], seeds=3
    )
    store = Store(tmp_path / "results")
    store.prepare()
    jobs = [
        Job(w.cell, str(w), "table1", "quick", "the command", store.root) for w in request.wanted
    ]
    return Sweep(store, "table1", jobs, Site(cpus=2, pack_minutes=0.8), (), {"digits": 1294})


def only(sweep: Sweep) -> Array:
    (array,) = sweep.arrays.read()
    return array


def diary(array: Array, task: int, restart: int = 0, **said: Any) -> None:
    path = array.folder / f"{task}.{restart}.diary.json"
    path.write_text(json.dumps({"started": 0.0, "host": "n1", **said}))


def left_behind(sweep: Sweep, key: str, job: str | None = None) -> None:
    """The lease of a process that is gone and did not release it."""
    owner = {"host": platform.node(), "process": "1:0", "slurm_job": job}
    (sweep.store.live_dir / f"{key}.json").write_text(json.dumps(owner))


def show(fake: Fake, array: Array, *states: str) -> None:
    lines = [f"{array.job}|{n}|{s}|n1|None|{array.name}" for n, s in enumerate(states) if s]
    fake.says("queue", "\n".join(lines) + "\n")


def finish(sweep: Sweep, keys: list[str], status: str = "ok", reason: str = "") -> None:
    for key in keys:
        sweep.store.publish(attempt.accident(sweep.jobs[key], status, reason))


def statuses(sweep: Sweep) -> dict[str, str]:
    return {k: r["status"] for k, r in sweep.store.read(sweep.jobs).records.items()}


def test_what_is_on_record_or_in_the_queue_is_not_submitted(sweep: Sweep, fake: Fake) -> None:
    keys = list(sweep.jobs)
    finish(sweep, keys[:1])
    assert sweep.submit() == Sent(5, 3)
    array = only(sweep)
    assert sorted(map(len, array.keys)) == [1, 2, 2]
    show(fake, array, "RUNNING", "PENDING", "PENDING")
    assert sweep.submit() == Sent(queued=5)
    assert len(fake.scripts()) == 1
    assert array.about["suite"] == "table1" and array.about["command"] == "the command"


def test_a_job_that_vanished_leaves_records(sweep: Sweep, fake: Fake) -> None:
    """With its state, and its last words, for the cells it was at; the others only go on."""
    sweep.submit()
    array = only(sweep)
    at_work, waiting = array.keys[0]
    left_behind(sweep, at_work, job="9")  # nobody released it
    diary(array, 0, job="9")
    array.log(0).write_text("line 1\nthe last words\n")
    fake.says("accounts", f"{array.job}_0|OUT_OF_MEMORY|0:125|n1\n")
    show(fake, array, "", "RUNNING", "RUNNING")
    assert sweep.submit().cells == 2
    assert set(sweep.arrays.read()[-1].keys[0]) == {at_work, waiting}
    assert statuses(sweep) == {at_work: "oom"}
    record = sweep.store.read([at_work]).records[at_work]
    assert record["reason"] == f"Slurm job {array.job}_0: OUT_OF_MEMORY on n1, exit status 0:125"
    assert "the last words" in record["error"] and record["log"] == str(array.log(0))


def test_ends_without_record_that_are_no_accident(sweep: Sweep, fake: Fake) -> None:
    """Ended in good order, or came further and could not put itself back into the queue."""
    sweep.submit()
    array = only(sweep)
    diary(array, 0, end="done", ended=1.0, advanced=True)
    diary(array, 1, end="stopped", ended=1.0, advanced=True)
    diary(array, 2, end="stopped", ended=1.0, advanced=False)
    show(fake, array, "COMPLETED", "TIMEOUT", "TIMEOUT")
    assert sweep.submit().cells == 6
    assert statuses(sweep) == dict.fromkeys(array.keys[2], "timeout")


def test_stopped_in_good_order_without_progress_is_an_accident(sweep: Sweep, fake: Fake) -> None:
    """Slurm says COMPLETED of a job that cannot put itself back; it must not go on for ever."""
    sweep.submit()
    array = only(sweep)
    diary(array, 0, end="stopped", ended=1.0, advanced=False)
    diary(array, 1, end="stopped", ended=1.0, advanced=True)
    show(fake, array, "COMPLETED", "COMPLETED", "RUNNING")
    sweep.submit()
    assert statuses(sweep) == dict.fromkeys(array.keys[0], "killed")
    record = sweep.store.read(array.keys[0]).records[array.keys[0][0]]
    assert "before the cell came any further" in record["reason"]


def test_a_cell_at_work_elsewhere_is_neither_submitted_nor_accused(
    sweep: Sweep, fake: Fake
) -> None:
    sweep.submit()
    array = only(sweep)
    lease = Lease(sweep.store.live_dir / f"{array.keys[0][0]}.json", {"slurm_job": None})
    assert lease.acquire()
    diary(array, 0, job="7")  # died at the other cell of its pack
    other = array.keys[0][1]
    left_behind(sweep, other, "7")
    show(fake, array, "", "RUNNING", "RUNNING")
    sent = sweep.submit()
    assert (sent.cells, sent.elsewhere) == (1, 1) and "elsewhere" in str(sent)
    assert statuses(sweep) == {other: "killed"}
    lease.release()


def test_a_job_without_a_diary_accuses_no_run_elsewhere(sweep: Sweep, fake: Fake) -> None:
    """Cancelled while it waited, and its cell is trained on another machine meanwhile."""
    sweep.submit()
    array = only(sweep)
    for key in array.keys[0]:
        left_behind(sweep, key)
    fake.says("accounts", f"{array.job}_0|CANCELLED by 0|0:0|n1\n")
    show(fake, array, "", "RUNNING", "RUNNING")
    lease = Lease(sweep.store.live_dir / f"{array.keys[0][0]}.json", {"slurm_job": None})
    assert lease.acquire()
    sweep.submit()
    lease.release()
    assert statuses(sweep) == {array.keys[0][1]: "killed"}


def test_what_failed_in_a_job_is_not_run_again_by_its_next_start(sweep: Sweep, fake: Fake) -> None:
    """Nor does giving the job up hide why it failed; what was killed goes on."""
    keys = list(sweep.jobs)[:3]
    finish(sweep, keys[:1], "failed", "of an earlier request")
    earlier = sweep.store.read(keys).records
    jobs = tuple(sweep.jobs[key] for key in keys)
    work = CellWork(jobs, 1, (), 1, accidents(earlier), 120)
    assert [job.cell.key for job in work._left()] == keys
    before = work.progress()
    time.sleep(1.1)  # accidents are told apart by the second
    finish(sweep, keys[1:2], "failed", "its own fault")
    finish(sweep, keys[2:], "killed", "somebody's")
    assert [job.cell.key for job in work._left()] == [keys[0], keys[2]]
    assert work.progress() != before
    work.abandon("no progress in 2 jobs in a row")
    found = sweep.store.read(keys).records
    assert [found[key]["status"] for key in keys] == ["timeout", "failed", "timeout"]
    assert not came_from_outside(found[keys[0]]) and work._left() == []


def test_a_folder_that_cannot_be_written_to_is_one_line(sweep: Sweep, fake: Fake) -> None:
    sweep.arrays.folder.write_text("no folder")
    for act in (sweep.submit, lambda: cancel(sweep.store, "table1")):
        with pytest.raises(SlurmError, match=r"cannot be kept: .*slurm"):
            act()


def test_cells_of_one_source_share_a_job_and_its_time(tmp_path: Path) -> None:
    """Apart, all but one would hold their GPUs and wait."""
    request = expand(
        table3.SUITE, "standard", "the command", ["hff"], datasets=["fashion-mnist", "kmnist"],
        sources=["mnist"], architectures=["mlp-3x1000"], seeds=2,
    )  # fmt: skip
    jobs = [Job(w.cell, str(w), "table3", "standard", "", tmp_path) for w in request.wanted]
    found = list(packs(jobs, Site(pack_minutes=0)))
    assert [[job.cell.seed for job in pack] for pack in found] == [[0, 0], [1, 1]]
    apart, second = (packing._guess(jobs[0].cell, Site(), {}, pretrained=p) for p in (False, True))
    assert second < 0.5 * apart


def test_cells_without_training_have_taken_their_time_too() -> None:
    """Audits and costs count no seconds of training; the time that they held a node is known."""
    record = make_record() | {
        "timings": {"train_images_per_s": 1e3, "eval_images_per_s": 1e4},
        "started_at": "2026-03-01T10:00:00+00:00", "finished_at": "2026-03-01T10:05:30+00:00",
    }  # fmt: skip
    assert packing.minutes_of(record) == pytest.approx(packing.START_MINUTES + 5.5)
    assert packing.minutes_of(make_record()) < packing.START_MINUTES + 0.1


def test_jobs_that_wait_for_help_are_named(sweep: Sweep, fake: Fake) -> None:
    sweep.submit()
    array = only(sweep)
    assert sweep._stuck() == ""
    fake.says("queue", f"{array.job}|0|PENDING||JobHeldUser|{array.name}\n")
    assert "1 job (JobHeldUser)" in sweep._stuck()


def test_one_copy_of_the_code_for_all_jobs_of_a_sweep(
    sweep: Sweep, fake: Fake, tmp_path: Path
) -> None:
    """A plug-in may be edited or removed while somebody follows."""
    plugin = tmp_path / "mine.py"
    plugin.write_text("x = 1\n")
    sweep.plugins = [plugin]
    sweep.submit()
    plugin.unlink()
    assert sweep.submit().cells == 6  # all vanished
    assert len(list((sweep.arrays.folder / "code").iterdir())) == 1
    late = Sweep(sweep.store, "table1", list(sweep.jobs.values()), sweep.site, [plugin])
    with pytest.raises(SlurmError, match="cannot be copied"):
        late.submit()


def test_a_cancelled_job_is_an_accident(sweep: Sweep, fake: Fake) -> None:
    sweep.submit()
    array = only(sweep)
    diary(array, 0, end="stopped", ended=1.0, advanced=True)
    fake.says("accounts", f"{array.job}_0|CANCELLED by 0|0:0|n1\n")
    show(fake, array, "", "RUNNING", "RUNNING")
    sweep.submit()
    assert statuses(sweep) == dict.fromkeys(array.keys[0], "killed")


def test_each_end_is_looked_into_once(sweep: Sweep, fake: Fake) -> None:
    """A cell that is submitted again is not given the accident of before a second time."""
    sweep.submit()
    first = only(sweep)
    assert sweep.submit().cells == 6  # all vanished
    assert set(statuses(sweep).values()) == {"killed"}
    second = sweep.arrays.read()[-1]
    assert second.name != first.name
    show(fake, second, "RUNNING", "RUNNING", "RUNNING")
    assert sweep.submit().cells == 0
    assert len(list(sweep.store.records_dir.glob("*.killed-*.json"))) == 6


def test_a_submitter_killed_ahead_of_sbatch_is_no_accident(sweep: Sweep, fake: Fake) -> None:
    sweep.submit()
    array = only(sweep)
    path = array.folder / "array.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "job": None}))
    assert sweep.submit().cells == 6 and statuses(sweep) == {}


def test_cells_of_others_are_left_alone(sweep: Sweep, fake: Fake) -> None:
    """A second request for some of the cells, while a job of the first has them in its pack."""
    sweep.submit()
    array = only(sweep)
    part = Sweep(sweep.store, "table1", [sweep.jobs[array.keys[0][0]]], sweep.site, (), {})
    show(fake, array, "PENDING", "PENDING", "PENDING")
    assert part.submit().cells == 0


def test_packs_follow_what_is_known(sweep: Sweep, fake: Fake) -> None:
    """A seed that took long is taken for the measure of the others."""
    key = next(iter(sweep.jobs))
    record = attempt.accident(sweep.jobs[key], "ok", "")
    record["timings"] |= {"train_s": 600.0, "eval_s": 0.0}
    sweep.store.publish(record)
    sweep.submit()
    method = sweep.jobs[key].cell.method
    array = only(sweep)
    alone = [keys for keys in array.keys if sweep.jobs[keys[0]].cell.method == method]
    assert all(len(keys) == 1 for keys in alone) and len(alone) == 2


def test_following_tries_again_and_gives_up(
    sweep: Sweep, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed cells a bounded number of times, failed ones not at all."""
    monkeypatch.setattr("suites.cluster.sweep.LOOK_S", 0.0)
    hours = map(str, range(10**6))  # accidents of a cell are some time apart
    monkeypatch.setattr("suites.launching.attempt.now", lambda: next(hours))
    keys = list(sweep.jobs)
    finish(sweep, keys[:1], "failed", "of an earlier day")
    ended: dict[str, str] = {}
    n_looks = 0

    def tick() -> None:
        """Every job ends at once: three cells well, one with an error, two by kills."""
        nonlocal n_looks
        n_looks += 1
        arrays = sweep.arrays.read()
        for array in arrays:
            for n, cells in enumerate(array.keys):
                if array.settled.issuperset(cells) or (array.folder / f"{n}.0.diary.json").exists():
                    continue
                done = [key for key in cells if key in keys[:4]]
                finish(sweep, [key for key in done if key != keys[3]])
                finish(sweep, [key for key in done if key == keys[3]], "failed", "an error")
                if len(done) == len(cells):
                    diary(array, n, end="done", ended=1.0, advanced=True)
                else:
                    for key in cells:
                        left_behind(sweep, key)
                    diary(array, n)
        fake.says("queue", "")

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    times = iter(range(10**9))
    monkeypatch.setattr("time.monotonic", lambda: next(times) * 0.5)
    sweep.follow(lambda job, outcome: ended.update({job.cell.key: outcome.status}), tick, print, 2)
    assert ended == {
        **dict.fromkeys(keys[:3], "ok"), keys[3]: "failed", **dict.fromkeys(keys[4:], "killed"),
    }  # fmt: skip
    for key in keys[4:]:
        assert len(list(sweep.store.records_dir.glob(f"{key}.killed-*.json"))) == 3


def test_following_ends_when_somebody_cancels(
    sweep: Sweep, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def tick() -> None:
        (sweep.arrays.folder / "table1.cancelled").write_text("now")

    sweep.follow(lambda job, outcome: None, tick, print, 2)
    assert len(fake.scripts()) == 1


def test_a_cap_counts_earlier_submissions(tmp_path: Path, sweep: Sweep, fake: Fake) -> None:
    part = list(sweep.jobs.values())
    site = Site(cpus=2, pack_minutes=0.8, at_once=2)
    Sweep(sweep.store, "table1", part[:2], site).submit()
    show(fake, only(sweep), "RUNNING")
    Sweep(sweep.store, "table1", part, site).submit()
    first, second = fake.scripts()
    assert "dependency" not in first and "#SBATCH --dependency=afterany:101" in second


def test_an_innocent_cell_is_not_accused(sweep: Sweep, fake: Fake) -> None:
    """A request for one cell of a pack whose job died at the other one."""
    sweep.submit()
    array = only(sweep)
    culprit, innocent = array.keys[0]
    left_behind(sweep, culprit, job="9")
    diary(array, 0, job="9")
    show(fake, array, "OUT_OF_MEMORY", "RUNNING", "RUNNING")
    Sweep(sweep.store, "table1", [sweep.jobs[innocent]], sweep.site).submit()
    assert statuses(sweep) == {}
    second = sweep.arrays.read()[-1]
    with open(fake.folder / "queue", "a") as file:
        file.write(f"{second.job}|N/A|PENDING||None|{second.name}\n")
    sweep.submit()
    assert statuses(sweep) == {culprit: "oom"}


def test_cancelled_jobs_are_not_submitted_by_those_who_follow(sweep: Sweep, fake: Fake) -> None:
    sweep._cancels = sweep._cancel_mark()
    sweep.submit()
    show(fake, only(sweep), "RUNNING", "RUNNING", "RUNNING")
    assert cancel(sweep.store, "table1") == 3
    # one was warned just before, and has put itself back into the queue
    show(fake, only(sweep), "", "PENDING")
    assert cancel(sweep.store, "table1") == 1
    fake.says("queue", "")
    assert sweep.submit().cells == 0 and statuses(sweep) == {}


def test_fresh_cells_must_not_be_in_the_queue(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    what = ["table1", "--methods", "hff", "--seeds", "1", "--results-dir", str(tmp_path / "r")]
    assert submit.main(what) == 0
    (array,) = Arrays(tmp_path / "r/slurm").read()
    show(fake, array, "RUNNING")
    with pytest.raises(SystemExit):
        submit.main([*what, "--fresh"])
    assert "2 cells of these are in the queue" in capsys.readouterr().err
