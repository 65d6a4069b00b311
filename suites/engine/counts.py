"""What a cell costs, counted and not declared: parameters, FLOPs, passes per prediction."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from suites.engine import datasets
from suites.engine.cell import Cell
from suites.engine.datasets import Data
from suites.engine.passes import count_passes
from suites.engine.prefix import worth_keeping
from suites.engine.seeds import generator

PHASE_SAMPLE = 1000  # steps that a method is asked to split, to learn the shares of its phases


def count(cell: Cell, data: Data, device: torch.device) -> dict[str, Any]:
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
    in_memory = isinstance(data.train[0], Tensor)
    same_every_epoch = in_memory and cell.protocol.augmentation == "none"
    for name, steps in phases:  # phases may cost differently: weighted by their share of steps
        with FlopCounterMode(display=False) as prefix, torch.no_grad():
            frozen = method.frozen(x, name)
        with FlopCounterMode(display=False) as training:
            method.train_step(frozen, y, name, 0.0)
        flops = training.get_total_flops()
        if not (same_every_epoch and worth_keeping(frozen, x, len(data.train[1]))):
            flops += prefix.get_total_flops()  # computed anew in every step
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
