"""Independent random streams, one per purpose."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed for a purpose: derive_seed(seed, "digits", "order").

    Purposes that must agree between methods (data order, initial weights of the blocks) leave the
    method out, so that comparisons are paired by seed.
    """
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(device: torch.device | str, *parts: str | int) -> Generator:
    """A generator on a device, seeded for a purpose."""
    return Generator(device=device).manual_seed(derive_seed(*parts))
