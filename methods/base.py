"""The contract between a learning rule and the engine that runs it."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from methods.blocks import Blocks, BlockStyle
from methods.space import Range


@dataclass(frozen=True, slots=True)
class Task:
    """The classification problem a method is made for.

    Inputs reach the method standardised, (x − mean) / std per channel of the raw [0, 1] image.
    """

    name: str
    shape: tuple[int, ...]  # of one sample, (C, H, W)
    n_classes: int
    mean: tuple[float, ...] = (0.0,)  # per channel, of the training images in [0, 1]
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a method claims about itself; the contract test and the audit measure each claim."""

    local_updates: bool  # no gradient crosses from one unit into another
    feedback: str = ""  # what else carries news of later units to earlier ones, if anything does
    readouts: tuple[str, ...] = ("last",)  # ways to predict; the first is the headline
    sampled: tuple[str, ...] = ()  # readouts that draw noise, only from the generator they get


class Method(nn.Module, ABC):
    """A learning rule over a stack of blocks.

    The engine owns data order, device, seeds, clock, budget, evaluation, checkpoints and records.
    The method owns its parameters, losses, optimizers and schedule.

    Modules assigned to attributes are parameters of the method, as in any nn.Module. What the
    headline prediction does not need (local classifiers, training-only layers) goes into
    `self.aux` and is counted apart. Optimizers and generators assigned to attributes, alone or in
    lists, are saved and restored with the weights without any code in the subclass.

    Draw initial weights by plain torch calls on the CPU: the engine seeds torch before the method
    is made and moves it to its device afterwards. Draw noise during training from `self.rng` only.
    """

    name: ClassVar[str]  # registry key: "hff"
    label: ClassVar[str]  # as shown in tables: "HFF"
    version: ClassVar[int]  # part of the cell's key: raise it whenever the numbers may change
    source: ClassVar[str]  # the paper
    traits: ClassVar[Traits]
    Config: ClassVar[type]  # frozen dataclass; every field has a default
    # rows of a table made from one class: suffix -> configuration, {"pred": {"loss": "pred"}}
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    # what is tuned: field of Config -> its range; no part of what makes a record stale
    space: ClassVar[Mapping[str, Range]] = {}

    def __init__(self, blocks: Blocks, task: Task, config: Any, rng: Generator) -> None:
        super().__init__()
        self.blocks = blocks
        self.task, self.config, self.rng = task, config, rng
        self.aux = nn.ModuleDict()

    # ------------------------------------------------------------- what it can do

    @classmethod
    def style(cls, config: Any) -> BlockStyle:
        """How the architecture is to build its blocks for this method."""
        return BlockStyle()

    @classmethod
    def refuse(cls, blocks: Blocks, task: Task, config: Any) -> str | None:
        """Why this method cannot train these blocks on this task, as one sentence for the table.

        Returns None when it can. The blocks have shapes but no data (they lie on torch's meta
        device), so this is cheap.
        """
        return None

    # ------------------------------------------------------------------- training

    def start(self, x: Tensor, y: Tensor) -> None:
        """Called once, ahead of the first step, for what a rule derives from the data as a whole.

        What it derives must be in the state, and there in its final shape from `__init__` on: a
        checkpoint is loaded into a method that was never started.

        Args:
            x: all standardised training images, not augmented, (N, C, H, W).
            y: their class indices, (N,), int64.
        """

    def phases(self, steps: int) -> list[tuple[str, int]]:
        """Splits a budget of steps, for methods that train one part after another.

        The names of the phases differ from each other.
        """
        return [("all", steps)]

    def frozen(self, x: Tensor, phase: str) -> Tensor:
        """The part of a step that this phase trains nothing of: `train_step` gets its output.

        Row i of the result must depend on image i alone. Then the engine may compute it once for
        all training images, where they are not augmented, and cut mini-batches out of that.

        Args:
            x: standardised images, (B, C, H, W).
        Returns:
            (B, ...): x itself, unless an earlier phase has trained blocks that now stand still.
        """
        return x

    @abstractmethod
    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        """One update from one mini-batch; x and y are not to be written to.

        Args:
            x: standardised images, (B, C, H, W), or what `frozen` made of them.
            y: class indices, (B,), int64.
            phase: name of the current phase.
            progress: share of all steps already done, in [0, 1).
        Returns:
            Detached scalars on the device, "loss" among them. No `.item()`: the engine decides
            when to wait for the device.

        Leave gradients alone between a `backward()` and the optimizer's step: otherwise the choice
        `summed_backward` is refused.
        """

    def units(self) -> list[nn.Module]:
        """The parts that are trained by a loss of their own, first to last."""
        return list(self.blocks)

    # ----------------------------------------------------------------- prediction

    @abstractmethod
    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        """Class scores, (B, n_classes), for x, (B, C, H, W). Changes no state, sees no label.

        Args:
            readout: one of `traits.readouts`.
            rng: source of all noise; the engine always gives one.
        """

    def features(self, x: Tensor) -> list[Tensor]:
        """Activities of every block or unit, each (B, D_l), for probes and transfer."""
        activities = []
        for block in self.blocks:
            x = block(x)
            activities.append(x.flatten(1))
        return activities

    def eval_passes(self, readout: str) -> int:
        """How often one prediction runs the stack, or a copy of it."""
        return 1

    def other_ways(self, readout: str) -> dict[str, Callable[[Tensor], Tensor]]:
        """Other ways to the scores that `logits` gives for this readout: name -> function of x.

        Those of the headline readout are timed next to `logits`, for rules that are often written
        in a slower way.
        """
        return {}

    # ---------------------------------------------------------------------- state

    def get_extra_state(self) -> dict[str, Any]:
        """Optimizers and generators, by attribute; part of `state_dict()`."""
        return {path: _state_of(part) for path, part in stateful(vars(self))}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_extra_state`; part of `load_state_dict()`."""
        parts = dict(stateful(vars(self)))
        if set(parts) != set(state):
            raise ValueError(f"state has parts {sorted(state)}, this method has {sorted(parts)}")
        for path, part in parts.items():
            if isinstance(part, Optimizer):
                part.load_state_dict(state[path])
            else:
                part.set_state(state[path].cpu())


def stateful(attributes: Mapping[str, Any]) -> Iterable[tuple[str, Optimizer | Generator]]:
    """Optimizers and generators among attributes, alone or in lists, by path."""
    for name, value in attributes.items():
        members = enumerate(value) if isinstance(value, list | tuple) else [(None, value)]
        for index, member in members:
            if isinstance(member, Optimizer | Generator):
                yield (name if index is None else f"{name}.{index}"), member


def _state_of(part: Optimizer | Generator) -> Any:
    return part.state_dict() if isinstance(part, Optimizer) else part.get_state()


# ------------------------------------------------------------------ learning-rate schedules


def cosine(progress: float) -> float:
    """Cosine from 1 at the start to 0 at the end."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def linear_cooldown(progress: float, start: float = 0.5) -> float:
    """1 until `start`, then linear to 0 at the end (Hinton 2022, released code: start = 0.5)."""
    return min(1.0, (1.0 - progress) / (1.0 - start))


def steps_down(progress: float, milestones: tuple[float, ...], factor: float) -> float:
    """`factor` to the power of the milestones passed."""
    return factor ** sum(progress >= m for m in milestones)


def set_lr(optimizer: Optimizer, base: float, factor: float) -> None:
    """Sets every group's learning rate to base · factor."""
    for group in optimizer.param_groups:
        group["lr"] = base * factor


def adamw(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> Optimizer:
    """AdamW in its fused form, which is four times faster than the default, on CPU too."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)


def trainable(*modules: nn.Module) -> list[nn.Parameter]:
    """Parameters of several modules, each once, in order."""
    seen: dict[int, nn.Parameter] = {}
    for module in modules:
        for parameter in module.parameters():
            if parameter.requires_grad:
                seen.setdefault(id(parameter), parameter)
    return list(seen.values())


def resolve_config(cls: type[Method], values: Mapping[str, Any]) -> Any:
    """The method's Config with these fields set.

    Raises:
        ValueError: a field that the Config does not have.
    """
    known = {field.name for field in dataclasses.fields(cls.Config)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"method {cls.name!r} has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}"
        )
    return cls.Config(**values)
