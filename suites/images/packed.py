"""Photographs as arrays of a fixed size: made once, then read as fast as the disk gives them.

    DIR/train.u8, DIR/val.u8    uint8 (N, 3, S, S): the evaluation crop of each photograph, by class
    DIR/about.json              what is in them, with a checksum for each chunk of images

Packing goes on where it was: finished chunks are noted in a journal after they are on disk. The
arrays get their names, and `about.json` is written, when all of it is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from results.files import write_atomically
from suites.images.decoding import Pixels, evaluation_crop
from suites.images.folders import ClassFolder, DatasetError, Listing
from suites.images.pictures import Pictures

VERSION = 1
CHUNK = 512  # images with a checksum of their own
IN_MEMORY = 2**31  # bytes up to which a part is held as a tensor
PARTS = ("train", "val")


@dataclass(frozen=True)
class Part:
    """One array.

    Attributes:
        counts: images of each class, in their order. checksums: CRC-32 of each chunk.
    """

    counts: list[int]
    checksums: list[int]


@dataclass(frozen=True)
class About:
    """What was packed; classes and words as in `ClassFolder`."""

    version: int
    size: int
    classes: list[str]
    words: list[str]
    train: Part
    val: Part


class Array:
    """A source that reads from a packed array, mapped into memory."""

    crops = False
    piece = 1024  # they are only copied

    def __init__(self, path: Path, n: int, size: int, digest: str) -> None:
        self.shape, self.digest = (3, size, size), digest
        self._images = np.memmap(path, np.uint8, "r", shape=(n, *self.shape))

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: NDArray[np.int64], draws: NDArray[np.float64] | None) -> Pixels:
        """See `pictures.Source`."""
        return np.take(self._images, index, axis=0)


Labelled = tuple[Tensor | Pictures, Tensor]


def load(folder: Path) -> tuple[Labelled, Labelled]:
    """Images and labels of both parts.

    Small parts are tensors in memory, with their checksums compared; large ones are read as they
    are asked for.

    Raises:
        DatasetError: a file is missing, of another version, or of another size than it should be.
    """
    about = read_about(folder)

    def images_of(name: str) -> Labelled:
        part: Part = getattr(about, name)
        n, path = sum(part.counts), folder / f"{name}.u8"
        size = n * _image_bytes(about.size)
        if not path.is_file() or path.stat().st_size != size:
            raise DatasetError(
                f"{path} is not {size} bytes long: delete {folder} and pack it again"
            )
        if size <= IN_MEMORY and (bad := _damaged(path, part, about.size)):
            raise DatasetError(f"{path} is damaged ({bad[0]}): delete {folder} and pack it again")
        pictures = Pictures(Array(path, n, about.size, _digest(part)))
        labels = torch.repeat_interleave(torch.arange(len(part.counts)), torch.tensor(part.counts))
        return pictures[:] if size <= IN_MEMORY else pictures, labels

    return images_of("train"), images_of("val")


def read_about(folder: Path) -> About:
    """What is packed in a folder. Raises DatasetError."""
    path = folder / "about.json"
    if not path.is_file():
        raise DatasetError(f"{folder} is not packed, or not to its end: the same command goes on")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["version"] != VERSION:
            raise ValueError(f"version {told['version']}, not {VERSION}")
        return About(**told | {name: Part(**told[name]) for name in PARTS})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read, pack {folder.name} again: {error}") from error


def damaged(folder: Path) -> list[str]:
    """The chunks whose pixels do not have their checksums, as text: all of the arrays are read."""
    about = read_about(folder)
    return [
        text for name in PARTS
        for text in _damaged(folder / f"{name}.u8", getattr(about, name), about.size)
    ]  # fmt: skip


def _damaged(path: Path, part: Part, size: int) -> list[str]:
    found, n = [], sum(part.counts)
    with open(path, "rb") as file:
        for start, checksum in zip(range(0, n, CHUNK), part.checksums, strict=True):
            if zlib.crc32(file.read(CHUNK * _image_bytes(size))) != checksum:
                found.append(f"{path.name}, images {start} to {min(start + CHUNK, n) - 1}")
    return found


def pack(
    photographs: ClassFolder, size: int, folder: Path, threads: int,
    done: Callable[[int], None] = lambda n: None,
) -> About:  # fmt: skip
    """Decodes all photographs into arrays, from where an earlier attempt was interrupted.

    Args:
        size: pixels a side. done: told how many more images are packed.

    Raises:
        DatasetError: photographs that cannot be decoded, by name, after all others are packed; or
            there is not enough room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listings = {name: getattr(photographs, name) for name in PARTS}
    needed = sum(len(listing.paths) for listing in listings.values()) * _image_bytes(size)
    there = sum(path.stat().st_blocks * 512 for path in folder.glob("*.part"))
    if needed - there > (free := shutil.disk_usage(folder).free):
        raise DatasetError(f"{folder}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free")
    broken: list[str] = []
    checksums = {
        name: _pack_part(listing, size, folder / f"{name}.u8", threads, done, broken)
        for name, listing in listings.items()
    }
    if broken:
        told = folder / "broken.txt"
        write_atomically(told, "".join(f"{line}\n" for line in broken))
        raise DatasetError(
            f"{len(broken)} photographs cannot be decoded; mend them, or delete them (those behind "
            "one are then decoded again), and go on with the same command; all are listed in "
            f"{told}, the first: {broken[0]}"
        )
    (folder / "broken.txt").unlink(missing_ok=True)
    n_classes = len(photographs.classes)
    about = About(
        VERSION, size, list(photographs.classes), list(photographs.words),
        *(
            Part(np.bincount(listings[name].labels, minlength=n_classes).tolist(), checksums[name])
            for name in PARTS
        ),
    )  # fmt: skip
    for name in PARTS:
        path = folder / f"{name}.u8"
        if _partly(path).exists():
            os.replace(_partly(path), path)
    write_atomically(folder / "about.json", json.dumps(asdict(about)))
    for name in PARTS:
        _journal(folder / f"{name}.u8").unlink(missing_ok=True)
    return about


def _pack_part(
    listing: Listing, size: int, path: Path, threads: int, done: Callable[[int], None],
    broken: list[str],
) -> list[int]:  # fmt: skip
    """The checksums of an array that has been written; broken files are added to the list."""
    n = len(listing.paths)
    target = path if path.exists() else _partly(path)
    journal, checksums = _journal(path), dict[int, int]()
    lines = []
    for chunk, digest, checksum in _noted(journal) if target.exists() else ():
        if digest == listing.digest(chunk * CHUNK, (chunk + 1) * CHUNK):
            checksums[chunk] = checksum
            lines.append(f"{chunk} {digest} {checksum}\n")
    write_atomically(journal, "".join(lines))
    with (
        ThreadPoolExecutor(threads) as pool,
        open(target, "r+b" if target.exists() else "w+b") as file,
        open(journal, "a", encoding="utf-8") as notes,
    ):
        file.truncate(n * _image_bytes(size))
        for chunk, start in enumerate(range(0, n, CHUNK)):
            paths = [listing.root / p for p in listing.paths[start : start + CHUNK]]
            if chunk in checksums:
                done(len(paths))
                continue
            decoded = list(pool.map(lambda p: _decoded(p, size), paths))
            done(len(paths))
            if bad := [text for text in decoded if isinstance(text, str)]:
                broken += bad
                continue
            pixels = b"".join(image for image in decoded if isinstance(image, bytes))
            file.seek(start * _image_bytes(size))
            file.write(pixels)
            file.flush()
            os.fsync(file.fileno())
            checksums[chunk] = zlib.crc32(pixels)
            digest = listing.digest(start, start + CHUNK)
            notes.write(f"{chunk} {digest} {checksums[chunk]}\n")
            notes.flush()
    return [checksums[chunk] for chunk in sorted(checksums)]


def _decoded(path: Path, size: int) -> bytes | str:
    """The pixels of a photograph, or why there are none."""
    try:
        return evaluation_crop(path, size).transpose(2, 0, 1).tobytes()
    except DatasetError as error:
        return str(error)


def _noted(journal: Path) -> Iterator[tuple[int, str, int]]:
    """Chunk, digest of its listing, checksum; a last line that was cut short is left out."""
    if not journal.exists():
        return
    for line in journal.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n") and len(words := line.split()) == 3:
            yield int(words[0]), words[1], int(words[2])


def _partly(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _journal(path: Path) -> Path:
    return path.with_name(path.name + ".journal")


def _image_bytes(size: int) -> int:
    return 3 * size * size


def _digest(part: Part) -> str:
    return hashlib.sha256(json.dumps(asdict(part), sort_keys=True).encode()).hexdigest()
