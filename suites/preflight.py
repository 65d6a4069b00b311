"""What must hold before any work starts: of this machine, of the data, of the options together."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from results.store import Store
from suites.engine import datasets
from suites.engine.cell import Cell
from suites.engine.datasets import DatasetError
from suites.images import folders, names
from suites.request import Request
from suites.suite import RequestError, Suite


def check_device(wanted: str) -> str:
    """The device to train on. Raises RequestError."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise RequestError(
            "--device cuda: torch finds no CUDA device here; use --device cpu, or a machine and a "
            "torch build with CUDA"
        )
    return "cuda" if available and wanted != "cpu" else "cpu"


def check_interval(args: argparse.Namespace) -> None:
    """Raises RequestError for a time between checkpoints that makes no sense."""
    if not args.checkpoint_every >= 0:  # nan is neither
        raise RequestError(f"--checkpoint-every must not be negative, not {args.checkpoint_every}")


def check_ranks(ranks: int, request: Request, n_gpus: int | None = None) -> None:
    """Raises RequestError where the cells cannot be shared out to so many processes.

    Args:
        n_gpus: those to train on; None without any.
    """
    if ranks < 1:
        raise RequestError(f"--ranks must be at least 1, not {ranks}")
    if ranks == 1:
        return
    if n_gpus is not None and ranks > n_gpus:
        raise RequestError(
            f"--ranks {ranks}: each process needs a GPU of its own, and there are {n_gpus} (a job "
            f"on a cluster gets --gpus {ranks})"
        )
    if request.suite.kind != "train":
        name = request.suite.name
        raise RequestError(f"--ranks is for tables of accuracies, which {name!r} is not")
    for wanted in request.wanted:
        protocol = wanted.cell.protocol
        if wanted.cell.kind == "train" and protocol.batch_size % ranks:
            raise RequestError(
                f"--ranks {ranks}: a mini-batch of {protocol.batch_size} ({wanted.column}) cannot "
                "be shared out evenly"
            )
        if bad := sorted({*protocol.execution} - {"channels_last"}):
            raise RequestError(f"--ranks {ranks} does not go with --execution {bad[0]}")


def check_workers(workers: int | None, suite: Suite) -> None:
    """Raises RequestError for a number of workers that makes no sense."""
    if suite.kind == "cost" and workers not in (None, 1):
        raise RequestError(
            f"--workers {workers}: {suite.name!r} times one cell at a time, since whatever "
            "runs beside it slows it down"
        )
    if workers is not None and workers < 1:
        raise RequestError(f"--workers must be at least 1, not {workers}")


def check_shares(ranks: int, request: Request, sizes: Mapping[str, int]) -> None:
    """Raises RequestError where a data set is less than a mini-batch and cannot be shared out.

    Args:
        sizes: training images of each data set.
    """
    for wanted in request.wanted:
        n = min(wanted.cell.protocol.batch_size, sizes.get(wanted.cell.dataset, 0))
        if ranks > 1 and wanted.cell.kind == "train" and n % ranks:
            raise RequestError(
                f"--ranks {ranks}: {wanted.cell.dataset} has {n} training images, less than a "
                "mini-batch, which cannot be shared out evenly"
            )


def check_writable(store: Store, report_dir: Path) -> None:
    """Proves that results and report can be written, before anything is computed."""
    try:
        store.prepare()
    except OSError as error:
        raise RequestError(
            f"results directory {store.root} cannot be written to ({error.strerror}); "
            "choose another with --results-dir"
        ) from None
    try:
        report_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=report_dir):
            pass
    except OSError as error:
        raise RequestError(
            f"report directory {report_dir} cannot be made ({error.strerror}); "
            "choose another with --report-dir"
        ) from None


def _check_folders(cells: Sequence[Cell], data_dir: Path | None) -> None:
    """Raises RequestError where source and target are photographs of one folder, by any names."""
    for dataset, source in {(c.dataset, c.protocol.source) for c in cells if c.reads_source}:
        target, known = names.parse(dataset), names.parse(source)
        if dataset == source or target is None or known is None or data_dir is None:
            continue
        with contextlib.suppress(DatasetError):  # packed arrays may have lost their photographs
            one, other = (folders.find(p.folder, data_dir)[0].resolve() for p in (target, known))
            if one == other:
                raise RequestError(
                    f"{dataset} from {source}: both are photographs of {one}, so that validation "
                    "images of the target were trained on"
                )


def check_data(
    request: Request, store: Store, data_dir: Path | None, download: bool, fresh: bool
) -> dict[str, int]:
    """Reads every dataset once, so that a broken file ends the run before it begins.

    Args:
        fresh: records will not be reused.

    Returns:
        Training images of each.

    Raises:
        DatasetError: files are missing or broken.
        RequestError: records are of other data of the same name, or of a newer version; or a cell
            would choose on validation images, of which its data set has none.
    """
    cells = [w.cell for w in request.wanted]
    read = {(c.dataset, c.protocol.val_fraction): c.kind == "transfer" for c in cells}
    for c in cells:
        if c.reads_source:
            read.setdefault((c.protocol.source, c.protocol.val_fraction), False)
    _check_folders(cells, data_dir)
    sizes: dict[str, int] = {}
    hashes = {}
    for (name, val_fraction), chooses in read.items():
        data = datasets.load(name, data_dir, val_fraction, download)
        sizes[name] = min(len(data.train[1]), sizes.get(name, len(data.train[1])))
        hashes[name] = data.sha256
        if chooses and not len(data.val[1]):
            raise RequestError(
                f"{name}: none of its {len(data.train[1])} training images is in the validation "
                "split, on which block and regularisation are chosen; take more images"
            )
    if not fresh:
        fields = ("data_sha256", "source_sha256")
        summary = store.read((c.key for c in cells), fields=fields)
        if summary.newer:
            raise RequestError(f"{summary.newer[0]}, or take another --results-dir")
        records = summary.records
        for cell in cells:
            sources = cell.dataset, cell.protocol.source if cell.reads_source else ""
            for name, field in zip(sources, fields, strict=True):
                made_of = records.get(cell.key, {}).get(field)
                if name and made_of and made_of != hashes[name]:
                    raise RequestError(
                        f"{name} is not what it was: records in {store.root} are of data with "
                        f"SHA-256 {made_of[:12]}…, and here it is {hashes[name][:12]}…; "
                        "take another --results-dir, or --fresh to train again"
                    )
    return sizes
