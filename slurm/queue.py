"""What Slurm says of its jobs: a handful of commands, each asked once for all jobs together."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass

ASK_TIMEOUT_S = 90.0  # a controller that is busy or restarting answers late

# Jobs in these states will not run again by themselves. NODE_FAIL and PREEMPTED are not among them:
# for a moment, a job that Slurm is about to queue again is shown as that.
OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
DEFAULTS = ("SQUEUE_", "SACCT_", "SCONTROL_", "SLURM_TIME_FORMAT", "SLURM_CLUSTERS")
# reasons of waiting that do not go away by themselves
STUCK = (
    "JobHeld", "BadConstraints", "DependencyNeverSatisfied", "launch_failed", "launch failed",
    "PartitionNodeLimit", "PartitionTimeLimit", "PartitionConfig",
    "AccountNotAllowed", "QOSNotAllowed",
)  # fmt: skip
WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}


class SlurmError(Exception):
    """Slurm is not here, cannot be reached or refuses; the message is one line for the user."""


@dataclass(frozen=True)
class Entry:
    """A job, or one task of an array, as the queue shows it."""

    name: str
    job: str  # of the array
    task: int  # 0 for a job that is no array
    state: str
    reason: str
    nodes: str

    @property
    def alive(self) -> bool:
        """Whether it runs, or will."""
        return self.state not in OVER

    @property
    def fate(self) -> str:
        """How it is, in the words of `fates`."""
        return _fate(self.state, "", self.nodes)

    @property
    def waiting(self) -> bool:
        return self.state in WAITING

    @property
    def stuck(self) -> bool:
        """Whether it waits for somebody to do something about it."""
        return self.waiting and self.reason.startswith(STUCK)


def require() -> None:
    """Raises SlurmError where jobs cannot be submitted."""
    missing = [name for name in ("sbatch", "srun", "squeue", "scontrol") if not shutil.which(name)]
    if missing:
        raise SlurmError(
            f"no {missing[0]} on this machine: jobs are submitted on a login node of a Slurm "
            "cluster"
        )


def here() -> bool:
    """Whether the queue can be looked at from this machine."""
    return shutil.which("squeue") is not None


def ask(*command: str) -> str:
    """The output of a Slurm command. Raises SlurmError."""
    # a user's defaults for these commands would hide jobs from us
    plain = {k: v for k, v in os.environ.items() if not k.startswith(DEFAULTS)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ASK_TIMEOUT_S,
            env=plain,
        )  # fmt: skip
    except FileNotFoundError:
        raise SlurmError(f"no {command[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(
            f"Slurm does not answer: {command[0]} took more than {ASK_TIMEOUT_S:.0f} s"
        ) from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        what = said[-1].removeprefix(f"{command[0]}: ").removeprefix("error: ")
        raise SlurmError(
            f"Slurm does not answer here (is this a login node?): {command[0]} says {what!r}"
        )
    return done.stdout


def entries(names: Collection[str], users: Collection[int] = ()) -> list[Entry]:
    """All jobs of these names that Slurm remembers, array tasks one by one.

    Args:
        users: numbers of those who submitted them; all users, unless they are named.

    Raises:
        SlurmError: it cannot be asked.
    """
    if not names:
        return []
    wanted = set(names)
    # The names are chosen here and not by squeue: there may be too many for a command line. With
    # all states, a job that was just lost is shown as that, and not missing.
    text = ask(
        "squeue", "--noheader", "--all", "--array", "--states=all", "--format=%F|%K|%T|%N|%r|%j",
        *([f"--user={','.join(map(str, sorted(users)))}"] if users else []),
    )  # fmt: skip
    found = []
    for line in text.splitlines():
        parts = line.strip().split("|", 5)
        if len(parts) == 6 and parts[5] in wanted:  # the names of others' jobs may hold anything
            job, task, state, nodes, reason, name = parts
            number = _number("" if task == "N/A" else task)
            if number is not None:
                found.append(Entry(name, job, number, state, reason, nodes))
    return found


def _number(task: str) -> int | None:
    """Index of a task; 0 where there is no array, None for several at once, "[2-9%2]"."""
    if not task:
        return 0
    return int(task) if task.isdigit() else None


def largest_array() -> int:
    """How many tasks an array may have at most. Raises SlurmError."""
    text = ask("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, flags=re.MULTILINE)
    return max(1, int(found[1]) - 1) if found else 1000


def fates(jobs: Collection[str]) -> dict[tuple[str, int], str]:
    """How jobs that are over ended: (job, task) -> "TIMEOUT on n1, exit status 0:15".

    From accounting where the cluster has it, else from the controller, which forgets after a few
    minutes. What neither knows is missing.
    """
    if not jobs:
        return {}
    try:
        lines = ask(
            "sacct", "--noheader", "--parsable2", "--allocations", "--duplicates",
            "--format=JobID,State,ExitCode,NodeList", f"--jobs={','.join(sorted(jobs))}",
        ).splitlines()  # fmt: skip
        found = {}
        for line in lines:
            name, state, status, nodes = line.split("|", 3)
            job, _, task = name.partition("_")
            if (number := _number(task)) is not None:
                found[job, number] = _fate(state, status, nodes)
        return found
    except SlurmError:
        return {place: text for place, text in _from_controller() if place[0] in jobs}


def _from_controller() -> Iterator[tuple[tuple[str, int], str]]:
    try:
        text = ask("scontrol", "--oneliner", "show", "job")
    except SlurmError:
        return
    for line in text.splitlines():
        said = dict(re.findall(r"(\w+)=(\S*)", line))
        job = str(said.get("ArrayJobId", said.get("JobId", "")))
        number = _number(said.get("ArrayTaskId", ""))
        if job and number is not None:
            state, status = said.get("JobState", ""), said.get("ExitCode", "")
            yield (job, number), _fate(state, status, said.get("NodeList", ""))


def _fate(state: str, status: str, nodes: str) -> str:
    where = f" on {nodes}" if nodes and nodes not in ("(null)", "None assigned") else ""
    return f"{state}{where}" + (f", exit status {status}" if status not in ("", "0:0") else "")


def cancel_by_name(name: str) -> None:
    """Cancels jobs whose number is not known. Raises SlurmError."""
    ask("scancel", f"--name={name}")


def cancel(jobs: Collection[str]) -> None:
    """Cancels whole arrays: a waiting task cancelled alone is forgotten. Raises SlurmError."""
    if jobs:
        ask("scancel", *sorted(jobs))
