"""What a method, or a network, cannot do, asked without any memory for weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from methods import Method, Task
from methods.base import resolve_config
from suites.engine.architectures import ARCHITECTURES
from suites.engine.datasets import bare_task
from suites.suite import RequestError


def refusal(
    cls: type[Method], settings: Mapping[str, Any], architecture: str, task: Task, width: float = 1
) -> str | None:
    """The reason that a network, or else a method, gives against a task, or None.

    Args:
        width: factor on all widths of the network.
    """
    network = ARCHITECTURES[architecture]
    reason = network.refuse(task)
    if reason is not None:  # for larger images, say
        return reason
    config = resolve_config(cls, settings)
    with torch.device("meta"):  # shapes without memory
        blocks = network.blocks(task, cls.style(config), width)
    return cls.refuse(blocks, task, config)


def why_not(
    cls: type[Method], settings: Mapping[str, Any], architecture: str, dataset: str
) -> str | None:
    """Why a method cannot train an architecture on a dataset, or None.

    Raises:
        RequestError: it cannot even be asked.
    """
    try:
        return refusal(cls, settings, architecture, bare_task(dataset))
    except Exception as error:  # a third party's code; its author needs the place
        raise RequestError(
            f"method {cls.name!r} cannot be asked whether it can train {architecture} "
            f"({type(error).__name__}: {error}); `python -m suites.check` helps to find out why"
        ) from error
