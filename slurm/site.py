"""A site: what a cluster wants to know of a job, from a small TOML file and flags."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GPU_FLAGS = ("gres", "gpus", "gpus-per-node", "gpus-per-task")


class SiteError(ValueError):
    """A site file or flag that cannot be used; the message says which and why."""


def _option(default: Any, text: str, flag: bool = True, **more: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, "flag": flag, **more})


@dataclass(frozen=True)
class Site:
    """The settings of a site; each has a flag of its name, but for those that only fit a file."""

    partition: str = _option("", "partition to run in (default: the cluster's)")
    account: str = _option("", "account to charge")
    qos: str = _option("", "quality of service")
    constraint: str = _option("", "features that nodes must have, such as a100")
    nodes: int = _option(1, "machines of a job, for cells of several processes", least=1)
    gpus: int = _option(
        0, "GPUs of a job, on each of its nodes (default: none, training on CPUs)", least=0
    )
    gpu_flag: str = _option(
        "gres", f"how this cluster is asked for GPUs: {', '.join(GPU_FLAGS)}", known=GPU_FLAGS
    )
    gpu_type: str = _option("", "kind of GPU, such as a100")
    cpus: int = _option(4, "CPU cores of a job, on each node", least=1)
    memory_gb: float = _option(
        0.0, "memory of a job, on each node (default: the cluster's)", least=0
    )
    minutes: int = _option(
        60, "time limit of a job; work that is not done by then goes on in the next", least=1
    )
    warning_s: int = _option(
        120, "how long before the limit a job is warned, to write its checkpoints", least=1
    )
    at_once: int = _option(0, "most jobs to run side by side (default: no limit)", least=0)
    array_size: int = _option(
        0, "most jobs in an array (default: what the cluster allows)", least=0
    )
    pack_minutes: float = _option(
        30.0, "short cells go into one job up to about this length", least=0
    )
    side_by_side: int = _option(
        1, "cells that a job runs side by side, sharing its GPU and cores", least=1
    )
    exclusive: bool = _option(False, "whole nodes", flag=False)
    setup: tuple[str, ...] = _option((), "shell lines ahead of the work", flag=False)
    python: str = _option("", "command of Python (default: this one)", flag=False)
    use_srun: bool = _option(True, "start the work by srun inside the job", flag=False)
    srun: tuple[str, ...] = _option((), "arguments of srun, for a container say", flag=False)
    extra: Mapping[str, str] = _option(None, "any other sbatch options", flag=False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, least = getattr(self, field.name), field.metadata.get("least")
            known = field.metadata.get("known")
            if least is not None and value < least:
                raise SiteError(f"{field.name} must be at least {least}, not {value}")
            if known and value not in known:
                raise SiteError(f"{field.name} is one of {', '.join(known)}, not {value!r}")
        if self.warning_s >= 60 * self.minutes:
            raise SiteError(
                f"warning_s = {self.warning_s} is not less than the {self.minutes} minutes of a job"
            )
        if self.srun and not self.use_srun:
            raise SiteError("srun has arguments, but use_srun is false")
        if self.nodes > 1 and not self.use_srun:
            raise SiteError(f"nodes = {self.nodes} are reached by srun, but use_srun is false")
        if self.nodes > 1 and self.side_by_side > 1:
            raise SiteError(
                f"nodes = {self.nodes} train one cell together, but side_by_side is "
                f"{self.side_by_side}"
            )

    def parameters(self) -> dict[str, Any]:
        """The same as parameters of submitit's Slurm executor."""
        found: dict[str, Any] = {
            "time": self.minutes, "cpus_per_task": self.cpus, "ntasks_per_node": 1,
            "nodes": self.nodes,
            "signal_delay_s": self.warning_s, "stderr_to_stdout": True, "use_srun": self.use_srun,
        }  # fmt: skip
        for name in ("partition", "account", "qos", "constraint", "exclusive"):
            if getattr(self, name):
                found[name] = getattr(self, name)
        if self.memory_gb:
            found["mem"] = f"{round(self.memory_gb * 1024)}M"
        # a job that is lost with its node is put back into the queue
        more: dict[str, Any] = {"requeue": True, **(self.extra or {})}
        more = {name: value for name, value in more.items() if value is not False}
        if self.gpus:
            kind = f"{self.gpu_type}:" if self.gpu_type else ""
            # --gpus is of the whole job, and may spread unevenly over its nodes
            flag = "gpus-per-node" if self.nodes > 1 and self.gpu_flag == "gpus" else self.gpu_flag
            more[flag] = f"{'gpu:' if flag == 'gres' else ''}{kind}{self.gpus}"
        # without srun nothing passes the warning on but the batch shell itself
        more["signal"] = f"{'' if self.use_srun else 'B:'}USR2@{self.warning_s}"
        if self.use_srun:
            # from Slurm 22.05 to 23.02 a step does not inherit it, and would get one core
            found["srun_args"] = [
                f"--cpus-per-task={self.cpus}", *self.srun,
                # without it, the first node would wait for others that are gone, and they for it
                *(["--kill-on-bad-exit=1"] if self.nodes > 1 else []),
            ]  # fmt: skip
        found["additional_parameters"] = more
        return found


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds --site and a flag for every setting that may differ from one request to the next."""
    group = parser.add_argument_group(
        "how jobs are asked for",
        "Best kept in a site file, which has these and more by the same names; a flag wins.",
    )
    group.add_argument(
        "--site", type=Path, metavar="FILE.toml", help="what your cluster wants: see docs/slurm.md"
    )
    for field in dataclasses.fields(Site):
        if field.metadata["flag"]:
            kind = type(field.default)
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=kind,
                metavar={str: "NAME", int: "N", float: "X"}[kind],
                help=field.metadata["help"]
                + (f" (default: {field.default})" if field.default else ""),
            )


def from_flags(args: argparse.Namespace) -> Site:
    """The site that the file and the flags of `add_flags` describe. Raises SiteError."""
    found = read(args.site) if args.site else {}
    for field in dataclasses.fields(Site):
        if field.metadata["flag"] and getattr(args, field.name) is not None:
            found[field.name] = getattr(args, field.name)
    return Site(**found)


def flags_used(args: argparse.Namespace) -> list[str]:
    """Names of the flags of `add_flags` that were given."""
    names = ["site", *(f.name for f in dataclasses.fields(Site) if f.metadata["flag"])]
    return [f"--{name.replace('_', '-')}" for name in names if getattr(args, name) is not None]


def read(path: Path) -> dict[str, Any]:
    """The settings in a site file. Raises SiteError."""
    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        raise SiteError(f"site file {path} cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SiteError(
            f'site file {path} is not TOML: {error} (texts need quotes: partition = "gpu")'
        ) from None
    fields = {field.name: field for field in dataclasses.fields(Site)}
    for name, value in found.items():
        if name not in fields:
            close = difflib.get_close_matches(name.replace("-", "_"), fields, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise SiteError(
                f"site file {path}: unknown setting {name!r}: {hint}known: {', '.join(fields)}"
            )
        found[name] = _checked(value, fields[name], f"site file {path}: {name}")
    try:
        Site(**found)
    except SiteError as error:
        raise SiteError(f"site file {path}: {error}") from None
    return found


def _checked(value: Any, field: dataclasses.Field[Any], where: str) -> Any:
    """The value in the type of its field."""
    if field.name == "extra":
        if isinstance(value, dict) and all(isinstance(v, str | int | bool) for v in value.values()):
            return {str(k).lstrip("-"): v for k, v in value.items()}
        raise SiteError(f"{where} is a table of sbatch options, [extra]")
    if isinstance(field.default, tuple):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise SiteError(f"{where} is a list of strings")
    kind = type(field.default)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        names = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
        raise SiteError(f"{where} is {names[kind]}, not {value!r}")
    return value
