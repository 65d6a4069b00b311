"""What the rules cost over bare torch, FF's ways to predict over each other, the data path.

    make bench

Each pair of works is timed in turns in one process.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from methods import Task
from suites.costs.timing import Work, interleaved, ratios
from suites.engine import augmentation, datasets
from suites.engine.determinism import use_deterministic_algorithms
from suites.launching import local
from tests.by_hand import STEPS, TASK, Step, made, noise

CPU = torch.device("cpu")
BATCH, REPEATS, LEAST_S = 128, 9, 0.3
PROGRESS = 0.25


@pytest.fixture(autouse=True)
def as_the_workers_do() -> None:
    torch.set_num_threads(local.usable_cores())
    use_deterministic_algorithms()


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_step_against_bare_torch(step: Step, benchmark: Any) -> None:
    """Median over interleaved repeats of (a step of ours) / (the same by hand) <= 1.25."""
    x, y = noise(BATCH)
    ours = made(step.method, architecture=step.architecture, **step.config)
    with torch.no_grad():
        x = ours.frozen(x, step.phase)
    theirs = copy.deepcopy(ours)

    def own(times: int) -> None:
        for _ in range(times):
            ours.train_step(x, y, step.phase, PROGRESS)

    def second(times: int) -> None:
        for _ in range(times):
            step.by_hand(theirs, x, y)

    compare(benchmark, f"{step}: step / by hand", own, second, most=1.25)


def compare(
    benchmark: Any,
    what: str,
    one: Callable[[int], object],
    other: Callable[[int], object],
    most: float | None = None,
    least: float | None = None,
) -> None:
    """Times two works in turns; asserts on the median ratio of their times."""
    works = {"one": Work(one, 1.0), "other": Work(other, 1.0)}
    timed = benchmark.pedantic(
        interleaved, args=(works, CPU, REPEATS, LEAST_S), rounds=1, iterations=1
    )
    found = sorted(ratios(timed["other"], timed["one"]))
    median = statistics.median(found)
    benchmark.extra_info[what] = round(median, 3)
    print(f"\n{what} = {median:.3f} (of {[round(r, 3) for r in found]})")
    assert most is None or median <= most, f"{what}: {median:.3f}, at most {most}"
    assert least is None or median >= least, f"{what}: {median:.3f}, at least {least}"


# ---------------------------------------------------------------------------- prediction


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 4])
def test_class_batched_prediction_against_looped(batch: int, benchmark: Any) -> None:
    """Forward-Forward at 100 classes: the loop takes at least 3 times as long.

    It does for few images, where it reads all weights once per class and image. For more, both come
    to be made of the same matrix products, and the next bench is the one that says something.
    """
    method, x = at_100_classes(batch)
    looped = next(iter(method.other_ways("goodness").values()))
    assert torch.allclose(looped(x), method.logits(x), rtol=1e-4)
    compare(
        benchmark,
        f"ff, looped / class-batched, batch {batch}",
        lambda n: [looped(x) for _ in range(n)],
        lambda n: [method.logits(x) for _ in range(n)],
        least=3.0,
    )


@torch.no_grad()
@pytest.mark.parametrize("batch", [16, 64])
def test_class_batched_prediction_against_its_products(batch: int, benchmark: Any) -> None:
    """At most 1.25 of the matrix products that classes cannot share."""
    method, x = at_100_classes(batch)
    states = torch.rand(10, 100, 1000).repeat(-(-batch // 10), 1, 1)[:batch]  # ten images at once

    def products(times: int) -> None:
        for _ in range(times):
            F.linear(x.flatten(1), method.blocks[0].weights.weight)
            for part in states.flatten(0, 1).split(1000):
                for block in list(method.blocks)[1:]:
                    F.linear(part, block.weights.weight, block.weights.bias)

    compare(
        benchmark,
        f"ff, class-batched / its products, batch {batch}",
        lambda n: [method.logits(x) for _ in range(n)],
        products,
        most=1.25,
    )


def at_100_classes(batch: int) -> tuple[Any, torch.Tensor]:
    task = Task("noise", (1, 28, 28), 100)
    return made("ff", task).eval(), torch.randn(batch, *task.shape)


@torch.no_grad()
@pytest.mark.parametrize("batch", [128, 256])
@pytest.mark.parametrize("threads", sorted({1, local.usable_cores()}))
def test_hff_prediction_against_the_plain_blocks(batch: int, threads: int, benchmark: Any) -> None:
    """HFF at 10 classes: at most 1.10 of the forward pass of the same blocks.

    On one thread that is arithmetic; on more, threads also fall asleep between products and have to
    be woken, which takes virtual machines about as long as all of HFF's own arithmetic.
    """
    method = made("hff").eval()
    x = torch.randn(batch, *TASK.shape)
    torch.set_num_threads(threads)
    compare(
        benchmark,
        f"hff, prediction / blocks, batch {batch}, threads {threads}",
        lambda n: [method.logits(x) for _ in range(n)],
        lambda n: [method.blocks(x) for _ in range(n)],
        most=1.10,
    )


# ----------------------------------------------------------------------------- data path


@pytest.mark.parametrize(
    ("shape", "kind"), [((1, 28, 28), "crop2+flip"), ((3, 32, 32), "crop4+flip")]
)
def test_data_path_against_a_step_of_the_small_cnn(
    shape: tuple[int, int, int], kind: str, benchmark: Any
) -> None:
    """Cutting out, cropping, mirroring and standardising a mini-batch: at most 5 % of a step."""
    _, y = noise(BATCH)
    task = Task("noise", shape, 10, (0.5,) * shape[0], (0.3,) * shape[0])
    method = made("backprop", task, "cnn-small")
    images = torch.randint(256, (10_000, *shape), dtype=torch.uint8)
    order = torch.randperm(len(images))[:BATCH]
    x = datasets.prepare(images[order], task)

    def data(times: int) -> None:
        for _ in range(times):
            drawn = augmentation.draw(kind, BATCH, order.device, "bench")
            datasets.prepare(augmentation.apply(images[order], kind, drawn), task)

    def step(times: int) -> None:
        for _ in range(times):
            method.train_step(x, y, "all", PROGRESS)

    compare(benchmark, f"data path / step, {shape} {kind}", data, step, most=0.05)
