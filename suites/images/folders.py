"""Class folders: where the photographs of a dataset lie, and which class each is of.

    DIR/NAME/train/<class>/*.JPEG        NAME may be left out where DIR is the folder itself
    DIR/NAME/val/<class>/*.JPEG          or all in one folder, with a file that tells their classes

Classes are folders of `train`, in alphabetical order: for ImageNet-1k, the usual index of a wnid.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# as torchvision's ImageFolder has them: the same files are the dataset for both
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
WNID = re.compile(r"n\d{8}")
# What tells the classes of validation images that lie all in one folder: Kaggle's, Tiny-ImageNet's,
# a list of "name label", and that of ILSVRC2012's development kit, whose numbers need its meta.mat.
TRUTHS = (
    "LOC_val_solution.csv", "val_annotations.txt", "val.txt",
    "ILSVRC2012_validation_ground_truth.txt",
)  # fmt: skip
NAMES = "LOC_synset_mapping.txt"
LISTED = 3  # names in a message


class DatasetError(Exception):
    """A dataset that is missing or broken: one line that says which, where, and what to do."""


@dataclass(frozen=True)
class Listing:
    """The photographs of one part.

    Attributes:
        paths: relative to `root`, by class and then by name; labels: the class of each, from 0.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]

    def digest(self, first: int = 0, end: int | None = None) -> str:
        """SHA-256 of names, sizes and classes of some: photographs are not read for it."""
        sha = hashlib.sha256()
        for path, label in zip(self.paths[first:end], self.labels[first:end], strict=True):
            size = (self.root / path).stat().st_size
            sha.update(f"{path}\0{size}\0{label}\n".encode())
        return sha.hexdigest()


@dataclass(frozen=True)
class ClassFolder:
    """A dataset of photographs.

    Attributes:
        classes: names of the folders, wnids in ImageNet; words: what they mean, where that is told.
    """

    root: Path
    classes: tuple[str, ...]
    words: tuple[str, ...]
    train: Listing
    val: Listing


def only_one(data_dir: Path) -> tuple[str, int]:
    """Name of the class folder that a folder is, or that is the only one in it; and its classes.

    Raises:
        DatasetError: there is none, or more than one.
    """
    if not data_dir.is_dir():
        raise DatasetError(f"data directory {data_dir} does not exist (--data-dir)")
    found = (
        [data_dir]
        if (data_dir / "train").is_dir()
        else sorted(folder for folder in data_dir.iterdir() if (folder / "train").is_dir())
    )
    if len(found) != 1:
        names = ", ".join(folder.name for folder in found[:LISTED])
        raise DatasetError(
            f"{data_dir} has {f'several class folders ({names})' if found else 'no class folder'}: "
            "point --data-dir at one, which has train/<class>/*.JPEG and val/"
        )
    name = found[0].name or found[0].resolve().name  # of "." there is only the latter
    n = sum(entry.is_dir() for entry in os.scandir(found[0] / "train"))
    if n < 2 or not re.fullmatch(r"\w[\w.-]*", name):
        raise DatasetError(
            f"{found[0]}: a class folder has two classes at least, and a name without spaces"
        )
    return name, n


def find(name: str, data_dir: Path | None) -> tuple[Path, Path | None]:
    """The folder of a dataset, and the list of its classes where it is a part of ImageNet.

    Raises:
        DatasetError: there is neither.
    """
    if data_dir is None:
        raise DatasetError(
            f"dataset {name!r}: say where its photographs are with --data-dir DIR "
            f"(expected: DIR/{name}/train/<class>/*.JPEG and DIR/{name}/val)"
        )
    if not data_dir.is_dir():
        raise DatasetError(f"data directory {data_dir} does not exist (--data-dir)")
    chosen, whole = data_dir / f"{name}.txt", data_dir / "imagenet"
    if (data_dir / name / "train").is_dir():
        return data_dir / name, None
    if chosen.is_file() and (whole / "train").is_dir():
        return whole, chosen
    if (data_dir / "train").is_dir() and name in (data_dir.name, data_dir.resolve().name):
        return data_dir, None
    part = f"; a part of ImageNet may be named by its wnids in {chosen}, beside {whole}"
    raise DatasetError(
        f"dataset {name!r}: there is no {data_dir / name / 'train'}, and --data-dir {data_dir} is "
        "not that folder itself" + part * (data_dir / name != whole)
    )


@functools.lru_cache(maxsize=4)
def read(
    name: str, data_dir: Path | None, n_classes: int, most: int | None = None, exactly: bool = False
) -> ClassFolder:
    """The photographs of the first n classes, at most so many of each in either part.

    Args:
        exactly: refuse a folder with more classes.

    Raises:
        DatasetError: a folder is missing or empty, or there are fewer classes.
    """
    root, chosen = find(name, data_dir)
    everything = here = sorted(d.name for d in os.scandir(root / "train") if d.is_dir())
    if chosen is not None:
        wanted = sorted({word for line in _lines(chosen) for word in line.split()[:1]})
        if missing := [wnid for wnid in wanted if wnid not in here]:
            raise DatasetError(f"{chosen}: no {missing[0]} in {root / 'train'}")
        here = wanted
    if len(here) < n_classes or (exactly and len(here) > n_classes):
        raise DatasetError(
            f"dataset {name!r}: {root / 'train'} has {len(here)} classes, not {n_classes}; "
            f"the first so many are meant by a name like {name}-64px-c{len(here)}"
        )
    classes = tuple(here[:n_classes])
    train = _by_folder(root / "train", classes, most)
    return ClassFolder(
        root, classes, _words(root, classes), train, _validation(root, everything, classes, most)
    )


def _by_folder(root: Path, classes: Sequence[str], most: int | None) -> Listing:
    paths: list[str] = []
    labels: list[int] = []
    for label, wnid in enumerate(classes):
        found = sorted(_photographs(root, wnid))[:most]
        if not found:
            raise DatasetError(
                f"no photographs in {root / wnid}: files with names in {', '.join(SUFFIXES)}"
            )
        paths += found
        labels += [label] * len(found)
    return Listing(root, tuple(paths), tuple(labels))


def _photographs(root: Path, below: str = "") -> list[str]:
    """Files of photographs below a folder; Tiny-ImageNet has one folder more in between."""
    found = []
    for folder, _, files in os.walk(root / below):
        place = os.path.relpath(folder, root)
        found += [
            os.path.normpath(os.path.join(place, f)) for f in files if f.lower().endswith(SUFFIXES)
        ]
    return found


def _validation(
    root: Path, here: Sequence[str], classes: Sequence[str], most: int | None
) -> Listing:
    val = root / "val"
    if not val.is_dir():
        raise DatasetError(f"no validation images: {val} not found")
    if (val / classes[0]).is_dir():
        return _by_folder(val, classes, most)
    truth = next((d / f for f in TRUTHS for d in (val, root) if (d / f).is_file()), None)
    if truth is None:
        raise DatasetError(
            f"{val} has no folder for class {classes[0]}: put into it, or beside it, the file that "
            f"tells the class of each image ({', '.join(TRUTHS)})"
        )
    wnid_of = _truth(truth, val, sorted(here))
    by_class: dict[str, list[str]] = {wnid: [] for wnid in classes}
    unknown = []
    for path in sorted(_photographs(val)):
        stem = Path(path).stem
        if stem not in wnid_of:
            unknown.append(path)
        elif wnid_of[stem] in by_class:
            by_class[wnid_of[stem]].append(path)
    if unknown:
        raise DatasetError(
            f"{truth} does not tell the class of {len(unknown)} images in {val}: "
            f"{', '.join(unknown[:LISTED])}"
        )
    if empty := [wnid for wnid, found in by_class.items() if not found]:
        raise DatasetError(
            f"{val} has no image of {len(empty)} classes: {', '.join(empty[:LISTED])}"
        )
    paths = [path for wnid in classes for path in by_class[wnid][:most]]
    labels = [l for l, wnid in enumerate(classes) for _ in by_class[wnid][:most]]
    return Listing(val, tuple(paths), tuple(labels))


def _truth(path: Path, val: Path, here: Sequence[str]) -> dict[str, str]:
    """Name of an image, without its suffix -> wnid.

    Args:
        here: all classes of the training set; in a list of "name label", a label that is none of
            them is a number that counts in them.
    """
    try:
        if path.suffix == ".csv":
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))[1:]
            return {row[0]: row[1].split()[0] for row in rows if row}
        if path.name == "ILSVRC2012_validation_ground_truth.txt":
            wnids = _development_kit(path)
            numbers = [int(line) for line in _lines(path)]
            stems = sorted(Path(p).stem for p in _photographs(val))
            if len(stems) != len(numbers):
                raise DatasetError(f"{path} has {len(numbers)} lines for {len(stems)} images")
            return {stem: wnids[n] for stem, n in zip(stems, numbers, strict=True)}
        found = {}
        for line in _lines(path):
            name, label = re.split(r"[\t ]+", line)[:2]
            if label not in here and int(label) < 0:
                raise ValueError(f"{label} is the number of no class")
            found[Path(name).stem] = label if label in here else here[int(label)]
        return found
    except (ValueError, IndexError, KeyError) as error:
        raise DatasetError(f"{path} cannot be read as a list of classes: {error}") from error


def _development_kit(truth: Path) -> dict[int, str]:
    """ILSVRC2012's own numbers -> wnids; they are in another order than the wnids."""
    from scipy.io import loadmat

    meta = truth.with_name("meta.mat")
    if not meta.is_file():
        raise DatasetError(f"{truth} needs meta.mat of the same development kit beside it")
    try:
        synsets = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in synsets}
    except Exception as error:  # scipy has its own for each way in which a file can be broken
        raise DatasetError(f"{meta} cannot be read: {error}") from error


def _words(root: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """What the classes mean: from the list in the folder, or torchvision's for ImageNet-1k."""
    for folder in (root, root.parent):
        if (folder / NAMES).is_file():
            told = dict(line.split(" ", 1) for line in _lines(folder / NAMES) if " " in line)
            return tuple(told.get(wnid, wnid).split(",")[0].strip() for wnid in classes)
    if len(classes) == 1000 and all(map(WNID.fullmatch, classes)):
        from torchvision.models import ResNet18_Weights

        return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
    return tuple(classes)


def _lines(path: Path) -> Iterable[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text: {error}") from error
    return [line for line in text.splitlines() if line.strip()]
