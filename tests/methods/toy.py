"""A small task and narrow networks for the tests of single methods."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from methods import METHODS, Method, Task, load_builtin
from methods.base import resolve_config
from suites.engine.architectures import ARCHITECTURES

load_builtin()
TASK = Task("toy", (1, 8, 8), 5, mean=(0.3,), std=(0.4,))


def make(
    name: str, task: Task = TASK, architecture: str = "mlp-2x500", **settings: object
) -> Method:
    """A method on an eighth of an architecture's width, always with the same initial weights."""
    cls = METHODS[name]
    config = resolve_config(cls, settings)
    torch.manual_seed(0)
    blocks = ARCHITECTURES[architecture].blocks(task, cls.style(config), 1 / 8)
    return cls(blocks, task, config, Generator().manual_seed(0))


def batch(n: int = 6, task: Task = TASK) -> tuple[Tensor, Tensor]:
    """Standardised images, (n, C, H, W), and labels, (n,)."""
    rng = Generator().manual_seed(1)
    pixels = torch.rand(n, *task.shape, generator=rng)
    x = (pixels - task.mean[0]) / task.std[0]
    return x, torch.randint(task.n_classes, (n,), generator=rng)
