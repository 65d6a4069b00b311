"""The engine: clocks, budgets, costs, divergence, and runs that resume bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from methods import METHODS
from results import Store
from suites.engine import counts, datasets, evaluation, prefix, training, trial
from suites.engine.cell import Cell, Protocol
from suites.engine.clock import Clock
from suites.engine.plugins import load_methods
from suites.engine.trial import Job
from suites.launching import attempt

load_methods([])
ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


def job(folder: Path, method: str = "hff", epochs: int = 2, **changes: Any) -> Job:
    protocol = Protocol(epochs=epochs, batch_size=64, **changes.pop("protocol", {}))
    cell = Cell.of(method, changes.pop("settings", {}), "mlp-2x500", "digits", protocol, 0)
    values = {"checkpoint_s": 1e9, **changes}
    return Job(cell, "a cell", "table1", "quick", "a command", folder, **values)


def record_of(work: Job) -> dict[str, Any]:
    return Store(work.results_dir).read([work.cell.key]).records[work.cell.key]


RESULTS = ("key", "status", "metrics", "curves", "cost")


def results(record: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on when and how often a run was interrupted: all but times."""
    kept = {name: record[name] for name in RESULTS}
    kept["curves"] = {k: v for k, v in record["curves"].items() if k != "train_s"}
    return kept


def test_a_record_holds_what_was_asked(tmp_path: Path) -> None:
    work = job(tmp_path)
    assert attempt.run(work).status == "ok"
    record = record_of(work)
    assert record["cell"] == work.cell.identity()
    assert record["curves"]["epoch"] == [1, 2]
    assert set(record["metrics"]["test"]) == set(METHODS["hff"].traits.readouts)
    assert record["metrics"]["test"]["last"]["n"] == 359
    assert record["timings"]["train_s"] > 0 and record["timings"]["eval_s"] > 0
    assert torch.__version__.startswith(record["environment"]["packages"]["torch"])
    assert not list(tmp_path.glob("live/*")) and not list(tmp_path.glob("checkpoints/*"))


def test_a_finished_cell_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = job(tmp_path)
    attempt.run(work)
    monkeypatch.setattr(attempt, "_attempt", lambda *a: pytest.fail("trained twice"))
    assert attempt.run(work).status == "ok"


def test_a_cell_leased_by_another_process_is_left_alone(tmp_path: Path) -> None:
    work = job(tmp_path)
    lease = attempt.Lease(tmp_path / "live" / f"{work.cell.key}.json", {})
    assert lease.acquire()
    assert attempt.run(work).status == "busy"


@pytest.mark.parametrize("report", [5, 21], ids=["in training", "in validation"])
def test_who_has_lost_the_cell_to_another_process_writes_nothing_more(
    report: int, tmp_path: Path
) -> None:
    """There are 20 steps in the first epoch, each reported; validation comes next."""
    work = job(tmp_path)
    path = tmp_path / "live" / f"{work.cell.key}.json"
    theirs = json.dumps({"host": "elsewhere", "process": "1:1"})
    reports: list[int] = []

    def lose(progress: dict[str, Any]) -> None:
        reports.append(progress["step"])
        if len(reports) == report:
            path.write_text(theirs)
            time.sleep(0.6)  # a lease is looked at twice a second

    assert attempt.run(work, watch=lose).status == "busy"
    assert path.read_text() == theirs
    assert not list(tmp_path.glob("checkpoints/*")) and not list(tmp_path.glob("records/*"))


@pytest.mark.parametrize("every", [7, 20], ids=["in mid-epoch", "at the last step of an epoch"])
@pytest.mark.parametrize("method", ["backprop", "ff", "greedy", "noprop", "layerwise"])
def test_stopping_and_resuming_changes_no_bit(method: str, every: int, tmp_path: Path) -> None:
    """Stopped again and again after some steps; 20 steps make one epoch, two epochs the run."""
    change = {"protocol": {"augmentation": "crop2"}}
    if method == "noprop":
        change["settings"] = {"steps": 3}
    whole = job(tmp_path / "whole", method, **change)
    attempt.run(whole)
    work = job(tmp_path / "parts", method, **change)
    sessions = 0
    while sessions < 10:
        seen: list[int] = []
        sessions += 1
        done = attempt.run(
            work,
            stop=lambda seen=seen: bool(seen) and seen[-1] - seen[0] == every - 1,
            watch=lambda progress, seen=seen: seen.extend([progress["step"]] if progress else []),
        )
        if done.status == "ok":
            break
    record = record_of(work)
    assert sessions == record["sessions"] == {7: 6, 20: 3}[every]
    assert results(record) == results(record_of(whole))


@pytest.mark.parametrize("method", ["layerwise", "softhebb", "cafo"])
def test_what_is_frozen_is_computed_once(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached prefix must train the same network, and be the prefix of a resumed run as well."""
    kept = job(tmp_path / "kept", method)
    attempt.run(kept)
    monkeypatch.setattr(prefix, "FROZEN_BYTES", 0)
    anew = job(tmp_path / "anew", method)
    attempt.run(anew)
    one, other = record_of(kept), record_of(anew)
    assert one["status"] == other["status"] == "ok"
    assert one["curves"]["train_loss"] == pytest.approx(other["curves"]["train_loss"], rel=1e-3)


def test_stopping_with_a_frozen_prefix_changes_no_bit(tmp_path: Path) -> None:
    whole, work = job(tmp_path / "whole", "layerwise"), job(tmp_path / "parts", "layerwise")
    attempt.run(whole)
    steps: list[int] = []
    attempt.run(
        work,
        stop=lambda: bool(steps) and steps[-1] == 27,  # in the second half of the phases
        watch=lambda progress: steps.extend([progress["step"]] if progress else []),
    )
    assert attempt.run(work).status == "ok"
    assert results(record_of(work)) == results(record_of(whole))


def test_images_are_shown_once_ahead_of_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`start` must see all training images, and not a second time after a stop."""
    seen: list[int] = []

    def start(self: Any, x: Tensor, y: Tensor) -> None:
        seen.append(len(y))
        assert x.shape[1:] == (1, 8, 8) and abs(float(x.mean())) < 0.01

    monkeypatch.setattr(METHODS["backprop"], "start", start)
    work = job(tmp_path, "backprop")
    attempt.run(work, lambda: True)
    attempt.run(work)
    assert seen == [1294]


def test_stopping_while_images_are_evaluated_changes_no_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at every single batch of validation and test once, then let through."""
    whole, work = job(tmp_path / "whole", "ff"), job(tmp_path / "parts", "ff")
    attempt.run(whole)
    allowed = [0]

    def alive(self: trial.Trial) -> None:
        allowed[0] -= 1
        if allowed[0] < 0:
            raise trial.Stopped

    monkeypatch.setattr(trial.Trial, "alive", alive)
    for n in range(20):
        allowed[0] = n
        if attempt.run(work).status == "ok":
            break
    assert results(record_of(work)) == results(record_of(whole))


def test_a_corrupt_checkpoint_is_set_aside_and_the_cell_starts_anew(tmp_path: Path) -> None:
    work = job(tmp_path)
    attempt.run(work, lambda: True)
    path = next(tmp_path.glob("checkpoints/*.pt"))
    path.write_bytes(path.read_bytes()[:1000])
    outcome = attempt.run(work)
    assert outcome.status == "ok"
    assert str(path) in outcome.warnings[0] and "set-aside" in outcome.warnings[0]
    whole = job(tmp_path / "whole")
    attempt.run(whole)
    assert results(record_of(work)) == results(record_of(whole))


@pytest.mark.parametrize(
    ("trouble", "status"), [(OSError(5, "Input/output error"), "failed"),
                            (torch.OutOfMemoryError("no room"), "oom")]
)  # fmt: skip
def test_a_checkpoint_outlives_trouble_that_may_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: Exception, status: str
) -> None:
    """Hours of training must not be set aside for a moment of a full GPU or a slow file system."""
    work = job(tmp_path)
    attempt.run(work, lambda: True)
    (path,) = tmp_path.glob("checkpoints/*.pt")

    def fail(*args: Any, **more: Any) -> None:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fail)
        assert attempt.run(work).status == status
    assert path.exists() and not list(tmp_path.glob("set-aside/*"))
    left = path.with_name(f".part-{path.name}.node1.7")  # of a writer that was killed
    left.touch()
    assert attempt.run(work).status == "ok" and record_of(work)["sessions"] == 2
    assert not left.exists()


def test_a_checkpoint_of_other_sources_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = job(tmp_path)
    attempt.run(work, lambda: True)
    monkeypatch.setattr(Cell, "code_sha", lambda self: "other")
    attempt.run(work)
    assert record_of(work)["sessions"] == 1


def test_divergence_names_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = [0]
    original = METHODS["hff"].train_step

    def poisoned(self: Any, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        out = original(self, x, y, phase, progress)
        count[0] += 1
        return {"loss": out["loss"] * float("nan")} if count[0] >= 1 + 27 else out

    monkeypatch.setattr(METHODS["hff"], "train_step", poisoned)  # one step is for the cost
    work = job(tmp_path)
    outcome = attempt.run(work)
    assert outcome.status == "diverged" and "step 27" in str(outcome.reason)
    record = record_of(work)
    assert record["metrics"] == {} and len(record["curves"]["train_loss"]) == 1


def test_an_exception_becomes_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> None:
        raise RuntimeError("no luck today\nsecond line")

    monkeypatch.setattr(METHODS["hff"], "features", broken)
    monkeypatch.setattr(METHODS["hff"], "logits", broken)
    work = job(tmp_path)
    assert attempt.run(work).status == "failed"
    record = record_of(work)
    assert record["reason"] == "RuntimeError: no luck today" and "Traceback" in record["error"]
    assert list(tmp_path.glob("records/*.failed-1.json"))


def test_costs_against_closed_forms() -> None:
    """2 FLOPs per multiply-add; backward costs twice forward but for the first layer's input."""
    cell = Cell.of("backprop", {}, "mlp-2x500", "digits", Protocol(1, 64), 0)
    found = counts.count(cell, datasets.load("digits", None, 0.1), CPU)
    layers = [64 * 500, 500 * 500, 500 * 10]
    assert found["n_params"] == sum(layers) + 500 + 500 + 10 and found["n_params_aux"] == 0
    assert found["flops_eval_per_image"] == 2 * sum(layers)
    assert found["flops_train_per_image"] == 6 * sum(layers) - 2 * layers[0]
    assert found["passes_per_prediction"] == 1

    local_rule = Cell.of("mono-forward", {}, "mlp-2x500", "digits", Protocol(1, 64), 0)
    found = counts.count(local_rule, datasets.load("digits", None, 0.1), CPU)
    assert found["n_params_aux"] == 500 * 10 + 10
    # no gradient crosses to the block before: that product is saved; a head is added
    heads = 2 * 500 * 10
    expected = 4 * (layers[0] + layers[1]) + 6 * heads
    assert found["flops_train_per_image"] == expected


def test_measuring_costs_does_not_touch_the_run(tmp_path: Path, monkeypatch: Any) -> None:
    plain = job(tmp_path / "a")
    attempt.run(plain)
    monkeypatch.setattr(trial.counts, "count", lambda *a: {})
    unmeasured = job(tmp_path / "b")
    attempt.run(unmeasured)
    assert record_of(plain)["metrics"] == record_of(unmeasured)["metrics"]


def test_evaluation_against_a_plain_loop() -> None:
    cell = job(Path()).cell
    data = datasets.load("digits", None, 0.1)
    method = cell.build(data.task, CPU)
    rng = torch.Generator()
    found = evaluation.evaluate(method, data.test, data.task, "last", rng)
    x = (data.test[0].float() / 255 - data.task.mean[0]) / data.task.std[0]
    with torch.no_grad():
        scores = method.eval().logits(x)
    assert found["accuracy_pct"] == pytest.approx(
        100 * float((scores.argmax(1) == data.test[1]).double().mean())
    )
    assert found["loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(scores, data.test[1])), rel=1e-5
    )


def test_the_clock_leaves_out_what_is_paused() -> None:
    clock = Clock(CPU, 10.0)
    with clock.running():
        time.sleep(0.02)
        with clock.paused():
            time.sleep(0.5)
    assert 10.02 <= clock.seconds < 10.4


def test_data_order_is_shared_by_methods_and_not_by_seeds() -> None:
    def order(method: str, seed: int) -> Tensor:
        cell = Cell.of(method, {}, "mlp-2x500", "digits", Protocol(1), seed)
        return training._order(cell, 3, 100, CPU)

    assert torch.equal(order("hff", 0), order("ff", 0))
    assert not torch.equal(order("hff", 0), order("hff", 1))


@pytest.mark.parametrize("method", ["hff", "pepita", "softhebb"])
def test_products_in_bfloat16(method: str, tmp_path: Path) -> None:
    """Another key, other losses, nearly the same accuracy; weights stay in float32."""
    full = job(tmp_path, method)
    half = dataclasses.replace(
        full, cell=dataclasses.replace(
            full.cell, protocol=dataclasses.replace(full.cell.protocol, precision="bf16")
        ),
    )  # fmt: skip
    assert half.cell.key != full.cell.key
    assert attempt.run(full).status == attempt.run(half).status == "ok"
    one, two = record_of(full), record_of(half)
    losses = [record["curves"]["train_loss"] for record in (one, two)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.1)
    accuracies = [r["metrics"]["test"]["last"]["accuracy_pct"] for r in (one, two)]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=5)


def test_the_key_follows_the_numbers_and_nothing_else(tmp_path: Path) -> None:
    base = job(tmp_path)
    same = dataclasses.replace(base, device="cuda", results_dir=Path("x"), checkpoint_s=1.0)
    assert same.cell.key == base.cell.key
    other = [
        dataclasses.replace(base.cell, seed=1),
        dataclasses.replace(base.cell, method_version=base.cell.method_version + 1),
        dataclasses.replace(base.cell, protocol=dataclasses.replace(base.cell.protocol, epochs=3)),
        dataclasses.replace(base.cell, config={**base.cell.config, "margin": 0.2}),
    ]
    assert len({base.cell.key, *(cell.key for cell in other)}) == 5


# ------------------------------------------------------------------------ whole processes


def _command(folder: Path) -> list[str]:
    return [
        sys.executable, "-m", "suites.run", "table1", "--methods", "hff", "greedy-sim", "noprop",
        "--architectures", "mlp-2x500", "--seeds", "1", "--epochs", "4", "--workers", "2",
        "--checkpoint-every", "0.3", "--device", "cpu",
        "--results-dir", str(folder), "--report-dir", str(folder / "report"),
    ]  # fmt: skip


def _all_results(folder: Path) -> dict[str, Any]:
    records = [json.loads(p.read_text()) for p in folder.glob("records/*.json")]
    return {record["key"]: results(record) for record in records}


def test_killed_at_random_moments_ends_like_uninterrupted(tmp_path: Path) -> None:
    """SIGKILL to the launcher alone, or to it and its workers; then the same command again."""
    n_kills = int(os.environ.get("BPFREE_KILLS", "2"))
    chance = random.Random(int(os.environ.get("BPFREE_KILL_SEED", "0")))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(_command(whole), cwd=ROOT, check=True, capture_output=True, timeout=600)
    for kill in range(n_kills):
        process = subprocess.Popen(
            _command(broken), cwd=ROOT, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(timeout=chance.uniform(2.0, 12.0))
        except subprocess.TimeoutExpired:
            if kill % 2:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
    done = subprocess.run(_command(broken), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert _all_results(broken) == _all_results(whole)
    assert not list(broken.glob("checkpoints/*.pt"))
    assert not list(broken.glob("records/.part-*"))


def test_ctrl_c_writes_checkpoints_and_says_how_to_go_on(tmp_path: Path) -> None:
    process = subprocess.Popen(
        _command(tmp_path), cwd=ROOT, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        # as a terminal has it: what starts the tests may be in the background and ignore SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("live/*.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130, out
    assert "the same command goes on" in out and "Traceback" not in out
    assert list(tmp_path.glob("checkpoints/*.pt"))
    assert not list(tmp_path.glob("live/*.json"))


def test_a_killed_worker_costs_one_cell(tmp_path: Path) -> None:
    """The out-of-memory killer takes a worker; the sweep goes on and the reason is on record."""
    process = subprocess.Popen(
        _command(tmp_path), cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 120
    victim = None
    while victim is None and time.monotonic() < deadline:
        time.sleep(0.1)
        for sign in Store(tmp_path).live().values():
            if "step" in sign and sign["step"] > 5:
                victim = int(sign["process"].partition(":")[0])
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 1, out
    assert "killed by SIGKILL" in out
    assert len(list(tmp_path.glob("records/*.killed-1.json"))) == 1
    again = subprocess.run(
        _command(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert len(_all_results(tmp_path)) == 3
