"""Fine-tuning: a network that was trained on the source goes on learning on the target."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods import Method, Task
from suites.engine import datasets
from suites.engine.cell import Cell, Start
from suites.engine.datasets import Data, Images
from suites.engine.evaluation import EVAL_BATCH
from suites.engine.passes import stacks_of
from suites.engine.trial import Trial
from suites.images.decoding import Pixels
from suites.images.pictures import Pictures

READOUT = "fine-tuned"
MOST_FITTED = 2**31


def measure(trial: Trial, method: Method, source: Task, target: Data) -> dict[str, Any]:
    """The metrics of a cell that is fine-tuned: split -> readout -> accuracy.

    Blocks start from what the source has made of them, and all else anew. Images of the target are
    brought to the shape of the source's and standardised as those were.

    Raises:
        Stopped, Diverged: as training does.
    """
    cell = tuned_cell(trial.cell)
    job = dataclasses.replace(trial.job, cell=cell)
    tuning = Trial(job, trial.device, trial.checkpoint, trial.stop, trial.report)
    style = trial.cell.method_class().style(trial.cell.method_config())
    first, *copies = (
        {name: tensor.clone() for name, tensor in stack.state_dict().items()}
        for stack in stacks_of(method)
    )
    tuning.start, tuning.copies = Start(style, first), copies
    data = fitted(target, source).to(trial.device)
    # what a checkpoint goes on from was made of both
    both = hashlib.sha256(f"{data.sha256} {trial.source_sha256}".encode()).hexdigest()
    data = dataclasses.replace(data, sha256=both if trial.source_sha256 else data.sha256)
    try:
        tuning.finish(tuning.trained(data), data)
    finally:  # what is known of it is on record however it ends
        trial.progress, trial.batch = tuning.progress, tuning.batch
        trial.warnings += tuning.warnings
    return {split: {READOUT: found[next(iter(found))]} for split, found in tuning.metrics.items()}


def check(trial: Trial, target: Data) -> None:
    """Raises ValueError, ahead of hours of training, for what could not be tuned after them."""
    cell, cpu = trial.cell.pretraining(), torch.device("cpu")
    source = datasets.bare_task(cell.dataset)
    _check_shape(target, source)
    style = cell.method_class().style(cell.method_config())
    start = Start(style, cell.build(source, cpu).blocks.state_dict())
    task = dataclasses.replace(source, n_classes=target.task.n_classes)
    tuned_cell(trial.cell).build(task, cpu, start)


def tuned_cell(cell: Cell) -> Cell:
    """The training on the target, a cell like any other."""
    protocol = cell.protocol.of_training(cell.protocol.tuning_epochs)
    if cell.protocol.tuning == "backprop":
        return Cell.of("backprop", {}, cell.architecture, cell.dataset, protocol, cell.seed)
    return dataclasses.replace(cell, kind="train", protocol=protocol)


class Fitted:
    """Images in memory that are brought to another shape whenever they are asked for."""

    crops = False
    piece = 64
    digest = ""  # they are known by what they are made from

    def __init__(self, images: Tensor, shape: tuple[int, int, int]) -> None:
        self.shape, self._images = shape, images

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: NDArray[np.int64], draws: NDArray[np.float64] | None) -> Pixels:
        """See `suites.images.pictures.Source`."""
        parts = torch.from_numpy(index).split(EVAL_BATCH)
        found = [datasets.fitted(self._images[part], self.shape).numpy() for part in parts]
        return np.concatenate(found) if found else np.empty((0, *self.shape), np.uint8)


def fitted(target: Data, source: Task) -> Data:
    """The target's images in the shape of the source's, as its network knows them.

    Where they would take more than MOST_FITTED bytes, mini-batches are fitted as they are needed.
    """
    _check_shape(target, source)
    task = dataclasses.replace(source, name=target.task.name, n_classes=target.task.n_classes)

    def fit(part: Images) -> Images:
        images, labels = part
        if isinstance(images, Pictures):
            return part
        channels, height, width = source.shape
        own = Fitted(images, (channels, height, width))
        if len(images) * math.prod(own.shape) <= MOST_FITTED:
            return torch.from_numpy(own.read(np.arange(len(images)), None)), labels
        return Pictures(own), labels

    return dataclasses.replace(
        target, task=task, train=fit(target.train), val=fit(target.val), test=fit(target.test)
    )


def _check_shape(target: Data, source: Task) -> None:
    """Raises ValueError for images that cannot be brought to the shape of the source's."""
    images = target.train[0]
    if isinstance(images, Pictures) and images.shape[1:] != source.shape:
        raise ValueError(
            f"{target.task.name} is decoded as it is needed, at {images.shape[2]} pixels; its "
            f"networks are for {source.shape[1]}: take that size"
        )
