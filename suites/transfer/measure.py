"""What a method learned on one dataset is worth on another: probes on its features.

The network is trained on the source by the method, and then stands still. Images of the target are
brought to the shape of the source's and standardised as those were. Each block's activities, maps
averaged over space down to at most 2048 values, are read by a linear probe and by nearest
neighbours, which are fitted on the training images of the target. Which block, and how the probes
are set, is chosen on its validation images; the test images are read once for each block.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from methods import Method, Task
from methods.blocks import pool_until
from suites.engine import datasets
from suites.engine.datasets import Data, Images
from suites.engine.evaluation import EVAL_BATCH, Diverged
from suites.engine.seeds import generator
from suites.engine.trial import Trial
from suites.transfer import probes, tuning
from suites.transfer.pretrained import pretrained
from suites.transfer.probes import Features, Probe

SHOTS = (1, 10)  # labelled images of each class, of the few-shot probes
MOST_VALUES = 2048
HEADLINE = "linear"


def readouts() -> list[str]:
    """What a target is read by, the headline first; those of single blocks come on top."""
    return [HEADLINE, "neighbours", *(f"linear, {n} per class" for n in SHOTS), tuning.READOUT]


def measure(trial: Trial, data: Data) -> dict[str, Any]:
    """The metrics of a transfer cell: split -> readout -> accuracy and what was chosen.

    Args:
        data: the target's.

    Raises:
        Stopped, Diverged: as training does; features that are not finite are a divergence.
    """
    if trial.cell.protocol.tuning:
        tuning.check(trial, data)
    method, task = pretrained(trial)
    if trial.cell.protocol.tuning:
        return tuning.measure(trial, method, task, data)
    begun = time.monotonic()
    data = data.to(trial.device)
    train, val, test = (
        _activities(method, part, task, trial.alive) for part in (data.train, data.val, data.test)
    )
    n_classes, labels = data.task.n_classes, (data.train[1], data.val[1], data.test[1])

    def over_blocks(fit: Callable[..., Probe]) -> list[Probe]:
        return [
            fit(*zip(parts, labels, strict=True), n_classes, trial.alive)
            for parts in zip(train, val, test, strict=True)
        ]

    def with_few(chosen: Tensor) -> Callable[..., Probe]:
        """A linear probe that sees all training images, and the labels of the chosen ones."""

        def fit(
            whole: Features, on_val: Features, on_test: Features, n: int, alive: Callable[[], None]
        ) -> Probe:
            some = whole[0][chosen], whole[1][chosen]
            return probes.linear(some, on_val, on_test, n, alive, unlabelled=whole[0])

        return fit

    # in float32, whatever the method computes in
    with torch.autocast(trial.device.type, enabled=False):
        read: dict[str, list[Probe]] = {
            HEADLINE: over_blocks(probes.linear), "neighbours": over_blocks(probes.neighbours),
        }  # fmt: skip
        for shots in SHOTS:
            rng = generator("cpu", trial.cell.seed, data.task.name, "shots")
            few = probes.few(data.train[1].cpu(), shots, rng)
            if few is not None:
                few = few.to(trial.device)
                read[f"linear, {shots} per class"] = over_blocks(with_few(few))
    trial.progress.eval_s = time.monotonic() - begun
    return _metrics(read, {"val": len(labels[1]), "test": len(labels[2])})


def _metrics(read: dict[str, list[Probe]], sizes: dict[str, int]) -> dict[str, Any]:
    """Every probe by its best block, and the two that use all labels by each block as well."""
    found: dict[str, Any] = {}
    for split, n in sizes.items():
        found[split] = {}
        for name, by_block in read.items():
            best = probes.best_of(by_block)
            block = by_block.index(best) + 1
            found[split][name] = _metric(best, split, n) | {"block": block}
        for name in (HEADLINE, "neighbours"):
            for l, probe in enumerate(read[name]):
                found[split][f"{name}, block {l + 1}"] = _metric(probe, split, n)
    return found


def _metric(probe: Probe, split: str, n: int) -> dict[str, Any]:
    score = probe.val if split == "val" else probe.test
    loss = None if math.isnan(score.loss) else score.loss
    return {
        "accuracy_pct": score.right, "loss": loss, "n": n, "draws": 1, "choice": probe.choice,
    }  # fmt: skip


@torch.no_grad()
def _activities(
    method: Method, part: Images, task: Task, alive: Callable[[], None]
) -> list[Tensor]:
    """The activities of every block on images, (N, D_l) each."""
    method.eval()
    shapes = [block.out_shape for block in method.blocks]
    found: list[Tensor] = []
    first = 0
    for images in part[0].split(EVAL_BATCH):
        alive()
        x = datasets.prepare(datasets.fitted(images, task.shape), task)
        features = [_pooled(h, shapes, l).float() for l, h in enumerate(method.features(x))]
        if not found:  # in one piece: of batches put together in the end, all would be there twice
            found = [h.new_empty((len(part[0]), h.shape[1])) for h in features]
        for whole, h in zip(found, features, strict=True):
            whole[first : first + len(h)] = h
        first += len(x)
    for l, activities in enumerate(found):
        if not bool(activities.isfinite().all()):
            raise Diverged(f"the activities of block {l + 1} are not finite")
    return found


def _pooled(h: Tensor, shapes: Sequence[tuple[int, ...]], l: int) -> Tensor:
    """Activities, (B, D), averaged over space where they are those of a block with maps."""
    if l < len(shapes) and len(shapes[l]) == 3 and h.shape[1] == math.prod(shapes[l]):
        return pool_until(h.view(-1, *shapes[l]), MOST_VALUES).flatten(1)
    return h
