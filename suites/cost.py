"""What a cell costs, counted and not declared: parameters, FLOPs, passes per prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from methods import Method
from suites import datasets
from suites.cell import Cell
from suites.datasets import Data
from suites.seeds import generator

PHASE_SAMPLE = 1000  # steps that a method is asked to split, to learn the shares of its phases


def measure_cost(cell: Cell, data: Data, device: torch.device) -> dict[str, Any]:
    """Parameters, FLOPs and passes of a cell, on a throw-away copy, before the clock starts.

    FLOPs are those executed in matrix products and convolutions, 2 per multiply-add, for one
    training step and one prediction, per image; element-wise work counts as none. The step also
    warms the device up, so that the first timed step is like the others.
    """
    method = cell.build(data.task, device)
    n = min(cell.protocol.batch_size, len(data.train[1]))
    x, y = datasets.prepare(data.train[0][:n], data.task), data.train[1][:n]
    total = sum(p.numel() for p in method.parameters())
    aux = sum(p.numel() for p in method.aux.parameters())
    train_flops = 0.0
    phases = [(name, steps) for name, steps in method.phases(PHASE_SAMPLE) if steps]
    each_step = cell.protocol.augmentation != "none"  # or what is frozen is computed only once
    for name, steps in phases:  # phases may cost differently: weighted by their share of steps
        with FlopCounterMode(display=False) as prefix, torch.no_grad():
            frozen = method.frozen(x, name)
        with FlopCounterMode(display=False) as training:
            method.train_step(frozen, y, name, 0.0)
        flops = training.get_total_flops() + each_step * prefix.get_total_flops()
        train_flops += flops * steps / PHASE_SAMPLE
    method.eval()
    readout = method.traits.readouts[0]
    rng = generator(device, cell.seed, "cost")
    with (
        torch.no_grad(),
        FlopCounterMode(display=False) as prediction,
        count_passes(method) as passes,
    ):
        method.logits(x, readout, rng)
    return {
        "n_params": total - aux,
        "n_params_aux": aux,
        "flops_train_per_image": train_flops / n,
        "flops_eval_per_image": prediction.get_total_flops() / n,
        "passes_per_prediction": passes() / n,
        # Forward-Forward's labels stand where pixels were
        "inputs_overwritten_pct": 100 * getattr(method, "overwritten", 0.0),
    }


@contextlib.contextmanager
def count_passes(method: Method) -> Iterator[Callable[[], int]]:
    """Counts samples through the stacks of blocks: the busiest position of all, summed over stacks.

    A method may hold several copies of its stack (one per denoising step): each copy counts.
    """
    counts: dict[int, list[int]] = {}
    hooks = []
    stacks = [m for m in method.modules() if isinstance(m, type(method.blocks))]
    for s, stack in enumerate(stacks):
        counts[s] = [0] * len(stack)
        for position, block in enumerate(stack):

            def count(module: nn.Module, args: Any, s: int = s, position: int = position) -> None:
                counts[s][position] += len(args[0])

            hooks.append(block.register_forward_pre_hook(count))
    try:
        yield lambda: sum(max(c, default=0) for c in counts.values())
    finally:
        for hook in hooks:
            hook.remove()
