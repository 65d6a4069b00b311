"""Networks that were trained on a source, kept so that each is trained once for all its targets."""

from __future__ import annotations

import dataclasses
import pickle
import time
from pathlib import Path
from typing import Any

import torch

from methods import Method, Task
from results.files import replacing
from results.lease import Lease
from results.store import Store
from suites.engine import datasets
from suites.engine.cell import Cell
from suites.engine.checkpoint import Checkpoint
from suites.engine.datasets import Data
from suites.engine.passes import stacks_of
from suites.engine.trial import Job, LeaseLost, Trial
from suites.transfer import weights

WAIT_S = 1.0
EXTRA = "_extra_state"  # torch's name for what a module keeps besides weights


def pretrained(trial: Trial) -> tuple[Method, Task]:
    """The method of a cell after its training on the source, and the task that it knows.

    Weights are taken from `<results>/pretrained/<key>-<code>-<data>.pt`, where another cell has
    left them; otherwise they are trained, with checkpoints, and left there. Where another process
    is training them, this one waits.

    Raises:
        Stopped, Diverged: as training does.
    """
    job, device = trial.job, trial.device
    cell = job.cell.pretraining()
    if not job.cell.reads_source:
        task = datasets.bare_task(cell.dataset)
        method = cell.build(task, device)
        if job.cell.protocol.weights:
            found = weights.read(_weights_file(job), cell.architecture)
            for stack in stacks_of(method):
                weights.load_into(stack, found, cell.architecture)
        return method, task
    data = datasets.load(cell.dataset, job.data_dir, cell.protocol.val_fraction)
    trial.source_sha256 = data.sha256
    method = cell.build(data.task, device)
    if not job.cell.protocol.epochs:
        return method, data.task
    store = Store(job.results_dir)
    path = store.pretrained_dir / f"{cell.key}-{cell.code_sha()}-{data.sha256[:8]}.pt"
    about = {"key": cell.key, "cell": f"pre-training for {job.label}"}
    lease = Lease(store.live_dir / f"{cell.key}.json", about)
    while not path.exists():
        if not lease.acquire():
            trial.alive()
            time.sleep(WAIT_S)
            continue
        try:
            if not path.exists():  # it may have been finished this moment
                _train(trial, cell, data, lease, path)
        finally:
            lease.release()
    _load(method, path)
    return method, data.task


def _weights_file(job: Job) -> Path:
    """The file that a job names, which has to be the one that its cell means."""
    path = job.weights
    if path is None or not path.is_file():
        raise weights.WeightsError(f"weights {path}: no such file")
    if weights.digest(path) != job.cell.protocol.weights:
        raise weights.WeightsError(f"weights {path} have changed since they were asked for")
    return path


def _train(trial: Trial, cell: Cell, data: Data, lease: Lease, path: Path) -> None:
    """Trains the cell on the source, from its checkpoint if there is one, and writes the weights.

    Without optimizers: they are no more needed, and twice as large.
    """

    def report(progress: dict[str, Any]) -> None:
        trial.report(progress)
        if not lease.renew(**progress):
            raise LeaseLost

    job = dataclasses.replace(trial.job, cell=cell)
    checkpoint = Checkpoint(Store(job.results_dir), cell)
    source = Trial(job, trial.device, checkpoint, trial.stop, report)
    method = source.trained(data.to(trial.device))
    trial.progress.train_s = source.progress.train_s
    trial.progress.memory = source.progress.memory
    kept = {k: v for k, v in method.state_dict().items() if not k.endswith(EXTRA)}
    with replacing(path) as part, open(part, "wb") as file:
        torch.save(kept, file)
    checkpoint.remove()


def _load(method: Method, path: Path) -> None:
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
        missing, unexpected = method.load_state_dict(kept, strict=False)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read, delete it: {error}") from error
    wrong = [name for name in missing if not name.endswith(EXTRA)] + unexpected
    if wrong:
        raise ValueError(f"{path} does not fit {method.name} ({wrong[0]}), delete it")
