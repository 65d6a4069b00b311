"""Sets of photographs that torchvision knows where to fetch: flowers, pets, aircraft.

torchvision tells which file is of which class; they are decoded here as all photographs are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from suites.images.folders import DatasetError, Listing

# name -> class in torchvision, its parts for training and for testing
SETS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "flowers102": ("Flowers102", ("train", "val"), "test"),
    "pets": ("OxfordIIITPet", ("trainval",), "test"),
    "aircraft": ("FGVCAircraft", ("trainval",), "test"),
}


def read(name: str, data_dir: Path, download: bool) -> tuple[Listing, Listing]:
    """Photographs for training and for testing.

    Raises:
        DatasetError: the set is not there, or not whole.
    """
    import torchvision.datasets  # seconds, of which most runs need none

    cls_name, train, test = SETS[name]
    cls: Callable[..., Any] = getattr(torchvision.datasets, cls_name)
    try:
        parts = [cls(str(data_dir), split=part, download=download) for part in (*train, test)]
    except (RuntimeError, OSError, ValueError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(
            f"dataset {name!r} is not in {data_dir}, or not whole ({told}); point --data-dir at "
            "the folder that holds it as torchvision lays it out, or add --download"
        ) from error
    return _listing(data_dir, parts[:-1]), _listing(data_dir, parts[-1:])


def _listing(root: Path, parts: Sequence[Any]) -> Listing:
    """The files of some parts, by class."""
    found = sorted(
        (int(label), os.path.relpath(path, root))
        for part in parts
        for path, label in zip(
            getattr(part, "_images", None) or part._image_files, part._labels, strict=True
        )
    )
    labels, paths = zip(*found, strict=True)
    return Listing(root, paths, labels)
