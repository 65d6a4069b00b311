"""Two processes on halves of a mini-batch make the steps of one on the whole."""

from __future__ import annotations

import multiprocessing
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from methods import METHODS, Method, Task, batch
from suites.auditing.sharing import double_precision
from suites.engine.architectures import ARCHITECTURES
from suites.engine.plugins import load_methods
from suites.engine.ranks import share
from suites.suite import rows_of

TASK = Task("t", (1, 8, 8), 5)
WIDTH = 0.25
load_methods([])


def pairs() -> list[tuple[Any, str]]:
    """Every row on the networks that it trains."""
    found = []
    for row in rows_of(sorted(METHODS)):
        cls = METHODS[row.method]
        config = cls.Config(**row.settings)
        for name in ("mlp-2x500", "cnn-small", "resnet18"):
            blocks = ARCHITECTURES[name].blocks(TASK, cls.style(config), WIDTH)
            if cls.refuse(blocks, TASK, config) is None:
                found.append((row, name))
    return found


PAIRS = pairs()


def steps(row: Any, architecture: str, ranks: int, rank: int) -> list[torch.Tensor]:
    """All parameters and buffers after two steps of each phase, on one's rows of the batch."""
    cls = METHODS[row.method]
    config = cls.Config(**row.settings)
    torch.manual_seed(0)
    blocks = ARCHITECTURES[architecture].blocks(TASK, cls.style(config), WIDTH)
    method: Method = cls(blocks, TASK, config, torch.Generator().manual_seed(0))
    if ranks > 1:
        share(method)
    images, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 5
    with batch.alone():  # all of the data, in each process
        method.train().start(images, y)
    own = slice(16 * rank // ranks, 16 * (rank + 1) // ranks)
    losses = []
    for phase, n in method.train().phases(100):
        for _ in range(2 if n else 0):
            with torch.no_grad():
                x = method.frozen(images[own], phase)
            loss = method.train_step(x, y[own], phase, 0.0)["loss"]
            losses.append(batch.total(loss) / batch.ranks())
    return [
        *losses,
        *(t.detach().clone() for t in method.state_dict().values() if torch.is_tensor(t)),
    ]


def in_rank(rank: int, port: int, path: Path, work: Callable[[int], Any]) -> None:
    """Writes what `work` gives in this process of the group, or what it raised."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        torch.save(work(rank), path)
    except Exception:
        torch.save(traceback.format_exc(), path)
    dist.destroy_process_group()


def all_pairs(rank: int) -> list[Any]:
    with double_precision():
        return [steps(row, name, 2, rank) for row, name in PAIRS]


def in_two(folder: Path, work: Callable[[int], Any]) -> list[Any]:
    """What `work` gives in each process of a group of two."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    paths = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        context.Process(target=in_rank, args=(rank, port, path, work))
        for rank, path in enumerate(paths)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    answers = [torch.load(path) for path in paths]
    for answer in answers:
        assert not isinstance(answer, str), answer
    return answers


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What both processes have in the end, for all pairs of a row and a network."""
    return list(zip(*in_two(tmp_path_factory.mktemp("ranks"), all_pairs), strict=True))


@pytest.mark.parametrize("which", range(len(PAIRS)), ids=[f"{r.id}-{n}" for r, n in PAIRS])
def test_halves_make_the_steps_of_the_whole(which: int, shared: list[Any]) -> None:
    row, architecture = PAIRS[which]
    with double_precision():
        alone = steps(row, architecture, 1, 0)
    for one, two, mine in zip(*shared[which], alone, strict=True):
        assert torch.equal(one, two)  # the processes never drift apart
        assert torch.allclose(one.double(), mine.double(), rtol=1e-6, atol=1e-9)
