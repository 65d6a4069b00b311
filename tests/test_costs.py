"""What costs are made of: clocks in turns, counters of energy, a record that holds them."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from methods import METHODS, Blocks, Method, Task
from results.store import Store
from suites.costs import machine, timing
from suites.costs.energy import Meter
from suites.costs.measure import Contestant
from suites.costs.timing import Timed, Work, interleaved, latencies, ratios, summary
from suites.engine import datasets
from suites.engine.architectures import mlp
from suites.engine.cell import Cell, Protocol
from suites.engine.memory import peak_bytes
from suites.engine.plugins import load_methods
from suites.engine.trial import Job
from suites.launching import attempt
from suites.request import expand
from suites.suite import RequestError
from suites.tables.table2 import SUITE

load_methods([])
CPU = torch.device("cpu")


def cost_cell(method: str = "hff", data: str = "noise-1x8x8-c10", batch: int = 32) -> Cell:
    protocol = Protocol(epochs=1, batch_size=batch, val_fraction=0.0)
    return Cell.of(method, {}, "mlp-3x16", data, protocol, 0, "cost", "cpu")


# ------------------------------------------------------------------------------- timing


def test_works_take_turns_and_last_as_long_as_asked() -> None:
    """Every other round in reverse; how often a work is done follows from how long it takes."""
    seen: list[tuple[str, int]] = []

    def work(name: str, seconds: float) -> Work:
        def run(n: int) -> None:
            seen.append((name, n))
            time.sleep(n * seconds)

        return Work(run, amount=3.0)

    found = interleaved({"slow": work("slow", 0.02), "fast": work("fast", 0.001)}, CPU, 4, 0.01)
    names = [name for name, _ in seen]
    assert names[:4] == ["slow", "slow", "fast", "fast"]  # warm-up, calibration
    assert names[4:] == ["slow", "fast", "fast", "slow"] * 2
    times = dict(seen[4:6])
    assert times["slow"] == 1 and 2 <= times["fast"] <= 10
    for name, least in (("slow", 0.02), ("fast", 0.001)):
        assert len(found[name].seconds) == 4 and min(found[name].seconds) >= least
        assert found[name].rates == tuple(3.0 / s for s in found[name].seconds)


def test_a_round_starts_from_what_the_caller_restores() -> None:
    state = [0]

    def run(n: int) -> None:
        state[0] += n

    starts: list[int] = []

    def restore() -> None:
        starts.append(state[0])
        state[0] = 0

    interleaved({"work": Work(run, 1.0)}, CPU, 3, 0.0, restore)
    # before the warm-up, until runs get no faster, and before each round: one run lasts long enough
    assert starts[0] == 0 and 2 <= starts[1] <= 6 and starts[2:] == [1, 1]


def test_ratios_are_of_neighbours_in_time() -> None:
    """A machine that runs at half its speed in one repeat slows both."""
    one = Timed((1.0, 2.0, 1.0), (10.0, 5.0, 10.0), None)
    other = Timed((2.0, 4.0, 2.0), (5.0, 2.5, 5.0), None)
    assert ratios(one, other) == (2.0, 2.0, 2.0)
    assert summary((3.0, 1.0, 2.0)) == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_percentiles_of_calls() -> None:
    waits = iter([0.0, *([0.001] * 98), 0.03, *([0.001] * 200)])
    found = latencies(lambda: time.sleep(next(waits)), CPU, most_s=10.0)
    assert found["calls"] == timing.LATENCY_CALLS
    assert 1.0 <= found["p50"] <= found["p90"] <= found["p99"] < 30
    slow = latencies(lambda: time.sleep(0.01), CPU, most_s=0.0)
    assert slow["calls"] == timing.LEAST_CALLS


# ------------------------------------------------------------------------------- energy


def sockets(folder: Path, microjoules: list[int]) -> Meter:
    for i, value in enumerate(microjoules):
        zone = folder / f"intel-rapl:{i}"
        zone.mkdir(exist_ok=True)
        (zone / "energy_uj").write_text(f"{value}\n")
        (zone / "max_energy_range_uj").write_text("1000000\n")
        core = folder / f"intel-rapl:{i}:0"  # part of the socket: must not count twice
        core.mkdir(exist_ok=True)
        (core / "energy_uj").write_text("999\n")
    return Meter(CPU, folder)


def test_energy_of_all_sockets_and_over_a_counter_that_starts_again(tmp_path: Path) -> None:
    meter = sockets(tmp_path, [900_000, 100_000])
    before = meter.read()
    sockets(tmp_path, [200_000, 150_000])
    after = meter.read()
    assert before is not None and after is not None
    assert after - before == pytest.approx(0.3 + 0.05)


def test_no_energy_where_none_is_reported(tmp_path: Path) -> None:
    assert Meter(CPU, tmp_path).read() is None
    meter = sockets(tmp_path, [1])
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert meter.read() is None


# ------------------------------------------------------------------------------ the cell


@pytest.mark.parametrize("make", [machine.matrix_product, machine.convolution])
def test_the_best_of_a_machine_is_counted_as_flops_are(make: Any) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    work = make(CPU)
    with FlopCounterMode(display=False) as counter:
        work.run(2)
    assert counter.get_total_flops() == 2 * work.amount


@pytest.mark.parametrize("method", ["hff", "ff", "layerwise", "noprop"])
def test_the_cost_of_a_cell(method: str, tmp_path: Path) -> None:
    cell = cost_cell(method)
    job = Job(cell, "label", "table2", "quick", "command", tmp_path)
    assert attempt.run(job).status == "ok"
    record = Store(tmp_path).read([cell.key]).records[cell.key]
    json.dumps(record, allow_nan=False)
    speed = record["speed"]
    readouts = METHODS[method].traits.readouts
    other = ["goodness, looped over classes"] if method == "ff" else []
    assert list(speed["predict"]) == [*readouts, *other] == list(speed["latency_ms"])
    for figures in (speed["train"], *speed["predict"].values()):
        for name in ("images_per_s", "ratio"):
            assert 0 < figures[name]["low"] <= figures[name]["median"] <= figures[name]["high"]
    assert speed["train"]["data_share_pct"] > 0 and speed["train"]["peak_share_pct"] > 0
    assert speed["train"]["joules_per_image"] is None or speed["train"]["joules_per_image"] > 0
    assert speed["control"]["method"] == "backprop" and speed["repeats"] >= 5
    assert record["timings"]["train_images_per_s"] == speed["train"]["images_per_s"]["median"]
    assert record["memory"]["peak_tensor_bytes"] > 0 and record["cost"]["n_params"] > 0


def test_phases_are_weighted_by_their_share_of_the_steps() -> None:
    data = datasets.load("noise-1x8x8-c10", None, 0.0)
    found = Contestant(cost_cell("layerwise"), data, CPU)
    assert len(found.training) == 3 and sum(found._shares) == pytest.approx(1)
    found._shares = [0.5, 0.25, 0.25]
    timed = {f"own train {i}": Timed((s,), (32 / s,), None) for i, s in enumerate((1.0, 2.0, 4.0))}
    assert found.sorted_out(timed, "own")[0].seconds == (0.5 + 0.5 + 1.0,)


@pytest.mark.parametrize("method", ["layerwise", "greedy", "ff"])
def test_each_phase_is_timed_in_its_midst(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []
    cls = METHODS[method]
    original = cls.train_step

    def watched(self: Any, x: Any, y: Any, phase: str, progress: float) -> Any:
        seen.append((phase, progress))
        return original(self, x, y, phase, progress)

    monkeypatch.setattr(cls, "train_step", watched)
    data = datasets.load("noise-1x8x8-c10", None, 0.0)
    contestant = Contestant(cost_cell(method), data, CPU)
    works = contestant.works()
    names = [name for name, _ in contestant.method.phases(300)]
    for i, name in enumerate(names):
        seen.clear()
        works[f"train {i}"].run(200)  # more than an epoch: it goes on
        assert {phase for phase, _ in seen} == {name} and len(seen) == 200
        middle = (i + 0.5) / len(names)
        assert all(abs(progress - middle) < 0.5 / len(names) for _, progress in seen)


def test_going_back_to_the_start_restores_weights_and_optimizers() -> None:
    data = datasets.load("noise-1x8x8-c10", None, 0.0)
    contestant = Contestant(cost_cell("hff"), data, CPU)
    before = contestant.method.blocks[0].weights.weight.clone()
    contestant.remember()
    for _ in range(2):
        contestant.works()["train 0"].run(3)
        assert not torch.equal(contestant.method.blocks[0].weights.weight, before)
        contestant.to_start()
        assert torch.equal(contestant.method.blocks[0].weights.weight, before)
        assert not contestant.method.optimizer.state_dict()["state"]


def test_a_batch_that_the_noise_is_too_small_for_is_no_silent_smaller_one(tmp_path: Path) -> None:
    cell = cost_cell(batch=5000)
    job = Job(cell, "label", "table2", "quick", "command", tmp_path)
    outcome = attempt.run(job)
    assert outcome.status == "failed" and "4096 images, a batch 5000" in str(outcome.reason)


# ------------------------------------------------------------------------------- memory


def activity_bytes(name: str, depth: int = 32, width: int = 256, batch: int = 1024) -> int:
    """Peak of two training steps of an MLP, without weights, gradients and optimizer state."""
    cls, task = METHODS[name], Task("stack", (1, 16, 16), 10)
    x, y = torch.randn(batch, *task.shape), torch.randint(10, (batch,))
    made: list[Method] = []

    def work() -> None:
        blocks = Blocks(mlp(depth, width)(task, cls.style(cls.Config()), 1.0))
        method = cls(blocks, task, cls.Config(), torch.Generator()).train()
        made.append(method)
        for _ in range(2):
            method.train_step(x, y, "all", 0.0)

    peak = peak_bytes(work)
    kept = [t for p in made[0].parameters() for t in (p, p.grad) if t is not None]
    for part in vars(made[0]).values():
        if isinstance(part, torch.optim.Optimizer):
            kept += [t for s in part.state.values() for t in s.values() if t.dim()]
    return peak - sum(t.numel() * t.element_size() for t in kept)


def test_streaming_local_rules_need_a_third_of_the_activity_memory() -> None:
    """32 blocks at batch 1024: each block's graph is freed before the next one is built."""
    control = activity_bytes("backprop")
    assert activity_bytes("hff") <= 0.35 * control
    assert activity_bytes("mono-forward") <= 0.35 * control


# --------------------------------------------------------------------------- the request


def test_the_key_of_a_cost_has_batch_size_and_device_and_no_budget() -> None:
    cell = cost_cell()
    longer = dataclasses.replace(cell, protocol=dataclasses.replace(cell.protocol, epochs=9))
    assert longer.key == cell.key
    assert dataclasses.replace(cell, device="cuda").key != cell.key
    assert cost_cell(batch=64).key != cell.key
    plain = Cell.of("hff", {}, "mlp-3x16", "digits", Protocol(1), 0, "train", "cuda")
    assert plain.device == "" and "device" not in plain.identity()["protocol"]


def test_noise_and_stacks_of_any_size_need_no_registration() -> None:
    request = expand(
        SUITE, "quick", "command", methods=["hff"], datasets=["noise-1x4x6-c7"],
        architectures=["mlp-5x32", "conv-2x8"],
    )  # fmt: skip
    cells = [w.cell for w in request.wanted]
    assert [c.architecture for c in cells] == ["mlp-5x32", "conv-2x8"]
    data = datasets.load("noise-1x4x6-c7", None, 0.0)
    assert data.train[0].shape[1:] == (1, 4, 6) and data.task.n_classes == 7
    assert int(data.train[1].max()) == 6
    assert request.plan["columns"][0]["axes"] == {
        "classes": 7, "blocks": 5, "width": 32, "batch size": 64,
    }  # fmt: skip
    for wrong in ("noise-0x4x4-c7", "noise-4x4-c7", "noise-1x4x4"):
        with pytest.raises(RequestError, match="unknown dataset"):
            expand(SUITE, "quick", "command", datasets=[wrong])
    with pytest.raises(RequestError, match="unknown architecture"):
        expand(SUITE, "quick", "command", architectures=["mlp-0x4"])


def test_batch_sizes_have_columns_of_their_own() -> None:
    plan = expand(SUITE, "quick", "command").plan
    ids = [column["id"] for column in plan["columns"]]
    assert len(set(ids)) == len(ids)
    sizes = {c["axes"]["batch size"] for c in plan["columns"] if c["architecture"] == "mlp-3x250"}
    assert sizes == {16, 64, 256, 1024}
    assert plan["comparisons"] == [["hff", "ff"]]


@pytest.mark.parametrize("option", [{"epochs": 3}, {"audit": True}])
def test_what_is_for_training_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="for training"):
        expand(SUITE, "quick", "command", **option)


def test_predictions_are_timed_with_all_blocks_that_training_reaches() -> None:
    """Layer-wise training predicts with the blocks that are trained: at the start, with one."""
    data = datasets.load("noise-1x8x8-c10", None, 0.0)
    contestant = Contestant(cost_cell("layerwise"), data, CPU)
    contestant.remember()
    for work in contestant.works().values():
        work.before()
        deepest = int(contestant.method.deepest)
        assert deepest == (0 if work.before == contestant.to_start else 2)
