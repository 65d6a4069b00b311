"""Names of photographs as datasets: a class folder, a size, and perhaps a part of it.

imagenet-64px               packed arrays of 64 x 64 pixels, made once by suites.pack
imagenet-64px-jpeg          the same, decoded in training
flowers-128px-jpeg-c10-n20  the first ten classes, of each at most twenty images
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# How many classes the folders have that papers name.
CLASSES = {
    "imagenet": 1000, "imagenet100": 100, "tiny-imagenet-200": 200, "imagenette2": 10,
    "flowers102": 102, "pets": 37, "aircraft": 100,
}  # fmt: skip
_NAME = re.compile(r"(\w[\w.-]*?)-(\d+)px(-jpeg)?(?:-c(\d+))?(?:-n(\d+))?")


@dataclass(frozen=True)
class Name:
    """What a name says.

    Attributes:
        folder: the class folder, below the folder of all data.
        size: pixels of a side.
        decoded: in training, from the files; else packed arrays are read.
        first: classes that are taken, in order; None for all of them.
        most: images that are taken of each class; None for all of them.
    """

    folder: str
    size: int
    decoded: bool
    first: int | None
    most: int | None

    @property
    def n_classes(self) -> int:
        """How many classes it has; 0 where only the folder could tell."""
        return CLASSES.get(self.folder, 0) if self.first is None else self.first

    @property
    def whole(self) -> bool:
        """Whether it is all of a folder that papers name."""
        return self.folder in CLASSES and self.first is None and self.most is None

    @property
    def with_classes(self) -> str:
        """An example of the same, with a number of classes."""
        return f"{self.folder}-{self.size}px{'-jpeg' * self.decoded}-c10"


def parse(name: str) -> Name | None:
    """What a name says; None for a name of something else."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    folder, size, jpeg, *counts = match.groups()
    first, most = (None if count is None else int(count) for count in counts)
    return Name(folder, int(size), bool(jpeg), first, most)
