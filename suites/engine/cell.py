"""A cell: one (method, hyper-parameters, architecture, dataset, protocol, seed), and its key."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from methods import METHODS, BlockStyle, Method, Task
from methods.base import resolve_config
from results.record import cell_key
from suites.engine import sources
from suites.engine.architectures import ARCHITECTURES
from suites.engine.augmentation import AUGMENTATIONS
from suites.engine.datasets import DATASETS
from suites.engine.execution import CHOICES
from suites.engine.precision import PRECISIONS
from suites.engine.seeds import derive_seed, generator

Kind = Literal["train", "audit", "cost", "transfer"]
TUNINGS = ("", "itself", "backprop")

# raised whenever the engine, or a measurement, may give other numbers for the same settings
VERSIONS: dict[Kind, int] = {"train": 2, "audit": 1, "cost": 1, "transfer": 3}


@dataclass(frozen=True)
class Protocol:
    """What is held equal between methods: the budget, the data and how a model is selected.

    Attributes:
        source: of transfer: the dataset that is trained on, under the rest of the protocol, for 0
            epochs where random weights are looked at.
        weights: of transfer: hash of a file of weights, which stand in for training on the source.
        tuning: of transfer: what trains the network further, on the target, for `tuning_epochs`:
            its method ("itself") or "backprop"; empty where it stands still and is read by probes.
    """

    epochs: int
    batch_size: int = 128
    augmentation: str = "none"
    val_fraction: float = 0.1
    selection: str = "last"  # the weights after the last epoch; no epoch is picked by accuracy
    eval_draws: int = 5  # test predictions of a stochastic method are averaged over this many runs
    precision: str = "float32"  # or "bf16", see precision.py
    execution: tuple[str, ...] = ()  # choices of execution.py, in alphabetical order
    source: str = ""
    weights: str = ""
    tuning: str = ""
    tuning_epochs: int = 0

    def __post_init__(self) -> None:
        if self.epochs < (0 if self.source else 1):
            raise ValueError(f"epochs must be at least 1, not {self.epochs}")
        if self.batch_size < 2:
            raise ValueError(f"batch size must be at least 2, not {self.batch_size}")
        if bool(self.tuning) != (self.tuning_epochs > 0):
            raise ValueError("fine-tuning needs epochs of its own, and they need fine-tuning")
        for name, known in (
            ("tuning", TUNINGS),
            ("augmentation", AUGMENTATIONS),
            ("selection", ("last",)),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: {', '.join(known)}")
        if list(self.execution) != sorted(set(self.execution) & set(CHOICES)):
            raise ValueError(f"execution is some of {', '.join(CHOICES)}, in this order")

    def as_dict(self) -> dict[str, Any]:
        """All fields; later ones are left out where they are empty, so that keys stay."""
        fields = dict(vars(self))
        for name in ("execution", "source", "weights", "tuning", "tuning_epochs"):
            if not fields[name]:
                del fields[name]
        return _plain(fields)

    def of_training(self, epochs: int) -> Protocol:
        """The same for a training alone, with nothing of transfer."""
        return dataclasses.replace(
            self, epochs=epochs, source="", weights="", tuning="", tuning_epochs=0
        )

    def cost(self) -> dict[str, Any]:
        """The fields that a cost depends on."""
        names = ("batch_size", "precision", "execution")
        return {name: value for name, value in self.as_dict().items() if name in names}


class Start(NamedTuple):
    """What blocks begin with that something else has trained: their style, and state dict."""

    style: BlockStyle
    weights: Mapping[str, Tensor]


@dataclass(frozen=True)
class Cell:
    """The unit that is run, resumed and retried.

    Attributes:
        config: the fully resolved configuration of the method, every field, defaults included.
        kind: "train" trains and tests the method under the protocol; "audit" measures how far its
            training signals travel, on small data, whatever the protocol; "cost" times it at the
            protocol's batch size; "transfer" trains it on the protocol's source and measures what
            its features are worth on the dataset.
        device: "cpu" or "cuda", of a cost; empty elsewhere, where it must not matter.
    """

    method: str
    config: dict[str, Any]
    architecture: str
    dataset: str
    protocol: Protocol
    seed: int
    method_version: int = field(default=0)
    kind: Kind = "train"
    device: str = ""

    @staticmethod
    def of(
        method: str,
        settings: dict[str, Any],
        architecture: str,
        dataset: str,
        protocol: Protocol,
        seed: int,
        kind: Kind = "train",
        device: str = "",
    ) -> Cell:
        """A cell with the method's defaults filled in. Raises ValueError for unknown settings."""
        cls = METHODS[method]
        config = _plain(dataclasses.asdict(resolve_config(cls, settings)))
        return Cell(
            method, config, architecture, dataset, protocol, seed, cls.version, kind,
            device if kind == "cost" else "",
        )  # fmt: skip

    def with_seed(self, seed: int) -> Cell:
        """The same cell for another seed; what they share is found out once."""
        self.identity(), self.code_sha()
        other = copy.copy(self)
        object.__setattr__(other, "seed", seed)
        vars(other).pop("key", None)
        return other

    def identity(self) -> dict[str, Any]:
        """All that can change the numbers, and nothing else: what the key is the hash of."""
        return {**self._sort, "seed": self.seed}

    @functools.cached_property
    def _sort(self) -> dict[str, Any]:
        """The identity, without the seed."""
        protocol: dict[str, Any] = {}
        if self.kind in ("train", "transfer"):
            protocol = self.protocol.as_dict()
        elif self.kind == "cost":
            protocol = {**self.protocol.cost(), "device": self.device}
        if self.protocol.source and protocol:
            protocol["source_version"] = DATASETS[self.protocol.source].version
        if self.protocol.tuning == "backprop":
            protocol["tuning_version"] = METHODS["backprop"].version
        return {
            "kind": self.kind,
            "version": VERSIONS[self.kind],
            "method": self.method,
            "method_version": self.method_version,
            "config": self.config,
            "architecture": self.architecture,
            "dataset": self.dataset,
            "dataset_version": DATASETS[self.dataset].version,
            "protocol": protocol,
        }

    @functools.cached_property
    def key(self) -> str:
        """16 hexadecimal digits; equal key = same work."""
        return cell_key(self.identity())

    @property
    def reads_source(self) -> bool:
        """Of transfer: whether images of the source are looked at."""
        source, protocol = self.protocol.source, self.protocol
        if not source or protocol.weights:
            return False
        return protocol.epochs > 0 or DATASETS[source].statistics is None

    def pretraining(self) -> Cell:
        """Of transfer: the training on the source, a cell like any other."""
        epochs = max(1, self.protocol.epochs)  # where it is 0, this cell is built and not trained
        return dataclasses.replace(
            self, kind="train", dataset=self.protocol.source,
            protocol=self.protocol.of_training(epochs),
        )  # fmt: skip

    def method_class(self) -> type[Method]:
        """The class that trains this cell."""
        return METHODS[self.method]

    def method_config(self) -> Any:
        """The method's Config object."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in self.config.items()}
        return resolve_config(self.method_class(), values)

    def build(self, task: Task, device: torch.device, start: Start | None = None) -> Method:
        """The method of this cell, newly initialised, on its device.

        Args:
            start: what the blocks begin with, instead of new weights.

        Raises:
            ValueError: they have no such weights.

        The blocks of one seed start alike for all methods, unless the rule prescribes a start of
        its own; what a method adds draws from another stream.
        """
        cls, config = self.method_class(), self.method_config()
        place = (self.seed, self.dataset, self.architecture)
        torch.manual_seed(derive_seed(*place, "initial weights"))
        style = start.style if start else cls.style(config)
        blocks = ARCHITECTURES[self.architecture].blocks(task, style)
        torch.manual_seed(derive_seed(*place, self.method, "heads"))
        rng = generator(device, *place, self.method, "noise")
        method = cls(blocks, task, config, rng).to(device)
        if start:  # only now: some rules prescribe a start of their own
            names = list(method.blocks.state_dict())
            if lacking := [name for name in names if name not in start.weights]:
                raise ValueError(f"the blocks that {cls.name} starts from have no {lacking[0]}")
            method.blocks.load_state_dict({name: start.weights[name] for name in names})
        return method

    def code_sha(self) -> str:
        """Hash of the sources whose edits may change this cell's numbers.

        It is not part of the key: a record made by older sources is kept and shown as stale.
        """
        return self._code_sha

    @functools.cached_property
    def _code_sha(self) -> str:
        cls = self.method_class()
        style = cls.style(self.method_config())
        if not self.protocol.source:
            return sources.code_sha(self.kind, cls, self.architecture, self.dataset, style)
        made_for = self.protocol.source
        tuned_by = METHODS["backprop"] if self.protocol.tuning == "backprop" else None
        return sources.code_sha(
            self.kind, cls, self.architecture, made_for, style, self.dataset, tuned_by=tuned_by
        )


def _plain(value: Any) -> Any:
    """The same with tuples as lists, as JSON will have them."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
