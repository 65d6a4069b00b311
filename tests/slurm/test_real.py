"""Sweeps on a real Slurm of two pretend nodes: nothing lost, nothing run twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from results.store import Store
from slurm.arrays import Arrays, Task
from slurm.site import Site
from suites.images import sample
from suites.launching import local
from tests.slurm.cluster import Cluster
from tests.slurm.works import Note

ROOT = Path(__file__).parents[2]
PLUGINS = str(Path(__file__).with_name("plugins.py"))
SMALL = ["--cpus", "1", "--memory-gb", "1", "--pack-minutes", "0"]
SLEEPY = ["--methods", "sleepy", "--plugin", PLUGINS, "--architectures", "mlp-2x500"]
PATIENCE_S = 240
HELD = [*SLEEPY, "--epochs", "80"]  # six minutes while it is held, seconds when it is let go


def command(module: str, *arguments: str, suite: str = "table1") -> list[str]:
    return [sys.executable, "-m", f"suites.{module}", suite, *arguments]


@pytest.fixture
def environment(slurm: Cluster) -> dict[str, str]:
    return {**os.environ, **slurm.environment}


@pytest.fixture(autouse=True)
def no_jobs_are_left(slurm: Cluster) -> Iterator[None]:
    yield
    slurm.run("scancel", "--signal=KILL", f"--user={os.getuid()}")
    slurm.run("scancel", f"--user={os.getuid()}")
    until("the queue is empty", lambda: not slurm.run("squeue", "-h"))


def until(what: str, true: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE_S
    while not (found := true()):
        if time.monotonic() > end:
            state = "\n".join(running.state() for running in Cluster.running)
            pytest.fail(f"still waiting after {PATIENCE_S} s: {what}\n{state}")
        time.sleep(0.2)
    return found


def run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400
    )


def records(folder: Path, suite: str = "table1") -> dict[str, dict[str, Any]]:
    """The finished records, by key; every file must be whole."""
    store = Store(folder)
    plan = store.read_plan(suite)
    assert plan is not None
    found = store.read(cell["key"] for cell in plan["cells"])
    assert not found.unreadable
    return found.records


def numbers(found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All of records that is no time, place or memory."""
    return {
        key: {
            "status": record["status"],
            "metrics": record["metrics"],
            "curves": {k: v for k, v in record["curves"].items() if k != "train_s"},
            "cost": record["cost"],
            "code": record["code_sha"],
        }
        for key, record in found.items()
    }


def arrays(folder: Path) -> list[dict[str, Any]]:
    paths = (folder / "slurm/arrays").glob("*/array.json")
    return [json.loads(path.read_text()) for path in paths]


def diaries(folder: Path) -> list[dict[str, Any]]:
    """What each job says of its course, each new start after a requeue apart."""
    paths = sorted((folder / "slurm/arrays").glob("*/*.diary.json"))
    return [json.loads(path.read_text()) for path in paths]


def ends_of_jobs(folder: Path) -> Counter[str | None]:
    return Counter(said.get("end") for said in diaries(folder))


def logs(folder: Path) -> str:
    return "\n".join(p.read_text() for p in (folder / "slurm/arrays").glob("*/*_log.out"))


@pytest.fixture
def held(environment: dict[str, str], tmp_path: Path) -> Path:
    """While this file exists, "sleepy" cells go no further than their second half."""
    path = tmp_path / "hold"
    path.touch()
    environment["BPFREE_TEST_HOLD"] = str(path)
    return path


@contextlib.contextmanager
def following(
    arguments: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that follows its jobs, and no longer than the test does."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            arguments, env=environment, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def at_work(folder: Path) -> dict[str, dict[str, Any]]:
    """Cells in the second half of their training: key -> what their worker says."""
    return {
        key: sign
        for key, sign in Store(folder).live().items()
        if "step" in sign and sign["step"] > sign["steps"] / 2
    }


def job_of(folder: Path, key: str, slurm: Cluster) -> str:
    """The task that a cell is in, as scancel wants it."""
    queue = slurm.run("squeue", "-h", "-r", "-t", "running", "-o", "%j %F %K %i")
    for name, array, task, number in (line.split() for line in queue.splitlines()):
        said = json.loads((folder / "slurm/arrays" / name / "array.json").read_text())
        if key in said["keys"][int(task) if task.isdigit() else 0]:
            return number if not task.isdigit() else f"{array}_{task}"
    raise LookupError(key)


def seconds_run(job: str, slurm: Cluster) -> int:
    """How long a job has been running."""
    text = slurm.run("squeue", "-h", "-j", job, "-o", "%M")  # [[hours:]minutes:]seconds
    return sum(int(n) * 60**i for i, n in enumerate(reversed(text.strip().split(":"))))


def nodes_at_work(folder: Path, slurm: Cluster) -> set[str]:
    """The nodes on which cells are trained."""
    found = set()
    for key in at_work(folder):
        with contextlib.suppress(LookupError):
            found.add(slurm.run("squeue", "-h", "-j", job_of(folder, key, slurm), "-o", "%N"))
    return {name.strip() for name in found}


# ------------------------------------------------------------------------------- sweeps


def test_records_equal_those_of_the_local_launcher(
    slurm: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    """Metric for metric, over two nodes, and the page is built."""
    what = ["--methods", "backprop", "hff", "ff", "greedy-sim", "--epochs", "2", "--seeds", "1"]
    workers = ["--workers", str(local.usable_cores())]  # of one thread each, as the jobs are
    here = run(
        command("run", *what, *workers, "--results-dir", str(tmp_path / "here"),
                "--report-dir", str(tmp_path / "page-here")),
        environment,
    )  # fmt: skip
    assert here.returncode == 0, here.stderr
    there = run(
        command("run", *what, "--launcher", "slurm", "--cpus", "2", "--side-by-side", "2",
                "--pack-minutes", "0.4", "--results-dir", str(tmp_path / "there"),
                "--report-dir", str(tmp_path / "page")),
        environment,
    )  # fmt: skip
    assert there.returncode == 0, there.stdout + there.stderr
    one, two = records(tmp_path / "here"), records(tmp_path / "there")
    assert len(one) == 7 and numbers(one) == numbers(two)
    assert all(record["environment"]["slurm"] for record in two.values())
    assert {r["environment"]["git_commit"] for r in (one | two).values()} == {
        r["environment"]["git_commit"] for r in one.values()
    }
    assert {said["host"] for said in diaries(tmp_path / "there")} == {"n1", "n2"}
    assert (tmp_path / "page/table1/index.html").exists()


def test_each_job_has_gpus_of_its_own(
    slurm: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four at once on the two nodes with two each, by any flag."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    for flag in ("gres", "gpus-per-node"):
        notes = [tmp_path / f"{flag}-{n}" for n in range(4)]
        site = Site(gpus=1, gpu_flag=flag, cpus=1, memory_gb=0.5)
        tasks = [Task((path.name,), Note(path)) for path in notes]
        Arrays(tmp_path / "slurm").submit(tasks, site, ROOT, {})
        until("all have noted theirs", lambda notes=notes: all(path.exists() for path in notes))
        time.sleep(0.5)
        found = sorted(path.read_text() for path in notes)
        assert found == ["n1 0", "n1 1", "n2 0", "n2 1"]


def test_cut_capped_and_submitted_twice_at_once(
    slurm: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    """Arrays longer than allowed are cut, two jobs run at a time, every cell starts once."""
    results = tmp_path / "results"
    what = [*SLEEPY, *SMALL, "--seeds", "6", "--epochs", "1", "--at-once", "2",
            "--results-dir", str(results)]  # fmt: skip
    most, over = 0, threading.Event()

    def sample() -> None:
        nonlocal most
        while not over.wait(0.2):
            most = max(most, len(slurm.run("squeue", "-h", "-r", "-t", "running").splitlines()))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        both = [
            subprocess.Popen(command("submit", *what), env=environment, cwd=ROOT,
                             stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]  # fmt: skip
        said = [process.communicate(timeout=120)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert sorted(text.splitlines()[1].split(" in ")[0] for text in said) == [
            "submitted 0 cells", "submitted 6 cells",
        ]  # fmt: skip
        status = run(command("status", "--results-dir", str(results)), environment)
        assert status.returncode == 1 and "queued" in status.stdout
        until("all jobs have ended", lambda: not slurm.run("squeue", "-h"))
    finally:
        over.set()
        sampler.join()
    assert sorted(len(array["keys"]) for array in arrays(results)) == [2, 4]
    assert most == 2
    found = records(results)
    assert [record["status"] for record in found.values()] == ["ok"] * 6
    assert [record["sessions"] for record in found.values()] == [1] * 6
    status = run(command("status", "--results-dir", str(results)), environment)
    assert status.returncode == 0 and "6 of 6 cells ok" in status.stdout
    again = run(command("submit", *what), environment)
    assert again.returncode == 0 and "submitted 0 cells" in again.stdout


def test_cells_that_do_not_end_well(
    slurm: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    """They are told of with state, last words and log, and stop no other cell of their job."""
    results = tmp_path / "results"
    done = run(
        command("run", "--launcher", "slurm", "--plugin", PLUGINS, "--methods", "raises",
                "diverges", "hungry", "sleepy", "--architectures", "mlp-2x500", "--seeds", "1",
                "--epochs", "2", "--cpus", "1", "--results-dir", str(results), "--report-dir",
                str(tmp_path / "page")),
        environment,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    states = {record["cell"]["method"]: record["status"] for record in records(results).values()}
    assert states == {"raises": "failed", "diverges": "diverged", "hungry": "oom", "sleepy": "ok"}
    assert len(arrays(results)) == 1  # one job, and none of them was tried again
    status = run(command("status", "--results-dir", str(results)), environment)
    page = (tmp_path / "page/table1/index.html").read_text()
    for words in ("half of it is enough", "not finite at step", "allocate memory", "logs/"):
        assert words in status.stdout and words in page, words
    assert "1 of 4 cells ok" in status.stdout


def test_cancelled_and_gone_on_with(
    slurm: Cluster, environment: dict[str, str], held: Path, tmp_path: Path
) -> None:
    """`suites.cancel` ends the jobs and those who follow them; submitting again goes on."""
    results = tmp_path / "results"
    what = [*HELD, *SMALL, "--seeds", "2", "--results-dir", str(results)]
    submit = command("submit", *what, "--wait")
    with following(submit, environment, tmp_path / "log") as follower:
        until("both train", lambda: len(at_work(results)) == 2)
        done = run(command("cancel", "--results-dir", str(results)), environment)
        assert done.returncode == 0 and done.stdout.startswith("2 jobs cancelled"), done.stderr
        assert follower.wait(60) == 1
    until("the jobs have ended", lambda: not slurm.run("squeue", "-h"))
    assert not [r for r in records(results).values() if r["status"] == "killed"]
    held.unlink()
    again = run(submit, environment)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {record["sessions"] for record in records(results).values()} == {2}


def test_faults_lose_nothing(
    slurm: Cluster, environment: dict[str, str], held: Path, tmp_path: Path
) -> None:
    """A node lost, jobs cancelled, preempted, too long, killed; the submitter killed, too.

    All cells end ok, none is trained to its end twice, and all numbers are those of a run in peace.
    """
    results, log = tmp_path / "results", tmp_path / "log"
    what = [*HELD, "--seeds", "6", "--checkpoint-every", "2"]
    there = [*what, *SMALL, "--partition", "low", "--warning-s", "30", "--minutes", "20",
             "--results-dir", str(results), "--wait"]  # fmt: skip
    with following(command("submit", *there), environment, tmp_path / "first.log"):
        until("two jobs train", lambda: len(at_work(results)) >= 2)
    with following(command("submit", *there), environment, log) as follower:
        until("four jobs train", lambda: len(at_work(results)) == 4)
        begun = list(at_work(results).items())
        jobs = {key: job_of(results, key, slurm) for key, _ in begun}
        (long, _), (cancelled, _), (killed, sign), *_ = begun
        # whole minutes from its start, one of them at least from now: it has to be warned first
        minutes = 2 + seconds_run(jobs[long], slurm) // 60
        slurm.run("scontrol", "update", f"jobid={jobs[long]}", f"TimeLimit={minutes}")
        slurm.run("scancel", jobs[cancelled])
        os.kill(int(str(sign["process"]).partition(":")[0]), signal.SIGKILL)
        until("one is out of time", lambda: ends_of_jobs(results)["requeued"])
        slurm.run("scontrol", "update", f"jobid={jobs[long]}", "TimeLimit=20")
        until("others are at work", lambda: len(at_work(results).keys() - {killed, cancelled}) >= 3)
        # preempted: a job of the better partition wants a whole node
        slurm.run("sbatch", "--partition=main", "--exclusive", "--nodelist=n1",
                  "--output=/dev/null", "--wrap=sleep 3")  # fmt: skip
        until("two more were put back", lambda: ends_of_jobs(results)["requeued"] >= 3)
        until("three are at work again", lambda: len(at_work(results)) >= 3)
        also_cancelled = next(iter(at_work(results)))
        slurm.run("scancel", job_of(results, also_cancelled, slurm))
        until("a cell trains on n2", lambda: "n2" in nodes_at_work(results, slurm))
        slurm.fail_node("n2")
        slurm.run("scontrol", "update", "NodeName=n2", "State=DOWN", "Reason=test")
        time.sleep(2)
        slurm.start_node("n2")
        slurm.run("scontrol", "update", "NodeName=n2", "State=RESUME")
        held.unlink()
        assert follower.wait(500) == 0, log.read_text()

    here = tmp_path / "here"
    workers = ["--workers", str(local.usable_cores()), "--results-dir", str(here)]
    peace = run(
        command("run", *what, *workers, "--report-dir", str(tmp_path / "page")), environment
    )
    assert peace.returncode == 0, peace.stderr
    found = records(results)
    assert numbers(found) == numbers(records(here)) and len(found) == 6
    assert "in vain" not in logs(results)
    accidents = [
        json.loads(path.read_text()) for path in (results / "records").glob("*.killed-*.json")
    ]
    assert any(r["key"] == killed and "SIGKILL" in r["reason"] for r in accidents)
    assert any(r["key"] == cancelled and "CANCELLED" in r["reason"] for r in accidents)
    assert sum("CANCELLED" in r["reason"] for r in accidents) == 2
    ends = ends_of_jobs(results)
    assert ends["requeued"] >= 3, ends  # two preempted, and one out of time
    # who lost its node could not say so
    assert any(said["host"] == "n2" and "end" not in said for said in diaries(results))
    assert all(found[key]["sessions"] > 1 for key in (long, cancelled, killed, also_cancelled))


def test_a_cell_on_two_nodes(
    slurm: Cluster, environment: dict[str, str], held: Path, tmp_path: Path
) -> None:
    """One process on each; it is put back into the queue in the middle of an epoch.

    It goes on bit for bit, with the photographs of that epoch that are left.
    """
    what = [*SLEEPY, "--datasets", "digit-photos-32px-jpeg-c10", "--data-dir",
            str(sample.make(tmp_path / "data")), "--epochs", "40", "--ranks", "2"]  # fmt: skip
    results, here = tmp_path / "results", tmp_path / "here"
    there = ["--results-dir", str(results), "--nodes", "2", "--cpus", "1", "--minutes", "5"]
    submit = command("submit", *what, *there, "--wait", suite="table4")
    with following(submit, environment, tmp_path / "log") as follower:
        (key,) = until("it trains", lambda: at_work(results))
        running = slurm.run("squeue", "-h", "-t", "running", "-o", "%N").split()
        slurm.run("scancel", "--signal=USR2", job_of(results, key, slurm))
        until("it is put back", lambda: ends_of_jobs(results)["requeued"])
        kept = torch.load(results / f"checkpoints/{key}.pt", weights_only=True)["progress"]
        held.unlink()
        assert follower.wait(240) == 0, logs(results)
    where = ["--results-dir", str(here), "--report-dir", str(tmp_path / "page")]
    peace = run(command("run", *what, *where, suite="table4"), environment)
    assert peace.returncode == 0, peace.stderr
    found = records(results, "table4")
    assert kept["step"] % 28 != 0  # of the 28 mini-batches of an epoch
    assert running == ["n[1-2]"] and found[key]["sessions"] == 2
    assert found[key]["environment"]["processes"] == 2
    assert numbers(found) == numbers(records(here, "table4"))
    assert [said["end"] for said in diaries(results)] == ["requeued", "done"]


def test_a_waiting_job_runs_the_code_of_its_submission(
    slurm: Cluster, environment: dict[str, str], tmp_path: Path
) -> None:
    """A plug-in edited, and removed, while its job waits."""
    results, plugin = tmp_path / "results", tmp_path / "mine.py"
    text = Path(PLUGINS).read_text()
    plugin.write_text(text)
    what = ["--plugin", str(plugin), "--methods", "sleepy", "--architectures", "mlp-2x500",
            "--seeds", "1", "--epochs", "1", *SMALL, "--results-dir", str(results)]  # fmt: skip
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    try:
        assert run(command("submit", *what), environment).returncode == 0
        plugin.unlink()
    finally:
        slurm.run("scontrol", "update", "PartitionName=main", "State=UP")
    until("the cell is on record", lambda: records(results))
    (record,) = records(results).values()
    assert record["status"] == "ok", record["error"]


def test_without_srun_a_job_is_warned_all_the_same(
    slurm: Cluster, environment: dict[str, str], held: Path, tmp_path: Path
) -> None:
    results, site = tmp_path / "results", tmp_path / "site.toml"
    site.write_text("use_srun = false\n")
    what = [*HELD, *SMALL, "--seeds", "1", "--site", str(site), "--results-dir", str(results)]
    assert run(command("submit", *what), environment).returncode == 0
    (key,) = until("training has begun", lambda: at_work(results))
    slurm.run("scancel", "--batch", "--signal=USR2", job_of(results, key, slurm))
    until("it is put back", lambda: ends_of_jobs(results)["requeued"])
    held.unlink()
    until("the cell is on record", lambda: records(results))
    (record,) = records(results).values()
    assert record["status"] == "ok" and record["sessions"] == 2
