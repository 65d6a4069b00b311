"""A cell trained by several processes of this machine together, and what becomes of it if one dies.

The first one, rank 0, runs the cell as a process on its own would: lease, checkpoints, evaluation,
record. The others make the steps of training with it. Whoever asked for the cell only watches, and
ends them all when one is gone: the others would wait for it for ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.distributed as dist

from results.store import Store
from suites.engine import engine
from suites.engine.engine import Outcome
from suites.engine.trial import Job

WARNINGS = {signal.SIGTERM, signal.SIGUSR2}  # Slurm sends them to all processes of a job
WORD_S = 5.0  # to wait for word of the first process when another one is gone
PATIENCE_S = 10.0  # for the others to end after the first one
FOREVER = timedelta(days=30)  # of waiting in an exchange, while rank 0 predicts


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Keeps warnings from processes that are started inside, until these let them in."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WARNINGS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def heed(parent: int) -> Callable[[], bool]:
    """In a process that trains: lets warnings in; what it returns tells whether to stop.

    Ctrl-C reaches the whole process group, and Slurm's warning the whole job: only whoever hands
    out the work acts on them, in good order, and asks by SIGTERM.

    Args:
        parent: number of that process; one that was killed cannot ask.
    """
    stopping = False

    def on_terminate(number: int, frame: Any) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_terminate)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WARNINGS)
    return lambda: stopping or os.getppid() != parent


def run(
    job: Job, devices: Sequence[str], prepare: Callable[[], None], stop: Callable[[], bool]
) -> Outcome:
    """Runs a cell in one process for each device; as engine.run.

    Args:
        devices: of the ranks, "cpu" or "cuda:1".
        prepare: called in each process first; it can be pickled.
        stop: asked several times a second; True ends the run with a checkpoint.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    port = free_port()
    processes = [
        context.Process(
            target=_rank,
            args=(job, os.getpid(), rank, devices, port, prepare, theirs if rank == 0 else None),
            daemon=True,
        )
        for rank in range(len(devices))
    ]
    with held_back():
        for process in processes:
            process.start()
    theirs.close()
    outcome: Outcome | None = None
    asked = False
    try:
        while outcome is None:
            if stop() and not asked:
                asked = True
                processes[0].terminate()  # which tells the others
            alive = [process for process in processes if process.exitcode is None]
            wait([ours, *(process.sentinel for process in alive)], timeout=0.2)
            # the others may end in good order while the first one tests
            gone = any(p.exitcode not in (None, 0) for p in processes)
            gone = gone or processes[0].exitcode is not None
            # what the first one has to say explains more than how another one ended
            outcome = _hear(ours, WORD_S if gone else 0)
            killed = any((p.exitcode or 0) < 0 for p in processes[1:])
            if (outcome is None and gone) or (
                outcome is not None
                and (outcome.status == "lost" or (outcome.status == "failed" and killed))
            ):
                outcome = _bury(job, processes)
        return outcome
    finally:
        for process in processes:
            process.join(PATIENCE_S if outcome is not None and outcome.status == "ok" else 1)
            if process.is_alive():
                process.kill()
                process.join()


def _hear(pipe: Connection, seconds: float) -> Outcome | None:
    with contextlib.suppress(EOFError, OSError):
        if pipe.poll(seconds):
            answer: Outcome = pipe.recv()
            return answer
    return None


def _bury(job: Job, processes: Sequence[Any]) -> Outcome:
    """The record of a cell one of whose processes died."""
    wait([process.sentinel for process in processes], timeout=WORD_S)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()  # nobody may write a record of its own now
        process.join()
    # one that was killed comes first: the others may have failed for want of it
    rank = min(range(len(codes)), key=lambda r: codes[r] or 2**30)
    code = codes[rank] or 0
    status, how = "failed", f"ended by itself with exit status {code}"
    if code < 0:
        status, how = "killed", f"was killed by {signal.Signals(-code).name}"
    reason = f"process {rank + 1} of {len(processes)} {how}"
    Store(job.results_dir).publish(engine.accident(job, status, reason))
    return Outcome(status, reason)


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


# ------------------------------------------------------------------- in the ranks' processes


def _rank(
    job: Job,
    parent: int,
    rank: int,
    devices: Sequence[str],
    port: int,
    prepare: Callable[[], None],
    pipe: Connection | None,
) -> None:
    stop = heed(parent)
    prepare()
    with joined(rank, devices, port):
        mine = job.on(devices[rank])
        if pipe is None:  # Slurm tells all processes of a job to end; the first one decides when
            engine.assist(mine)
        else:
            pipe.send(engine.run(mine, stop))


@contextlib.contextmanager
def joined(rank: int, devices: Sequence[str], port: int) -> Iterator[None]:
    """Joins the processes' group; on GPUs, exchanges go from one to the other directly."""
    on_gpus = devices[rank].startswith("cuda")
    if on_gpus:
        torch.cuda.set_device(torch.device(devices[rank]))
    dist.init_process_group(
        "nccl" if on_gpus else "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=len(devices),
        timeout=FOREVER,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
