"""Networks that others have trained: files with a state dict as torchvision's are.

What they learned on stays outside of this suite's protocol, so they are a control, and on record by
the hash of their file.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import torch
from torch import Tensor

from methods import Blocks
from suites.engine.architectures import ARCHITECTURES, torchvision_parts

CACHE = "torchvision"  # stands for the file in torch's own cache
Weights = dict[str, Tensor]


class WeightsError(ValueError):
    """Weights that are missing or do not fit: one line that says which, where, and what to do."""


def find(wanted: str, architecture: str) -> Path:
    """The file that is meant: a path, or "torchvision" for where torch keeps what it fetched.

    Raises:
        WeightsError: there is none, or torchvision has no such network.
    """
    model = ARCHITECTURES[architecture].torchvision
    if not model:
        named = [a.name for a in ARCHITECTURES.values() if a.torchvision]
        raise WeightsError(
            f"--weights: {architecture} is not a network of torchvision; these are: "
            f"{', '.join(named)}"
        )
    path = Path(wanted)
    if wanted == CACHE:
        from torchvision.models import get_model_weights

        url = get_model_weights(model).IMAGENET1K_V1.url
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        if not path.is_file():
            raise WeightsError(
                f"--weights torchvision: {path} not found; fetch it on a machine with a network: "
                f"python -c 'from torchvision.models import {model} as f; "
                'f(weights="IMAGENET1K_V1")\''
            )
    if not path.is_file():
        raise WeightsError(f"--weights {wanted}: no such file")
    return path


def read(path: Path, architecture: str) -> Weights:
    """The weights of the units of a network; those of its classifier are left out.

    Raises:
        WeightsError: the file cannot be read, or is of another network.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"weights {path} cannot be read ({type(error).__name__}): not a file of torch.save "
            "with tensors alone, or not whole"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise WeightsError(
            f"weights {path} are not a state dict (names and tensors), as torchvision's files are"
        )
    expected = _named(architecture)
    for name, tensor in expected.items():
        if name not in found:
            raise WeightsError(
                f"weights {path} do not fit {architecture}: {name} is missing; the file begins "
                f"with {next(iter(found), 'nothing')}"
            )
        if found[name].shape != tensor.shape:
            raise WeightsError(
                f"weights {path} do not fit {architecture}: {name} has shape "
                f"{tuple(found[name].shape)}, not {tuple(tensor.shape)}"
            )
    return {name: found[name] for name in expected}


def load_into(blocks: Blocks, weights: Weights, architecture: str) -> None:
    """Replaces what blocks start from, in place."""
    own = list(blocks.state_dict().values())
    names = _named(architecture)
    assert len(own) == len(names)  # the same units in the same order
    with torch.no_grad():
        for tensor, name in zip(own, names, strict=True):
            tensor.copy_(weights[name])


def digest(path: Path) -> str:
    """SHA-256 of a file, 12 digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _named(architecture: str) -> Weights:
    """Names in torchvision's state dict, in the order of the blocks, with tensors of no memory."""
    with torch.device("meta"):
        parts = torchvision_parts(ARCHITECTURES[architecture].torchvision)
    return {
        f"{unit}.{name}".lstrip("."): tensor
        for unit, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
