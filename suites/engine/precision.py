"""The number format of matrix products and convolutions, a choice of the protocol."""

from __future__ import annotations

import contextlib

import torch

PRECISIONS = ("float32", "bf16")


def computing(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Within it, products are computed in this format.

    bf16 is torch's automatic mixed precision: products in bfloat16, with 8 bits of mantissa;
    weights, optimizers and losses in float32. Sums and normalisations are what torch takes them
    for: float32 on a GPU, on a CPU mostly the format of their input.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    # torch would keep the bfloat16 copies of the weights till the end, whatever optimizers do since
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
