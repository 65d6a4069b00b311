"""Arrays of jobs: how work gets into the queue, and what is known of it afterwards.

    <folder>/code/<hash>/                    frozen copies of the code
    <folder>/arrays/<name>/array.json        what the array is made of
    <folder>/arrays/<name>/<n>.<m>.diary.json    task n at its m-th restart, see job.py
    <folder>/arrays/<name>/...               files of submitit: pickles and logs

The file array.json is there before the array is: whoever looks at the queue, even after a
submitter was killed half-way, knows every job by the name of its array.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from slurm import queue
from slurm.job import WARNING, Shift, Work, read_diary, write_json
from slurm.queue import Entry, SlurmError
from slurm.site import Site

PREFIX = "bpfree-"


@dataclass(frozen=True)
class Task:
    """The work of one job, and the keys of all that it will have done at its end."""

    keys: tuple[str, ...]
    work: Work


@dataclass(frozen=True)
class Array:
    """An array that was submitted.

    Attributes:
        keys: of each task.
        about: what its submitter wants to remember of it, JSON-ready.
        job: its number; None where its submitter was killed before it could note it.
        settled: keys of tasks whose end has been looked into, or that were cancelled on purpose.
        user: number of who submitted it.
    """

    folder: Path
    keys: tuple[tuple[str, ...], ...]
    about: dict[str, Any]
    submitted: float  # seconds since 1970
    gpus: int
    job: str | None
    settled: frozenset[str]
    user: int

    @property
    def name(self) -> str:
        """Its folder's name, and that of its jobs."""
        return self.folder.name

    @property
    def is_open(self) -> bool:
        """Whether there is a task whose end has not been looked into."""
        return any(not self.settled.issuperset(keys) for keys in self.keys)

    def log(self, task: int) -> Path:
        """What a task printed."""
        return self.folder / f"{self.number(task)}_0_log.out"

    def number(self, task: int) -> str:
        """What Slurm calls a task."""
        return (self.job or "?") + ("" if len(self.keys) == 1 else f"_{task}")

    def shifts(self) -> dict[int, list[dict[str, Any]]]:
        """The diaries of its tasks, first start to last."""
        found: dict[int, dict[int, dict[str, Any]]] = {}
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                name = re.fullmatch(r"(\d+)\.(\d+)\.diary\.json", entry.name)
                said = read_diary(Path(entry.path)) if name else None
                if name and said is not None:
                    found.setdefault(int(name[1]), {})[int(name[2])] = said
        return {task: [of[n] for n in sorted(of)] for task, of in found.items()}


class Arrays:
    """All arrays below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> list[Array]:
        """All arrays ever submitted, oldest first. Raises SlurmError."""
        arrays = []
        for path in self.folder.glob(f"arrays/{PREFIX}*/array.json"):
            try:
                said = json.loads(path.read_text())
                keys = tuple(tuple(keys) for keys in said["keys"])
                arrays.append(
                    Array(
                        path.parent, keys, said["about"], said["submitted"], said["gpus"],
                        said["job"], frozenset(said["settled"]), said["user"],
                    )
                )  # fmt: skip
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError) as error:
                # its jobs may be in the queue: without it, their cells would be submitted again
                raise SlurmError(
                    f"{path} cannot be read ({error}); try again, or move its folder away if none "
                    "of its jobs is in the queue"
                ) from None
        return sorted(arrays, key=lambda array: array.submitted)

    def settle(self, array: Array, keys: Iterable[str]) -> None:
        """Notes that the end of their tasks needs no more looking into for these keys."""
        keys = set(keys) - array.settled
        if not keys:
            return
        said = json.loads((array.folder / "array.json").read_text())
        said["settled"] = sorted({*said["settled"], *keys})
        write_json(array.folder / "array.json", said)

    def submit(
        self,
        tasks: Sequence[Task],
        site: Site,
        code: Path,
        about: dict[str, Any],
        behind: Sequence[str] = (),
    ) -> list[str]:
        """Sends tasks as arrays, none longer than the cluster and the site allow.

        Args:
            code: a frozen copy, from which the work is imported.
            behind: job numbers of arrays that the parallelism cap of the site also counts.

        Returns:
            The numbers of the arrays.

        Raises:
            SlurmError: Slurm is not here or refuses. What it took before that stays submitted.
        """
        queue.require()
        jobs: list[str] = []
        most = queue.largest_array()
        if site.array_size:
            most = min(most, site.array_size)
        for first in range(0, len(tasks), most):
            part = tasks[first : first + most]
            # The cap holds within an array, so no two arrays may run at the same time
            waits_for = [*behind, *jobs] if site.at_once else []
            jobs.append(self._submit_one(part, site, code, about, waits_for))
        return jobs

    def _submit_one(
        self,
        tasks: Sequence[Task],
        site: Site,
        code: Path,
        about: dict[str, Any],
        waits_for: Sequence[str],
    ) -> str:
        folder = self.folder / "arrays" / f"{PREFIX}{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        said: dict[str, Any] = {
            "keys": [list(task.keys) for task in tasks],
            "about": about,
            "submitted": time.time(),
            "gpus": site.gpus * site.nodes,
            "job": None,
            "settled": [],
            "user": os.getuid(),
        }
        write_json(folder / "array.json", said)
        executor = submitit.SlurmExecutor(folder, python=_python(site))
        parameters = site.parameters()
        if waits_for:
            ended = "afterany:" + ":".join(waits_for)
            parameters["additional_parameters"]["dependency"] = ended
        executor.update_parameters(
            job_name=folder.name,
            array_parallelism=site.at_once or len(tasks),
            wckey=None,  # submitit's own, which sites that know such keys would refuse
            setup=[
                f"trap '' {WARNING.name.removeprefix('SIG')}",  # until there is somebody to hear it
                *site.setup,
                f"cd {shlex.quote(str(code))}",
                f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
            ],
            **parameters,
        )
        sent = []
        try:
            # what sbatch says of a refusal comes with the error; submitit would also print it
            with (
                _outside_of_jobs(site),
                contextlib.redirect_stderr(io.StringIO()),
                executor.batch(),
            ):
                for n, task in enumerate(tasks):
                    shift = Shift(pickle.dumps(task.work), folder, n, site.minutes)
                    sent.append(executor.submit(shift))
            job = sent[0].job_id.partition("_")[0]
        except (
            submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedSubmissionError,
        ) as error:  # fmt: skip
            # a controller that was too busy to answer may have taken it all the same
            if queue.entries([folder.name]):
                queue.cancel_by_name(folder.name)
            shutil.rmtree(folder, ignore_errors=True)
            raise SlurmError(f"sbatch refuses: {_reason(error)}") from None
        write_json(folder / "array.json", {**said, "job": job})
        return job

    def entries(self, arrays: Iterable[Array]) -> dict[tuple[str, int], Entry]:
        """What Slurm knows of them: (name, task) -> entry. Raises SlurmError."""
        arrays = list(arrays)
        found = queue.entries([a.name for a in arrays], {a.user for a in arrays})
        return {(entry.name, entry.task): entry for entry in found}


def alive(arrays: Iterable[Array], entries: Mapping[tuple[str, int], Entry]) -> dict[str, Entry]:
    """The keys of all tasks that run or will -> their entry."""
    return {
        key: entry for array in arrays for n, keys in enumerate(array.keys) for key in keys
        if (entry := entries.get((array.name, n))) is not None and entry.alive
    }  # fmt: skip


@contextlib.contextmanager
def _outside_of_jobs(site: Site) -> Iterator[None]:
    """Hides the job that we may be in ourselves: its limits would become those of the new one.

    Of the user's own defaults those stay that say where to run, where the site does not.
    """
    ours = ("SLURM_", "SBATCH_")
    names = ("account", "partition", "qos", "constraint")
    kept = {f"SBATCH_{name.upper()}" for name in names if not getattr(site, name)}
    kept |= {"SLURM_CONF", "SBATCH_RESERVATION"}
    hidden = {k: v for k, v in os.environ.items() if k.startswith(ours) and k not in kept}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _python(site: Site) -> str:
    """The command of Python in a job; without srun it takes the place of the batch shell."""
    python = site.python or shlex.quote(sys.executable)
    if not site.use_srun:
        return f"exec {python}"
    # a warning that comes before Python listens would end the job
    ignore = f"trap '' {WARNING.name.removeprefix('SIG')}; exec \"$@\""
    return f"sh -c {shlex.quote(ignore)} sh {python}"


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()]
    return lines[-1].removeprefix("sbatch: ").removeprefix("error: ") if lines else str(error)
