"""Same seed, same bits."""

from __future__ import annotations

import os

import torch


def use_deterministic_algorithms() -> None:
    """Same seed, same bits, as far as torch can; called once in every process that trains."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # filling every new tensor guards against reading uninitialised memory, at a cost in speed
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # the protocol says float32; TensorFloat-32 has 10 bits of mantissa, and is on by default
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
