"""What the engine costs: one epoch through it against the bare loop of the same method.

    make bench

The two are timed in turns in one run, so that a machine whose speed drifts slows both.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from methods import Task
from results.lease import Lease
from results.store import Store
from suites.engine import datasets
from suites.engine.cell import Cell, Protocol
from suites.engine.checkpoint import Checkpoint
from suites.engine.datasets import Data
from suites.engine.plugins import load_methods
from suites.engine.trial import Job, Trial
from suites.launching import local

CPU = torch.device("cpu")
ROUNDS = 13
load_methods([])


def noise() -> Data:
    """Images of MNIST's shape, 100 mini-batches, without a validation split."""
    images = torch.randint(256, (12_800, 1, 28, 28), dtype=torch.uint8)
    part = (images, torch.randint(10, (12_800,)))
    nothing = (part[0][:0], part[1][:0])
    return Data(Task("mnist", (1, 28, 28), 10, (0.13,), (0.31,)), part, nothing, nothing, "")


@pytest.mark.parametrize("name", ["backprop", "hff", "mono-forward", "ff"])
def test_engine_against_bare_loop(name: str, benchmark: Any, tmp_path: Path) -> None:
    """Median over interleaved rounds of (epoch through the engine) / (bare loop) <= 1.03."""
    torch.set_num_threads(local.usable_cores())
    data = noise()
    cell = Cell.of(name, {}, "mlp-3x1000", "mnist", Protocol(epochs=1), 0)
    job = Job(cell, "bench", "table1", "bench", "make bench", tmp_path)
    store = Store(tmp_path)
    method = cell.build(data.task, CPU)
    x_all, y_all = datasets.prepare(data.train[0], data.task), data.train[1]
    batch, n = cell.protocol.batch_size, len(y_all)
    bare_s: list[float] = []
    engine_s: list[float] = []

    def bare_epoch() -> None:
        order = torch.randperm(n)
        method.train()
        steps = n // batch
        for i in range(steps):
            index = order[i * batch : (i + 1) * batch]
            method.train_step(x_all[index], y_all[index], "all", i / steps)

    def engine_epoch() -> None:
        start = time.perf_counter()
        lease = Lease(store.live_dir / "bench.json", {})
        checkpoint = Checkpoint(store, cell)
        trial = Trial(job, CPU, checkpoint, report=lambda progress: lease.renew(**progress))
        trial.train(method, data)
        engine_s.append(time.perf_counter() - start)

    def setup() -> None:
        start = time.perf_counter()
        bare_epoch()
        bare_s.append(time.perf_counter() - start)

    benchmark.pedantic(engine_epoch, setup=setup, rounds=ROUNDS, warmup_rounds=1)
    ratios = [e / b for e, b in zip(engine_s[1:], bare_s[1:], strict=True)]
    median = statistics.median(ratios)
    benchmark.extra_info["median ratio engine / bare"] = round(median, 3)
    print(f"\n{name}: engine / bare = {median:.3f} (of {sorted(round(r, 3) for r in ratios)})")
    assert median <= 1.03
