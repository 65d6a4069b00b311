"""Times works against each other: in turns, on a clock that waits for the device, repeatedly."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from results.store import without_collector
from suites.costs.energy import Meter
from suites.engine.clock import Clock

LATENCY_CALLS = 200  # at most, for the percentiles of one call
LEAST_CALLS = 5
MOST_WARM_UPS = 5
AGREE = 0.7  # of the call before


@dataclass(frozen=True)
class Work:
    """Something that can be done n times over.

    Attributes:
        amount: what doing it once comes to, in images or FLOPs; its rates are in that per second.
        before: what goes ahead of each repeat, with the clock standing.
    """

    run: Callable[[int], object]
    amount: float
    before: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Timed:
    """What came out for one work.

    Attributes:
        seconds: of doing it once, one figure per repeat.
        rates: amount per second, likewise.
        joules: of doing it once, mean; None where the device reports no energy.
    """

    seconds: tuple[float, ...]
    rates: tuple[float, ...]
    joules: float | None


def interleaved(
    works: Mapping[str, Work],
    device: torch.device,
    repeats: int,
    least_s: float,
    before_round: Callable[[], None] = lambda: None,
) -> dict[str, Timed]:
    """Times every work `repeats` times, in turns, so that a drifting machine slows all of them.

    Each is done twice or more to warm up, until it gets no faster, which tells how often it fits
    into `least_s` seconds: that is how long one repeat of it lasts at least. Every other round
    runs in reverse order: no work always comes behind the same one. Python's garbage collector
    waits.

    Args:
        before_round: called before the warm-up and before each round.
    """
    meter = Meter(device)
    times = {}
    before_round()
    with without_collector():
        for name, work in works.items():
            work.before()
            # what is compiled takes its time at the first calls: on until it gets no faster
            last, once = math.inf, _timed(work, 1, device)
            for _ in range(MOST_WARM_UPS):
                if once > AGREE * last:
                    break
                last, once = once, _timed(work, 1, device)
            times[name] = max(1, math.ceil(least_s / max(once, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    joules: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats):
        before_round()
        with without_collector():
            for name in list(works)[:: -1 if repeat % 2 else 1]:
                works[name].before()
                before = meter.read()
                seconds[name].append(_timed(works[name], times[name], device) / times[name])
                after = meter.read()
                if before is not None and after is not None:
                    joules[name].append((after - before) / times[name])
    return {
        name: Timed(
            tuple(seconds[name]),
            tuple(works[name].amount / s for s in seconds[name]),
            statistics.fmean(joules[name]) if joules[name] else None,
        )
        for name in works
    }


def _timed(work: Work, n: int, device: torch.device) -> float:
    clock = Clock(device)
    with clock.running():
        work.run(n)
    return clock.seconds


def summary(values: tuple[float, ...]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def ratios(one: Timed, other: Timed) -> tuple[float, ...]:
    """How many times the rate of the other, repeat by repeat: neighbours in time."""
    return tuple(a / b for a, b in zip(one.rates, other.rates, strict=True))


def latencies(
    call: Callable[[], object], device: torch.device, most_s: float
) -> dict[str, float | int]:
    """Percentiles of the seconds of single calls, in milliseconds: p50, p90, p99, and how many.

    As many calls as fit into `most_s` seconds, but at least LEAST_CALLS.
    """
    work = Work(lambda n: call(), 1)
    found: list[float] = []
    with without_collector():
        call()
        while len(found) < LEAST_CALLS or (sum(found) < most_s and len(found) < LATENCY_CALLS):
            found.append(_timed(work, 1, device))
    found.sort()
    at = {f"p{p}": 1e3 * found[min(len(found) - 1, len(found) * p // 100)] for p in (50, 90, 99)}
    return {**at, "calls": len(found)}
