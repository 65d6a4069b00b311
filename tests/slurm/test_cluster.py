"""Cells on a pretend cluster: what is submitted, and what becomes of jobs that say nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from results.store import Store
from slurm.arrays import Array, Arrays
from slurm.site import Site
from suites import submit, table1
from suites.cluster import Cluster, cancel
from suites.engine import engine, local
from suites.engine.trial import Job
from suites.request import expand
from tests.slurm.conftest import Fake

local.load_methods([])


@pytest.fixture
def cluster(tmp_path: Path, fake: Fake) -> Cluster:
    """Six cells, two to a job."""
    request = expand(
        table1.SUITE, "quick", "the command", ["hff", "ff"], architectures=["mlp-2x500"], seeds=3
    )
    store = Store(tmp_path / "results")
    store.prepare()
    jobs = [
        Job(w.cell, str(w), "table1", "quick", "the command", store.root) for w in request.wanted
    ]
    return Cluster(store, "table1", jobs, Site(cpus=2, pack_minutes=0.8), (), {"digits": 1294})


def only(cluster: Cluster) -> Array:
    (array,) = cluster.arrays.read()
    return array


def diary(array: Array, task: int, restart: int = 0, **said: Any) -> None:
    path = array.folder / f"{task}.{restart}.diary.json"
    path.write_text(json.dumps({"started": 0.0, "host": "n1", **said}))


def show(fake: Fake, array: Array, *states: str) -> None:
    lines = [f"{array.job}|{n}|{s}|n1|None|{array.name}" for n, s in enumerate(states) if s]
    fake.says("queue", "\n".join(lines) + "\n")


def finish(cluster: Cluster, keys: list[str], status: str = "ok", reason: str = "") -> None:
    for key in keys:
        cluster.store.publish(engine.accident(cluster.jobs[key], status, reason))


def statuses(cluster: Cluster) -> dict[str, str]:
    return {k: r["status"] for k, r in cluster.store.read(cluster.jobs).records.items()}


def test_what_is_on_record_or_in_the_queue_is_not_submitted(cluster: Cluster, fake: Fake) -> None:
    keys = list(cluster.jobs)
    finish(cluster, keys[:1])
    assert cluster.submit() == (5, 3, 0)
    array = only(cluster)
    assert sorted(map(len, array.keys)) == [1, 2, 2]
    show(fake, array, "RUNNING", "PENDING", "PENDING")
    assert cluster.submit() == (0, 0, 5)
    assert len(fake.scripts()) == 1
    assert array.about["suite"] == "table1" and array.about["command"] == "the command"


def test_a_job_that_vanished_leaves_records(cluster: Cluster, fake: Fake) -> None:
    """With its state, and its last words, for the cells it was at; the others only go on."""
    cluster.submit()
    array = only(cluster)
    at_work, waiting = array.keys[0]
    (cluster.store.live_dir / f"{at_work}.json").write_text("{}")  # nobody released it
    diary(array, 0)
    array.log(0).write_text("line 1\nthe last words\n")
    fake.says("accounts", f"{array.job}_0|OUT_OF_MEMORY|0:125|n1\n")
    show(fake, array, "", "RUNNING", "RUNNING")
    assert cluster.submit().cells == 2
    assert set(cluster.arrays.read()[-1].keys[0]) == {at_work, waiting}
    assert statuses(cluster) == {at_work: "oom"}
    record = cluster.store.read([at_work]).records[at_work]
    assert record["reason"] == f"Slurm job {array.job}_0: OUT_OF_MEMORY on n1, exit status 0:125"
    assert "the last words" in record["error"] and record["log"] == str(array.log(0))


def test_ends_without_record_that_are_no_accident(cluster: Cluster, fake: Fake) -> None:
    """Ended in good order, or came further and could not put itself back into the queue."""
    cluster.submit()
    array = only(cluster)
    diary(array, 0, end="done", ended=1.0, advanced=True)
    diary(array, 1, end="stopped", ended=1.0, advanced=True)
    diary(array, 2, end="stopped", ended=1.0, advanced=False)
    show(fake, array, "COMPLETED", "TIMEOUT", "TIMEOUT")
    assert cluster.submit().cells == 6
    assert statuses(cluster) == dict.fromkeys(array.keys[2], "timeout")


def test_a_cancelled_job_is_an_accident(cluster: Cluster, fake: Fake) -> None:
    cluster.submit()
    array = only(cluster)
    diary(array, 0, end="stopped", ended=1.0, advanced=True)
    fake.says("accounts", f"{array.job}_0|CANCELLED by 0|0:0|n1\n")
    show(fake, array, "", "RUNNING", "RUNNING")
    cluster.submit()
    assert statuses(cluster) == dict.fromkeys(array.keys[0], "killed")


def test_each_end_is_looked_into_once(cluster: Cluster, fake: Fake) -> None:
    """A cell that is submitted again is not given the accident of before a second time."""
    cluster.submit()
    first = only(cluster)
    assert cluster.submit().cells == 6  # all vanished
    assert set(statuses(cluster).values()) == {"killed"}
    second = cluster.arrays.read()[-1]
    assert second.name != first.name
    show(fake, second, "RUNNING", "RUNNING", "RUNNING")
    assert cluster.submit().cells == 0
    assert len(list(cluster.store.records_dir.glob("*.killed-*.json"))) == 6


def test_a_submitter_killed_ahead_of_sbatch_is_no_accident(cluster: Cluster, fake: Fake) -> None:
    cluster.submit()
    array = only(cluster)
    path = array.folder / "array.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "job": None}))
    assert cluster.submit().cells == 6 and statuses(cluster) == {}


def test_cells_of_others_are_left_alone(cluster: Cluster, fake: Fake) -> None:
    """A second request for some of the cells, while a job of the first has them in its pack."""
    cluster.submit()
    array = only(cluster)
    part = Cluster(cluster.store, "table1", [cluster.jobs[array.keys[0][0]]], cluster.site, (), {})
    show(fake, array, "PENDING", "PENDING", "PENDING")
    assert part.submit().cells == 0


def test_packs_follow_what_is_known(cluster: Cluster, fake: Fake) -> None:
    """A seed that took long is taken for the measure of the others."""
    key = next(iter(cluster.jobs))
    record = engine.accident(cluster.jobs[key], "ok", "")
    record["timings"] |= {"train_s": 600.0, "eval_s": 0.0}
    cluster.store.publish(record)
    cluster.submit()
    method = cluster.jobs[key].cell.method
    array = only(cluster)
    alone = [keys for keys in array.keys if cluster.jobs[keys[0]].cell.method == method]
    assert all(len(keys) == 1 for keys in alone) and len(alone) == 2


def test_following_tries_again_and_gives_up(
    cluster: Cluster, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed cells a bounded number of times, failed ones not at all."""
    monkeypatch.setattr("suites.cluster.LOOK_S", 0.0)
    hours = map(str, range(10**6))  # accidents of a cell are some time apart
    monkeypatch.setattr("suites.engine.engine.now", lambda: next(hours))
    keys = list(cluster.jobs)
    finish(cluster, keys[:1], "failed", "of an earlier day")
    ended: dict[str, str] = {}
    n_looks = 0

    def tick() -> None:
        """Every job ends at once: three cells well, one with an error, two by kills."""
        nonlocal n_looks
        n_looks += 1
        arrays = cluster.arrays.read()
        for array in arrays:
            for n, cells in enumerate(array.keys):
                if n in array.settled or (array.folder / f"{n}.0.diary.json").exists():
                    continue
                done = [key for key in cells if key in keys[:4]]
                finish(cluster, [key for key in done if key != keys[3]])
                finish(cluster, [key for key in done if key == keys[3]], "failed", "an error")
                if len(done) == len(cells):
                    diary(array, n, end="done", ended=1.0, advanced=True)
                else:
                    for key in cells:
                        (cluster.store.live_dir / f"{key}.json").write_text("{}")
                    diary(array, n)
        fake.says("queue", "")

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    times = iter(range(10**9))
    monkeypatch.setattr("time.monotonic", lambda: next(times) * 0.5)
    cluster.follow(
        lambda job, outcome: ended.update({job.cell.key: outcome.status}), tick, print, 2
    )
    assert ended == {
        **dict.fromkeys(keys[:3], "ok"), keys[3]: "failed", **dict.fromkeys(keys[4:], "killed"),
    }  # fmt: skip
    for key in keys[4:]:
        assert len(list(cluster.store.records_dir.glob(f"{key}.killed-*.json"))) == 3


def test_following_ends_when_somebody_cancels(
    cluster: Cluster, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def tick() -> None:
        (cluster.arrays.folder / "table1.cancelled").touch()

    cluster.follow(lambda job, outcome: None, tick, print, 2)
    assert len(fake.scripts()) == 1


def test_a_cap_counts_earlier_submissions(tmp_path: Path, cluster: Cluster, fake: Fake) -> None:
    part = list(cluster.jobs.values())
    site = Site(cpus=2, pack_minutes=0.8, at_once=2)
    Cluster(cluster.store, "table1", part[:2], site).submit()
    show(fake, only(cluster), "RUNNING")
    Cluster(cluster.store, "table1", part, site).submit()
    first, second = fake.scripts()
    assert "dependency" not in first and "#SBATCH --dependency=afterany:101" in second


def test_an_innocent_cell_is_not_accused(cluster: Cluster, fake: Fake) -> None:
    """A request for one cell of a pack whose job died at the other one."""
    cluster.submit()
    array = only(cluster)
    culprit, innocent = array.keys[0]
    (cluster.store.live_dir / f"{culprit}.json").write_text("{}")
    diary(array, 0)
    show(fake, array, "OUT_OF_MEMORY", "RUNNING", "RUNNING")
    Cluster(cluster.store, "table1", [cluster.jobs[innocent]], cluster.site).submit()
    assert statuses(cluster) == {}
    second = cluster.arrays.read()[-1]
    with open(fake.folder / "queue", "a") as file:
        file.write(f"{second.job}|N/A|PENDING||None|{second.name}\n")
    cluster.submit()
    assert statuses(cluster) == {culprit: "oom"}


def test_cancelled_jobs_are_not_submitted_by_those_who_follow(cluster: Cluster, fake: Fake) -> None:
    cluster._cancels = cluster._cancel_mark()
    cluster.submit()
    show(fake, only(cluster), "RUNNING", "RUNNING", "RUNNING")
    assert cancel(cluster.store, "table1") == 3
    fake.says("queue", "")
    assert cluster.submit().cells == 0 and statuses(cluster) == {}


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
