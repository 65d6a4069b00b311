"""The locality audit of one method on one architecture: what it claims, measured.

Everything is measured on narrow networks and a few batches, because it belongs to the rule and not
to the size: chains, crossings and influences by `locality.py`, passes and label independence on a
prediction, and the peak memory of training on stacks of growing depth.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Generator

from methods import Blocks, Method, Task
from suites.auditing import locality
from suites.auditing.subject import STEPS, Subject, step
from suites.engine import datasets
from suites.engine.architectures import ARCHITECTURES, conv_stack, mlp
from suites.engine.cell import Cell
from suites.engine.datasets import Data
from suites.engine.memory import peak_bytes

WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # factor on all widths: the smallest that the rule accepts
BATCH = 32
TRAINED = 5  # steps in each phase ahead of the one that is looked at
FOLLOW = 12  # steps in a row that a perturbation is followed for
DEPTHS = (4, 8, 16, 32)

# The stacks of the memory measurement: activities, not weights, must be what fills the memory, or
# the slope would show the optimizer. Bytes of activities a block: dense 256 KiB, conv 1 MiB.
STACK_BATCH = 2048
STACK_WIDTH = 32
CONV_BATCH, CONV_CHANNELS, CONV_SIDE = 64, 16, 16


def measure(cell: Cell, data: Data) -> dict[str, Any]:
    """The audit of a cell's method, configuration and architecture.

    Returns:
        chain_longest, chain_nearest: layers, see `locality.Chains`.
        crosses_units, depends_on_later: whether a gradient crosses units, by autograd's graph and
            by its effect; whether the updates of some unit depend, by whatever way, on a later one.
        true_gradient: whether the first unit moves along the gradient of the predictions' loss;
            None where its step keeps no gradient.
        label_free: whether a prediction is the same for a copy that never saw the batch.
        passes_per_prediction: counted, for the headline readout.
        n_blocks, n_units: of the architecture and of the method.
        memory_depths, memory_bytes: depth and peak bytes alive while training a stack that deep.
        memory_slope_bytes: bytes per added block, by least squares.
    """
    subject = subject_of(cell, data)
    method = subject.rehearse(subject.phases()[-1], TRAINED + 1)
    if not all(bool(p.isfinite().all()) for p in method.parameters()):
        raise ValueError("the weights are not finite after a few steps: nothing can be compared")
    chains = locality.chains(subject, TRAINED)
    influenced = locality.influences(subject, 0) | locality.influences(subject, TRAINED, FOLLOW)
    crossed = locality.confirmed(locality.crossings(subject, TRAINED), influenced)
    found: dict[str, Any] = {
        "chain_longest": chains.longest,
        "chain_nearest": chains.nearest,
        "crosses_units": bool(crossed),
        "depends_on_later": bool(influenced),
        "true_gradient": locality.follows_gradient(subject, TRAINED),
        "label_free": not subject.remembering(TRAINED),
        "passes_per_prediction": subject.passes(method.traits.readouts[0]),
        "n_blocks": len(method.blocks),
        "n_units": len(method.units()),
    }
    memory = memory_by_depth(cell)
    if memory:
        found["memory_depths"], found["memory_bytes"] = list(memory), list(memory.values())
        found["memory_slope_bytes"] = slope(memory)
    return found


def subject_of(cell: Cell, data: Data) -> Subject:
    """The cell's method on narrow blocks, fed with the cell's data."""
    cls, config = cell.method_class(), cell.method_config()
    images, labels = data.train
    build, style = ARCHITECTURES[cell.architecture].blocks, cls.style(config)
    accepted = [w for w in WIDTHS if not cls.refuse(build(data.task, style, w), data.task, config)]
    if not accepted:
        raise ValueError("the method refuses this architecture on this data")

    def make() -> Method:
        torch.manual_seed(cell.seed)
        blocks = build(data.task, style, accepted[0])
        method = cls(blocks, data.task, config, Generator().manual_seed(cell.seed)).train()
        method.start(datasets.prepare(images[:1000], data.task), labels[:1000])
        return method

    def batch(i: int) -> tuple[torch.Tensor, torch.Tensor]:
        part = (torch.arange(BATCH) + i * BATCH) % len(labels)
        return datasets.prepare(images[part], data.task), labels[part]

    return Subject(make, batch)


# --------------------------------------------------------------------------------- memory


def memory_by_depth(cell: Cell) -> dict[int, int]:
    """Depth -> peak bytes of training a stack of like blocks; empty where there is no such stack.

    The stack is dense or convolutional as the cell's architecture is; residual units have none.
    """
    cls, config = cell.method_class(), cell.method_config()
    with torch.device("meta"):
        kinds = ARCHITECTURES[cell.architecture].blocks(datasets.bare_task(cell.dataset)).kinds
    if "residual" in kinds:
        return {}
    conv = "conv" in kinds
    side = CONV_SIDE if conv else 8
    task = Task("stack", (1, side, side), 10)
    n = CONV_BATCH if conv else STACK_BATCH
    rng = Generator().manual_seed(0)
    x = torch.randn(n, *task.shape, generator=rng)
    y = torch.randint(10, (n,), generator=rng)
    found = {}
    for depth in DEPTHS:
        build = conv_stack(depth, CONV_CHANNELS) if conv else mlp(depth, STACK_WIDTH)

        def train(build: Any = build) -> None:
            torch.manual_seed(0)
            blocks = Blocks(build(task, cls.style(config), 1.0))
            method = cls(blocks, task, config, Generator().manual_seed(0)).train()
            method.start(x[:100], y[:100])
            for phase, n in method.phases(STEPS):
                # the second step has the optimizer's state as well, which finished phases keep
                for _ in range(min(n, 2)):
                    step(method, x, y, phase, 0.5)

        refused = cls.refuse(Blocks(build(task, cls.style(config), 1.0)), task, config)
        if refused is not None:
            return {}
        found[depth] = peak_bytes(train)
    return found


def slope(points: dict[int, int]) -> float:
    """Least-squares slope of the values over the keys."""
    return statistics.linear_regression(list(points), list(points.values())).slope
