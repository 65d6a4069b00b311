"""How a method is scored on images that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

from methods import Method, Task
from suites.engine import datasets
from suites.engine.cell import Cell
from suites.engine.datasets import Data, Images
from suites.engine.seeds import generator

EVAL_BATCH = 256
TOP5_CLASSES = 10  # from so many classes on, it also counts to be among the best five


class Diverged(Exception):
    """What should be a number is infinite, or none."""


def _nothing() -> None: ...


def validate(
    cell: Cell, method: Method, data: Data, epoch: int, alive: Callable[[], None] = _nothing
) -> dict[str, float]:
    """The headline readout on the validation images, in one draw; see `evaluate`."""
    rng = generator(data.val[1].device, cell.seed, "validate", epoch)
    return evaluate(method, data.val, data.task, method.traits.readouts[0], rng, alive)


def read(
    cell: Cell,
    method: Method,
    data: Data,
    split: str,
    readout: str,
    alive: Callable[[], None] = _nothing,
) -> dict[str, float]:
    """A readout on a split, "val" or "test", with the last weights.

    Returns:
        accuracy_pct and loss, and top5_pct where there are TOP5_CLASSES, means over `draws`
        predictions of each of `n` images.
    """
    part: Images = getattr(data, split)
    draws = cell.protocol.eval_draws if readout in method.traits.sampled else 1
    scores = []
    for draw in range(draws):
        rng = generator(part[1].device, cell.seed, split, draw)
        scores.append(evaluate(method, part, data.task, readout, rng, alive))
    mean = {name: sum(score[name] for score in scores) / draws for name in scores[0]}
    return mean | {"n": len(part[1]), "draws": draws}


@torch.no_grad()
def evaluate(
    method: Method,
    part: Images,
    task: Task,
    readout: str,
    rng: torch.Generator,
    alive: Callable[[], None] = _nothing,
) -> dict[str, float]:
    """Accuracies in percent and mean cross-entropy of a readout over images; one wait at the end.

    Args:
        alive: called once a batch.
    Raises:
        Diverged: the scores are not finite, and the largest of them says nothing.
    """
    labels = part[1]
    was_training = method.training
    method.eval()
    right, among_five = torch.zeros(2, dtype=torch.int64, device=labels.device)
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    for images, y in datasets.in_batches(part, EVAL_BATCH):
        alive()
        scores = method.logits(datasets.prepare(images, task), readout, rng)
        right += (scores.argmax(dim=1) == y).sum()
        if task.n_classes >= TOP5_CLASSES:
            among_five += (scores.topk(5, dim=1).indices == y[:, None]).sum()
        loss += F.cross_entropy(scores, y, reduction="sum")
    method.train(was_training)
    if not math.isfinite(float(loss)):
        raise Diverged(f"the scores of {readout!r} are not finite")
    n = len(labels)
    found = {"accuracy_pct": 100 * int(right) / n, "loss": float(loss) / n}
    if task.n_classes >= TOP5_CLASSES:
        found["top5_pct"] = 100 * int(among_five) / n
    return found
