"""What a method costs on one network, batch size and number of classes: timed against backprop.

Everything is timed in one process, in turns with end-to-end backprop on the same network, and on
noise: no data set is needed, and the numbers do not depend on one. The rules:

- a training step is the engine's own (`Training`): cutting a mini-batch out of the images on the
  device, standardising it, and `train_step`; a prediction is `logits` on a standardised batch;
- methods that train in phases are timed in the middle of each, weighted by its share of the steps,
  with what is frozen computed once, as the engine does; that first computation is left out;
- the clock waits for the device; five repeats at least, in turns; median and range;
- ratios are taken repeat by repeat, between neighbours in time, and then summarised;
- every repeat of training starts from the weights and optimizers of the start, every one of
  prediction from those after a step of each phase.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from methods import Method
from suites.costs import machine
from suites.costs.timing import Timed, Work, interleaved, latencies, ratios, summary
from suites.engine import datasets, execution
from suites.engine.cell import Cell, Protocol
from suites.engine.counts import PHASE_SAMPLE, count
from suites.engine.datasets import Data
from suites.engine.memory import PeakMemory, peak_bytes
from suites.engine.passes import count_passes
from suites.engine.seeds import generator
from suites.engine.training import Training

CONTROL = "backprop"
REPEATS = 5
# seconds that one repeat lasts at least; a GPU's energy counter moves a few times a second
LEAST_S = {"cpu": 0.05, "cuda": 0.5}
LATENCY_S = 0.25
EPOCHS = 10  # for each phase of the schedule that the steps are taken from


def measure(
    cell: Cell, data: Data, device: torch.device, alive: Callable[[], None] = lambda: None
) -> dict[str, dict[str, Any]]:
    """The cost of a cell: groups of its record.

    Args:
        data: noise of the wanted shape; at least a mini-batch of it.
        alive: called now and then; may raise to stop.

    Returns:
        speed: rates (images/s), ratios to the control's rates, latencies (ms), shares (%); rates
            and ratios as {median, low, high} over the repeats. `reports/speed.py` shows them.
        timings, memory, cost: the headline figures, named as those of a training cell.

    Raises:
        ValueError: the data is less than a mini-batch.
        Diverged: a loss on the noise is not finite.
    """
    data = data.to(device)
    execution.check(cell, data, device)
    memory = _memory(cell, data, device)
    cost = count(cell, data, device)
    method = Contestant(cell, data, device)
    control = Contestant(_control(cell), data, device)
    method.remember()
    control.remember()
    dense = method.method.blocks.kinds == {"dense"}
    dtype = torch.bfloat16 if cell.protocol.precision == "bf16" else torch.float32
    peak = (machine.matrix_product if dense else machine.convolution)(device, dtype)
    works = {f"own {name}": work for name, work in method.works().items()}
    works |= {f"control {name}": work for name, work in control.works(headline_only=True).items()}
    works |= {"peak": peak, "data": method.data_path()}

    timed = interleaved(works, device, REPEATS, LEAST_S[device.type], alive)
    method.to_trained()
    own, other = method.sorted_out(timed, "own"), control.sorted_out(timed, "control")

    headline = method.method.traits.readouts[0]
    train_control, (predict_control,) = other[0], other[1].values()
    train, predicted = own
    speed = {
        "repeats": REPEATS,
        "batch_size": method.training[0].batch,
        "train": _figures(train, train_control) | {
            "data_share_pct": 100 * statistics.median(timed["data"].seconds)
            / statistics.median(train.seconds),
            "peak_share_pct": 100 * cost["flops_train_per_image"] * statistics.median(train.rates)
            / statistics.median(timed["peak"].rates),
            "joules_per_image": _per_image(train, method.training[0].batch),
        },
        "predict": {
            way: _figures(predicted[way], predict_control) | method.counted(predict)
            for way, predict in method.ways().items()
        },
        "latency_ms": {
            way: latencies(call, device, LATENCY_S) for way, call in method.single().items()
        },
        "control": {
            "method": CONTROL,
            "train_images_per_s": summary(train_control.rates),
            "predict_images_per_s": summary(predict_control.rates),
        },
        "peak": {
            "operation": "matrix product" if dense else "convolution",
            "flops_per_s": summary(timed["peak"].rates),
            "cores_pct": machine.share_of_cores(peak) if device.type == "cpu" else None,
        },
    }  # fmt: skip
    timings = {
        "train_images_per_s": statistics.median(train.rates),
        "eval_images_per_s": statistics.median(predicted[headline].rates),
    }
    return {"speed": speed, "timings": timings, "memory": memory, "cost": cost}


def _control(cell: Cell) -> Cell:
    """Backprop in the same place."""
    return Cell.of(
        CONTROL, {}, cell.architecture, cell.dataset, cell.protocol, cell.seed, cell.kind
    )


def _figures(one: Timed, control: Timed) -> dict[str, Any]:
    return {
        "images_per_s": summary(one.rates),
        "ratio": summary(ratios(one, control)),  # times the control's rate
    }


def _per_image(timed: Timed, batch: int) -> float | None:
    return None if timed.joules is None else timed.joules / batch


class Contestant:
    """A method at the start of its training, with what can be done with it over and over."""

    def __init__(self, cell: Cell, data: Data, device: torch.device) -> None:
        batch = cell.protocol.batch_size
        if batch > len(data.train[1]):
            raise ValueError(f"{cell.dataset} has {len(data.train[1])} images, a batch {batch}")
        self._data, self._device = data, device
        self.method = execution.carry_out(cell.build(data.task, device), cell.protocol.execution)
        phases = [n / PHASE_SAMPLE for _, n in self.method.phases(PHASE_SAMPLE) if n]
        self._shares = phases
        self._epochs = EPOCHS * len(phases)
        place = dataclasses.replace(cell, protocol=Protocol(self._epochs, batch_size=batch))
        # for each phase one of its own, which keeps what that phase has frozen
        self.training = [Training(place, self.method, data) for _ in phases]
        self.training[0].start()
        self._x = datasets.prepare(data.test[0][:batch], data.task)
        self._start: dict[str, Any] = {}
        self._trained: dict[str, Any] = {}

    def works(self, headline_only: bool = False) -> dict[str, Work]:
        """Training in each phase, and every way to predict; amounts are in images."""
        found: dict[str, Work] = {}
        for i, (training, epoch) in enumerate(zip(self.training, self._middles(), strict=True)):
            found[f"train {i}"] = Work(_steps(training, epoch), training.batch, self.to_start)
        for way, predict in self.ways(headline_only).items():
            run = _predictions(self.method, predict, self._x)
            found[f"predict {way}"] = Work(run, len(self._x), self.to_trained)
        return found

    def _middles(self) -> list[int]:
        """The epoch in the middle of each phase."""
        ends = list(itertools.accumulate(self._shares))
        return [
            int(self._epochs * (end - share / 2))
            for end, share in zip(ends, self._shares, strict=True)
        ]

    def ways(self, headline_only: bool = False) -> dict[str, Callable[[Tensor], Tensor]]:
        """Ways to predict: the readouts, and other ways to the headline's scores."""
        readouts = self.method.traits.readouts
        rng = generator(self._device, "prediction")
        found: dict[str, Callable[[Tensor], Tensor]] = {
            readout: functools.partial(self.method.logits, readout=readout, rng=rng)
            for readout in readouts[: 1 if headline_only else None]
        }
        if not headline_only:
            for name, way in self.method.other_ways(readouts[0]).items():
                found[f"{readouts[0]}, {name}"] = way
        return found

    def counted(self, predict: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """What a prediction of one image runs: passes through the stack, and FLOPs."""
        with (
            torch.no_grad(),
            execution.uncompiled(),
            count_passes(self.method) as passes,
            FlopCounterMode(display=False) as flops,
        ):
            predict(self._x[:1])
        return {"passes": passes(), "flops_per_image": flops.get_total_flops()}

    def single(self) -> dict[str, Callable[[], object]]:
        """Predictions of one image, by way."""
        x = self._x[:1]
        self.method.eval()
        return {
            way: torch.no_grad()(functools.partial(predict, x))
            for way, predict in self.ways().items()
        }

    def data_path(self) -> Work:
        """What a step does before its method gets to see the images."""
        images, task = self._data.train[0], self._data.task
        n = self.training[0].batch
        index = torch.randperm(len(images), device=self._device)[:n]

        def run(times: int) -> None:
            for _ in range(times):
                datasets.prepare(images[index], task)

        return Work(run, n)

    def sorted_out(self, timed: dict[str, Timed], whose: str) -> tuple[Timed, dict[str, Timed]]:
        """This contestant's own timings: training, its phases joined, and predictions by way."""
        start = f"{whose} predict "
        ways = {k.removeprefix(start): v for k, v in timed.items() if k.startswith(start)}
        phases = [timed[f"{whose} train {i}"] for i in range(len(self._shares))]
        seconds = tuple(
            sum(share * s for share, s in zip(self._shares, each, strict=True))
            for each in zip(*(phase.seconds for phase in phases), strict=True)
        )
        rates = tuple(self.training[0].batch / s for s in seconds)
        joules = None
        if all(phase.joules is not None for phase in phases):
            joules = sum(s * (p.joules or 0) for s, p in zip(self._shares, phases, strict=True))
        return Timed(seconds, rates, joules), ways

    def remember(self) -> None:
        """Notes the states that repeats begin with; to be called once, and first."""
        self._start = copy.deepcopy(self.method.state_dict())
        for training, epoch in zip(self.training, self._middles(), strict=True):
            _steps(training, epoch)(1)
        self._trained = copy.deepcopy(self.method.state_dict())

    def to_start(self) -> None:
        """Goes back to the weights, statistics and optimizers of the start of training."""
        self.method.load_state_dict(copy.deepcopy(self._start))

    def to_trained(self) -> None:
        """Goes to the state after a step of each phase: some rules predict by what is trained."""
        self.method.load_state_dict(copy.deepcopy(self._trained))


def _steps(training: Training, epoch: int) -> Callable[[int], None]:
    def run(times: int) -> None:
        steps: Iterator[int] = iter(())
        for _ in range(times):
            if next(steps, None) is None:
                steps = iter(training.epoch(epoch))
                next(steps)

    return run


def _predictions(
    method: Method, predict: Callable[[Tensor], Tensor], x: Tensor
) -> Callable[[int], None]:
    @torch.no_grad()
    def run(times: int) -> None:
        method.eval()
        for _ in range(times):
            predict(x)

    return run


def _memory(cell: Cell, data: Data, device: torch.device) -> dict[str, int | None]:
    """Peaks of a few training steps: of the device or the process, and of tensors on a CPU."""

    def work() -> None:
        contestant = Contestant(cell, data, device)
        for name, work in contestant.works(headline_only=True).items():
            if name.startswith("train "):
                work.run(3)

    peak = PeakMemory(device)
    work()
    found = peak.read()
    if device.type == "cpu":
        found["peak_tensor_bytes"] = peak_bytes(work)
    return found
