"""A cell trained by several processes together, and what becomes of it if one dies.

The first one, rank 0, runs the cell as a process on its own would: lease, checkpoints, evaluation,
record. The others make the steps of training with it, on this machine or on other nodes of the same
job (nodes.py). Whoever asked for the cell only watches, and ends them all when one is gone: the
others would wait for it for ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch
import torch.distributed as dist

from results.store import Store
from suites.engine.trial import Job
from suites.launching import attempt
from suites.launching.attempt import Outcome

WARNINGS = {signal.SIGTERM, signal.SIGUSR2}  # Slurm sends them to all processes of a job
WORD_S = 5.0  # to wait for word of the first process when another one is gone
PATIENCE_S = 10.0  # for the others to end after the first one
FOREVER = timedelta(days=30)  # of waiting in an exchange, while rank 0 predicts
LOST = 300  # in the place of an exit status: the node of the process does not answer any more


class Node(Protocol):
    """Another machine; see nodes.Node.

    Attributes:
        codes: how the processes that it started last have ended, as `exitcode`, or LOST.
    """

    connection: Connection
    codes: list[int | None]

    def start(self, part: Part) -> None: ...
    def end(self) -> None: ...
    def hear(self) -> None: ...


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


@dataclass(frozen=True)
class Part:
    """The processes that one machine has of those that train a cell together.

    Attributes:
        ranks: their numbers among all.
        devices: of all ranks, "cpu" or "cuda:1".
        where: host and port at which they meet.
        prepare: called in each process first; it can be pickled.
    """

    job: Job
    ranks: range
    devices: tuple[str, ...]
    where: tuple[str, int]
    prepare: Callable[[], None]


def start(part: Part, pipe: Connection | None = None) -> list[Any]:
    """Starts processes on this machine.

    Args:
        pipe: by which rank 0 tells the outcome.
    """
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=_rank, args=(part, rank, os.getpid(), None if rank else pipe), daemon=True
        )
        for rank in part.ranks
    ]
    with held_back():
        for process in processes:
            process.start()
    return processes


def run(
    job: Job,
    devices: Sequence[str],
    prepare: Callable[[], None],
    stop: Callable[[], bool],
    nodes: Sequence[Node] = (),
) -> Outcome:
    """Runs a cell in one process for each device; as attempt.run.

    Args:
        devices: of the ranks; every machine has as many of them.
        prepare: called in each process first; it can be pickled.
        stop: asked several times a second; True ends the run with a checkpoint.
        nodes: other machines.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    n = len(devices) // (1 + len(nodes))
    host = address() if nodes else "127.0.0.1"
    meeting = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
    first, *others = (
        Part(job, range(n * i, n * i + n), tuple(devices), (host, meeting.port), prepare)
        for i in range(1 + len(nodes))
    )
    processes = start(first, theirs)
    theirs.close()
    for node, part in zip(nodes, others, strict=True):
        node.start(part)
    outcome: Outcome | None = None
    asked = False
    try:
        while outcome is None:
            if stop() and not asked:
                asked = True
                processes[0].terminate()  # which tells the others
            alive = [process for process in processes if process.exitcode is None]
            handles = [ours, *(process.sentinel for process in alive)]
            wait([*handles, *(node.connection for node in nodes)], timeout=0.2)
            codes = _codes(processes, nodes)
            # the others may end in good order while the first one tests
            gone = codes[0] is not None or any(code not in (None, 0) for code in codes)
            # what the first one has to say explains more than how another one ended
            outcome = _hear(ours, WORD_S if gone else 0)
            killed = any(code == LOST or (code or 0) < 0 for code in codes[1:])
            if (outcome is None and gone) or (
                outcome is not None
                and (outcome.status == "lost" or (outcome.status == "failed" and killed))
            ):
                outcome = _bury(job, processes, nodes)
        return outcome
    finally:
        for process in processes:
            process.join(PATIENCE_S if outcome is not None and outcome.status == "ok" else 1)
            if process.is_alive():
                process.kill()
                process.join()
        for node in nodes:
            node.end()


def _codes(processes: Sequence[Any], nodes: Sequence[Node]) -> list[int | None]:
    """How each rank has ended: its exit status, −signal, LOST with its node, None if it runs."""
    codes = [process.exitcode for process in processes]
    for node in nodes:
        node.hear()
        codes += node.codes
    return codes


def _hear(pipe: Connection, seconds: float) -> Outcome | None:
    with contextlib.suppress(EOFError, OSError):
        if pipe.poll(seconds):
            answer: Outcome = pipe.recv()
            return answer
    return None


def _bury(job: Job, processes: Sequence[Any], nodes: Sequence[Node]) -> Outcome:
    """The record of a cell one of whose processes died."""
    end = time.monotonic() + WORD_S
    while None in _codes(processes, nodes) and time.monotonic() < end:
        time.sleep(0.1)
    codes = _codes(processes, nodes)
    for process in processes:
        process.kill()  # nobody may write a record of its own now
        process.join()
    # one that was killed comes first: the others may have failed for want of it
    rank = min(range(len(codes)), key=lambda r: _blame(codes[r]))
    code = codes[rank] or 0
    status, how = "failed", f"ended by itself with exit status {code}"
    if code == LOST:
        status, how = "killed", "is gone with its node, which does not answer any more"
    elif code < 0:
        status, how = "killed", f"was killed by {signal.Signals(-code).name}"
    reason = f"process {rank + 1} of {len(codes)} {how}"
    Store(job.results_dir).publish(attempt.accident(job, status, reason))
    return Outcome(status, reason)


def _blame(code: int | None) -> int:
    """How likely a process with this exit status is the cause, the least most."""
    if code == LOST:
        return -LOST
    return code or 2**30


def address() -> str:
    """Where this machine can be reached by others of its job."""
    # srun was called on the node of the first task
    return os.environ.get("SLURM_LAUNCH_NODE_IPADDR") or socket.gethostname()


# ------------------------------------------------------------------- in the ranks' processes


def _rank(part: Part, rank: int, parent: int, pipe: Connection | None) -> None:
    stop = heed(parent)
    part.prepare()
    if pipe is None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with joined(rank, part.devices, part.where):
        mine = part.job.on(part.devices[rank])
        if pipe is None:  # Slurm tells all processes of a job to end; the first one decides when
            attempt.assist(mine)
        else:
            pipe.send(attempt.run(mine, stop))


def _end_with(parent: int) -> None:
    """Ends this process with its parent: it may be waiting for others for ever."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


@contextlib.contextmanager
def joined(rank: int, devices: Sequence[str], where: tuple[str, int]) -> Iterator[None]:
    """Joins the processes' group; on GPUs, exchanges go from one to the other directly."""
    on_gpus = devices[rank].startswith("cuda")
    if on_gpus:
        torch.cuda.set_device(torch.device(devices[rank]))
    dist.init_process_group(
        "nccl" if on_gpus else "gloo",
        store=dist.TCPStore(*where, is_master=False),
        rank=rank,
        world_size=len(devices),
        timeout=FOREVER,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()
