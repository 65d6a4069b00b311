"""What the steps by hand share: methods of full size, noise, and a few gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from methods import METHODS, Method, Task
from suites.engine import datasets
from suites.engine.architectures import ARCHITECTURES
from suites.engine.plugins import load_methods

TASK = Task("noise", (1, 28, 28), 10, (0.13,), (0.31,))
load_methods([])


@dataclass(frozen=True)
class Step:
    """A training step of one rule, written out for one choice of settings and network.

    by_hand: makes the update of `method.train_step(x, y, phase, progress=0)` on the parameters,
        buffers, generator and optimizers of the method that it gets, without calling its code.
    """

    method: str
    by_hand: Callable[[Any, Tensor, Tensor], None]
    config: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = "mlp-3x1000"
    phase: str = "all"

    def __str__(self) -> str:
        settings = ", ".join(f"{k}={v}" for k, v in self.config.items())
        phase = "" if self.phase == "all" else f", {self.phase}"
        return f"{self.method}({settings}) on {self.architecture}{phase}"


def made(name: str, task: Task = TASK, architecture: str = "mlp-3x1000", **config: Any) -> Method:
    """A method of full size, newly initialised, in training mode."""
    cls = METHODS[name]
    torch.manual_seed(0)
    settings = cls.Config(**config)
    blocks = ARCHITECTURES[architecture].blocks(task, cls.style(settings))
    return cls(blocks, task, settings, torch.Generator().manual_seed(0)).train()


def noise(n: int) -> tuple[Tensor, Tensor]:
    """Standardised images and labels, the same at every call."""
    rng = torch.Generator().manual_seed(1)
    raw = torch.randint(256, (n, *TASK.shape), dtype=torch.uint8, generator=rng)
    return datasets.prepare(raw, TASK), torch.randint(10, (n,), generator=rng)


def layers(method: Any) -> list[tuple[Tensor, Tensor]]:
    return [(block.weights.weight, block.weights.bias) for block in method.blocks]


def probabilities_less_truth(scores: Tensor, y: Tensor) -> Tensor:
    """Gradient of the mean cross-entropy with respect to the scores."""
    g = scores.softmax(1)
    g[torch.arange(len(y)), y] -= 1
    return g.div_(len(y))


def keep(parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient
