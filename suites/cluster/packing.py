"""Short cells share a job: which ones, from what they took before or are guessed to take."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from results.record import Record, seconds_taken
from slurm.site import Site
from suites.engine.architectures import ARCHITECTURES
from suites.engine.cell import Cell
from suites.engine.datasets import bare_task
from suites.engine.trial import Job

# for guesses: operations per second of training, per core or GPU
CORE_RATE, GPU_RATE, START_MINUTES = 2e10, 5e12, 0.3
MEASURING_MINUTES = 2.0  # a cell that is not trained


def packs(
    jobs: Sequence[Job],
    site: Site,
    took: Sequence[tuple[Cell, Record]] = (),
    sizes: Mapping[str, int] | None = None,
) -> Iterator[list[Job]]:
    """Jobs in their order, as many together as fill the minutes of a pack.

    Cells of transfer that need the same training on a source are never parted.

    Args:
        took: cells that have ended well, with their records.
        sizes: training images of each data set.
    """
    # other seeds of a cell take as long
    known = {_sort_of(cell): minutes_of(record) for cell, record in took}
    room = site.pack_minutes * site.side_by_side
    together: dict[str, list[Job]] = {}
    for job in jobs:
        together.setdefault(_shared(job.cell), []).append(job)
    pack: list[Job] = []
    filled = 0.0
    for some in together.values():
        minutes = 0.0
        for n, job in enumerate(some):
            took_before = known.get(_sort_of(job.cell))
            minutes += took_before or _guess(job.cell, site, sizes or {}, pretrained=n > 0)
        if pack and filled + minutes > room:
            yield pack
            pack, filled = [], 0.0
        pack += some
        filled += minutes
    if pack:
        yield pack


def _shared(cell: Cell) -> str:
    """Equal for cells that one training on a source serves: apart, they would wait for it."""
    protocol = cell.protocol
    if cell.reads_source and protocol.epochs and not protocol.weights:
        return cell.pretraining().key
    return cell.key


def minutes_of(record: Record) -> float:
    """What the cell of a record took, start included."""
    return START_MINUTES + seconds_taken(record) / 60


def _guess(cell: Cell, site: Site, sizes: Mapping[str, int], pretrained: bool = False) -> float:
    """Minutes that a cell may take: thrice the operations of a forward pass for each image."""
    if cell.protocol.source:  # trained on the source, and perhaps further on the target
        protocol = cell.protocol
        images = sizes.get(cell.dataset, 60_000) * protocol.tuning_epochs
        if not protocol.weights and not pretrained:
            images += sizes.get(protocol.source, 60_000) * protocol.epochs
    elif cell.kind == "train":
        images = sizes.get(cell.dataset, 60_000) * cell.protocol.epochs
    else:
        return MEASURING_MINUTES
    # images of a target are brought to the shape of the source's
    operations = 3 * _operations(cell.architecture, cell.protocol.source or cell.dataset) * images
    rate = GPU_RATE if site.gpus else CORE_RATE * site.cpus / site.side_by_side
    measuring = MEASURING_MINUTES if cell.protocol.source else 0.0
    return START_MINUTES + measuring + operations / rate / 60


def _sort_of(cell: Cell) -> str:
    """All of a cell but its seed."""
    return repr({k: v for k, v in cell.identity().items() if k != "seed"})


@functools.cache
def _operations(architecture: str, dataset: str) -> float:
    """Floating-point operations of one image's forward pass."""
    task = bare_task(dataset)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        blocks = ARCHITECTURES[architecture].blocks(task).eval()
        blocks(torch.empty(1, *task.shape))
    return float(counter.get_total_flops())
