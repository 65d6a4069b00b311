"""A small class folder, for where there is no other: handwritten digits, saved as JPEG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAME = "digit-photos"
PER_CLASS = {"train": 100, "val": 40}
CLASSES = 10


def make(data_dir: Path) -> Path:
    """Writes DIR/digit-photos/{train,val}/<digit>/*.JPEG where they are not, and returns DIR.

    Sides are of 72 to 144 pixels, longer or shorter ones in turn, as photographs have them.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for digit in range(CLASSES):
        images = bunch.images[bunch.target == digit]
        for part, first in (("train", 0), ("val", PER_CLASS["train"])):
            folder = data_dir / NAME / part / f"digit-{digit}"
            folder.mkdir(parents=True, exist_ok=True)
            for i, image in enumerate(images[first : first + PER_CLASS[part]]):
                path = folder / f"{part}_{i:03d}.JPEG"
                if path.exists():
                    continue
                grey = Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8))
                sides = 72 + 12 * (i % 7), 72 + 12 * (i % 5)
                unfinished = path.with_suffix(".part")
                large = grey.resize(sides, Image.Resampling.BICUBIC)
                large.save(unfinished, "JPEG", quality=90)
                unfinished.replace(path)
    return data_dir
