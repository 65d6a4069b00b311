"""Whether work waits for the device: operations whose result the program needs to go on."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@contextlib.contextmanager
def waits() -> Iterator[list[str]]:
    """Places, "mine.py:55", where what is run inside asks for a value, noted as it happens."""
    waiting = _Waiting()
    with _Unchecked(waiting), waiting:
        yield waiting.found


class _Waiting(TorchDispatchMode):
    """Notes operations whose result the program needs before it can go on."""

    ASKING = (
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.equal.default,
    )

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.checked = False  # within an operation that looks at its values on a CPU only

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        by_mask = function is torch.ops.aten.index.Tensor and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        if (function in self.ASKING or by_mask) and not self.checked:
            frames = [(Path(f.filename), f.lineno) for f in traceback.extract_stack()]
            asker = [(p, n) for p, n in frames if "torch" not in p.parts and p != Path(__file__)]
            self.found.append(f"{asker[-1][0].name}:{asker[-1][1]}")
        return function(*args, **(kwargs or {}))


class _Unchecked(TorchFunctionMode):
    """Excuses F.one_hot, which looks at the largest label on a CPU and not on a GPU."""

    def __init__(self, waiting: _Waiting) -> None:
        super().__init__()
        self._waiting = waiting

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self._waiting.checked = function is torch._C._nn.one_hot
        try:
            return function(*args, **(kwargs or {}))
        finally:
            self._waiting.checked = False
