"""A cell that two processes train together: the same result, and no hang when one dies."""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from results.store import Store
from suites import preflight, run
from suites.catalogue import SUITES
from suites.engine.cell import Cell, Protocol
from suites.engine.plugins import load_methods
from suites.engine.trial import Job
from suites.images import sample
from suites.launching import attempt, group, local, nodes
from suites.request import expand
from suites.suite import RequestError

load_methods([])
READY = functools.partial(local._get_ready, 1, [])


def job(folder: Path, method: str, architecture: str, ranks: int, **protocol: Any) -> Job:
    settings = {"epochs": 2, "batch_size": 64} | protocol
    cell = Cell.of(method, {}, architecture, "digits", Protocol(**settings), 0)
    return Job(cell, "a cell", "table1", "quick", "command", folder, ranks=ranks)


def together(one: Job, stop: Any = lambda: False) -> attempt.Outcome:
    return group.run(one, ["cpu"] * one.ranks, READY, stop)


def record(one: Job) -> dict[str, Any]:
    return Store(one.results_dir).read([one.cell.key]).records[one.cell.key]


@pytest.mark.parametrize(
    ("method", "architecture", "protocol"),
    [
        ("hff", "mlp-2x500", {}),
        ("greedy", "cnn-small", {"augmentation": "crop4"}),  # pairs, batch norm, dropout
        ("layerwise", "mlp-2x500", {}),  # phases, with outputs of frozen blocks kept
    ],
)
def test_two_processes_give_the_result_of_one(
    method: str, architecture: str, protocol: Any, tmp_path: Path
) -> None:
    """Up to rounding, which training makes the most of: losses of the first epoch are close."""
    found = []
    for ranks in (1, 2):
        one = job(tmp_path / str(ranks), method, architecture, ranks, **protocol)
        outcome = attempt.run(one) if ranks == 1 else together(one)
        assert outcome.status == "ok", outcome.reason
        found.append(record(one))
    alone, shared = found
    assert shared["environment"]["processes"] == 2 and alone["key"] == shared["key"]
    losses = [r["curves"]["train_loss"] for r in found]
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    accuracies = [r["metrics"]["test"]["last"]["accuracy_pct"] for r in found]
    assert abs(accuracies[0] - accuracies[1]) <= 1.5
    assert alone["curves"]["epoch"] == shared["curves"]["epoch"] == [1, 2]


def test_stopped_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole = job(tmp_path / "whole", "hff", "mlp-2x500", 2, epochs=20)
    assert together(whole).status == "ok"
    parts = job(tmp_path / "parts", "hff", "mlp-2x500", 2, epochs=20)
    store = Store(parts.results_dir)

    def at_work() -> bool:
        sign = store.live().get(parts.cell.key, {})
        return sign.get("step", 0) >= 5

    assert together(parts, at_work).status == "stopped"
    assert (store.checkpoints_dir / f"{parts.cell.key}.pt").exists()
    assert together(parts).status == "ok"
    one, two = record(whole), record(parts)
    assert two["sessions"] == 2
    assert one["curves"]["train_loss"] == two["curves"]["train_loss"]
    assert one["metrics"] == two["metrics"]


def test_a_checkpoint_that_cannot_be_used_is_set_aside_for_all(tmp_path: Path) -> None:
    one = job(tmp_path, "hff", "mlp-2x500", 2)
    path = Store(tmp_path).checkpoints_dir / f"{one.cell.key}.pt"
    path.parent.mkdir(parents=True)
    path.write_text("no checkpoint")
    assert together(one).status == "ok"
    assert "set aside" in record(one)["warnings"][0]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_cell_with_a_record(
    victim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path, "hff", "mlp-2x500", 2, epochs=500)
    begun = time.monotonic()
    killed = False

    def kill() -> bool:
        nonlocal killed
        children = multiprocessing.active_children()
        if not killed and Store(tmp_path).live().get(one.cell.key, {}).get("step", 0) >= 5:
            killed = True
            names = sorted(children, key=lambda process: process.pid or 0)
            os.kill(names[victim].pid, signal.SIGKILL)  # type: ignore[arg-type]
        return False

    outcome = together(one, kill)
    assert killed and time.monotonic() - begun < 120
    assert outcome.status == "killed"
    assert outcome.reason == f"process {victim + 1} of 2 was killed by SIGKILL"
    assert record(one)["status"] == "killed"
    assert not multiprocessing.active_children()


@pytest.fixture
def other_node(tmp_path: Path) -> Iterator[tuple[Path, Any]]:
    """A process that takes the part of another node, and the file by which it is met."""
    meeting, over = tmp_path / "meeting.json", tmp_path / "over"
    process = multiprocessing.get_context("spawn").Process(
        target=help_out, args=(meeting, over), name="other node"
    )
    process.start()
    yield meeting, process
    over.touch()
    process.join(20)
    assert process.exitcode in (0, -signal.SIGKILL)


def help_out(meeting: Path, over: Path) -> None:
    load_methods([])
    nodes.assist(meeting, over.exists)


def test_two_nodes_give_the_bits_of_one(tmp_path: Path, other_node: tuple[Path, Any]) -> None:
    """With as many processes."""
    alone = job(tmp_path / "one", "hff", "mlp-2x500", 2)
    assert together(alone).status == "ok"
    others = nodes.gather(other_node[0], 1, lambda: False)
    apart = job(tmp_path / "two", "hff", "mlp-2x500", 2)
    outcome = group.run(apart, ["cpu"] * 2, READY, lambda: False, others)
    assert outcome.status == "ok", outcome
    assert record(alone)["curves"]["train_loss"] == record(apart)["curves"]["train_loss"]
    assert record(alone)["metrics"] == record(apart)["metrics"]


@pytest.mark.parametrize("whole_node", [False, True])
def test_a_loss_on_another_node_ends_the_cell_with_a_record(
    whole_node: bool, tmp_path: Path, other_node: tuple[Path, Any]
) -> None:
    meeting, process = other_node
    others = nodes.gather(meeting, 1, lambda: False)
    one = job(tmp_path, "hff", "mlp-2x500", 2, epochs=500)
    killed = False

    def kill() -> bool:
        nonlocal killed
        if not killed and Store(tmp_path).live().get(one.cell.key, {}).get("step", 0) >= 5:
            killed = True
            os.kill(process.pid if whole_node else child_of(process.pid), signal.SIGKILL)
        return False

    outcome = group.run(one, ["cpu"] * 2, READY, kill, others)
    assert killed and outcome.status == "killed"
    assert outcome.reason == "process 2 of 2 " + (
        "is gone with its node, which does not answer any more"
        if whole_node
        else "was killed by SIGKILL"
    )
    assert record(one)["status"] == "killed"
    if not whole_node:  # it is there for the next cell
        again = job(tmp_path, "ff", "mlp-2x500", 2)
        assert group.run(again, ["cpu"] * 2, READY, lambda: False, others).status == "ok"


def child_of(pid: int) -> int:
    """The process that trains, among those that another one has started."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"spawn_main" in (path.parent / "cmdline").read_bytes():
                return int(path.parent.name)
    raise LookupError(pid)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[1]
    what = ["table1", "--methods", "hff", "--architectures", "mlp-2x500", "--seeds", "1",
            "--epochs", "1", "--results-dir", str(tmp_path / "r"), "--report-dir",
            str(tmp_path / "p")]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "suites.run", *what, "--ranks", "2"], cwd=root,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "r/records").glob("*.json")
    assert json.loads(path.read_text())["environment"]["processes"] == 2
    for more, words in (
        (["--ranks", "3"], "a mini-batch of 64"),
        (["--ranks", "0"], "at least 1"),
        (["--ranks", "2", "--execution", "compile"], "does not go with --execution compile"),
    ):
        with pytest.raises(SystemExit) as end:
            run.main([*what, *more])
        assert end.value.code == 2 and words in capsys.readouterr().err


def test_photographs_after_a_kill_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    """SIGKILL to both processes of a cell of table 4; the same command trains on what is left."""
    root = Path(__file__).parents[1]

    def command(folder: Path) -> list[str]:
        return [
            sys.executable, "-m", "suites.run", "table4", "--methods", "backprop",
            "--architectures", "cnn-small", "--datasets", "digit-photos-32px-jpeg-c10",
            "--epochs", "3", "--ranks", "2", "--checkpoint-every", "0", "--device", "cpu",
            "--data-dir", str(sample.make(tmp_path / "data")),
            "--results-dir", str(folder), "--report-dir", str(folder / "report"),
        ]  # fmt: skip

    def result(folder: Path) -> dict[str, Any]:
        (path,) = (folder / "records").glob("*.json")
        return json.loads(path.read_text())

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    subprocess.run(command(whole), cwd=root, check=True, capture_output=True)
    process = subprocess.Popen(
        command(cut), cwd=root, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    steps = 28  # in an epoch: 900 images, in mini-batches of 32
    step, deadline = 0, time.monotonic() + 200
    while step % steps == 0:  # a checkpoint that is not of the end of an epoch
        assert time.monotonic() < deadline and process.poll() is None
        for path in cut.glob("checkpoints/*.pt"):
            step = int(torch.load(path, weights_only=True)["progress"]["step"])
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(cut.glob("records/*.json"))
    subprocess.run(command(cut), cwd=root, check=True, capture_output=True)
    one, two = result(whole), result(cut)
    assert one["curves"]["train_loss"] == two["curves"]["train_loss"]
    assert one["metrics"] == two["metrics"]
    assert two["sessions"] == 2 and two["environment"]["processes"] == 2
    assert two["timings"]["data_wait_share"] > 0


def test_nodes_that_do_not_find_each_other_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of holding their GPUs until the time limit."""
    monkeypatch.setattr(nodes, "PATIENCE_S", 0.2)
    with pytest.raises(nodes.OutOfReach, match=r"0 of 1 other nodes have reached this one"):
        nodes.gather(tmp_path / "meeting", 1, lambda: False)


def test_less_than_a_mini_batch_is_not_shared_out_unevenly() -> None:
    request = expand(SUITES["table1"], "quick", "", ["hff"], architectures=["mlp-2x500"], seeds=1)
    preflight.check_shares(2, request, {"digits": 1294})
    with pytest.raises(RequestError, match="digits has 59 training images"):
        preflight.check_shares(2, request, {"digits": 59})
