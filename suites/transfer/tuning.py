"""Fine-tuning: a network that was trained on the source goes on learning on the target."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from methods import Method, Task
from suites.engine import datasets
from suites.engine.cell import Cell, Start
from suites.engine.datasets import Data, Images
from suites.engine.evaluation import EVAL_BATCH
from suites.engine.trial import Trial
from suites.images.pictures import Pictures

READOUT = "fine-tuned"


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
    tuning.start = Start(style, {k: v.clone() for k, v in method.blocks.state_dict().items()})
    data = fitted(target, source).to(trial.device)
    try:
        tuning.finish(tuning.trained(data), data)
    finally:  # what is known of it is on record however it ends
        trial.progress, trial.batch = tuning.progress, tuning.batch
        trial.warnings += tuning.warnings
    return {split: {READOUT: found[next(iter(found))]} for split, found in tuning.metrics.items()}


def tuned_cell(cell: Cell) -> Cell:
    """The training on the target, a cell like any other."""
    protocol = dataclasses.replace(
        cell.protocol, source="", tuning="", weights="", tuning_epochs=0,
        epochs=cell.protocol.tuning_epochs,
    )  # fmt: skip
    if cell.protocol.tuning == "backprop":
        return Cell.of("backprop", {}, cell.architecture, cell.dataset, protocol, cell.seed)
    return dataclasses.replace(cell, kind="train", protocol=protocol)


def fitted(target: Data, source: Task) -> Data:
    """The target's images in the shape of the source's, as its network knows them."""
    task = dataclasses.replace(source, name=target.task.name, n_classes=target.task.n_classes)

    def fit(part: Images) -> Images:
        images, labels = part
        if isinstance(images, Pictures):
            if images.shape[1:] != source.shape:
                raise ValueError(
                    f"{target.task.name} is decoded as it is needed, at {images.shape[2]} pixels; "
                    f"its networks are for {source.shape[1]}: take that size"
                )
            return part
        batches = [datasets.fitted(b, source.shape) for b in images.split(EVAL_BATCH)]
        return (torch.cat(batches) if batches else images), labels

    return dataclasses.replace(
        target, task=task, train=fit(target.train), val=fit(target.val), test=fit(target.test)
    )
