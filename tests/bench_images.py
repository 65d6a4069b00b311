"""Photographs from disk: against torchvision's folder and loader, and packed against decoded.

make bench ARGS="-k photographs"
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image

from suites.engine import augmentation, datasets
from suites.engine.augmentation import RESIZED
from suites.engine.datasets import IMAGENET_STATISTICS, Images
from suites.images import folders, packed
from suites.images.pictures import Pictures
from suites.launching import local

N, BATCH, ROUNDS = 384, 64, 7
WIDTH, HEIGHT = 500, 375  # the most frequent size in ImageNet


def photographs(root: Path, n: int, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """A class folder of images with detail at all scales: about 100 kB each, as ImageNet's are."""
    rng = np.random.default_rng(0)
    for part, count in (("train", n), ("val", 8)):
        for i in range(count):
            image = np.zeros((height, width, 3), np.float32)
            for cells in (4, 16, 64, 250):
                octave = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
                large = Image.fromarray(octave).resize((width, height), Image.Resampling.BICUBIC)
                image += np.asarray(large, np.float32) / (1 + cells / 64)
            image = 255 * (image - image.min()) / np.ptp(image)
            path = root / "set" / part / f"n{i % 2}" / f"{i:05d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.astype(np.uint8)).save(path, "JPEG", quality=90)
    return root


def rates(*epochs: Callable[[], int]) -> list[list[float]]:
    """Images/s of each in turns, after one round to warm up."""
    found: list[list[float]] = [[] for _ in epochs]
    for i in range(ROUNDS + 1):
        for epoch, own in zip(epochs, found, strict=True):
            begun = time.perf_counter()
            n = epoch()
            if i:
                own.append(n / (time.perf_counter() - begun))
    return found


def ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def batches(part: Images, kind: str, name: str, size: int) -> Iterator[torch.Tensor]:
    """Mini-batches as training makes them."""
    images, labels = part
    task = datasets.bare_task(name)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = [i for i in order.split(size) if len(i) == size]
    drawn = [augmentation.draw(kind, size, torch.device("cpu"), i) for i in range(len(parts))]
    if isinstance(images, Pictures):
        crops = [d.pop(RESIZED, None) if images.source.crops else None for d in drawn]
        read = images.ahead(zip(parts, crops, strict=True))
    else:
        read = (images.index_select(0, i) for i in parts)
    for pixels, own in zip(read, drawn, strict=True):
        yield datasets.prepare(augmentation.apply(pixels, kind, own), task)


def torchvisions(root: Path) -> Callable[[], int]:
    """An epoch of the usual way: decode, random crop of 224 pixels, mirror, standardise, batch."""
    from torchvision.datasets import ImageFolder

    usual = T.Compose(
        [T.RandomResizedCrop(224), T.RandomHorizontalFlip(), T.ToTensor(),
         T.Normalize(*IMAGENET_STATISTICS)]
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(root / "set" / "train"), usual), BATCH, shuffle=True,
        num_workers=local.usable_cores(), persistent_workers=True,
    )  # fmt: skip
    return lambda: sum(len(x) for x, _ in loader)


def test_decoding_photographs_against_torchvision(tmp_path: Path, benchmark: Any) -> None:
    """The same work: never slower."""
    torch.set_num_threads(local.usable_cores())
    photographs(tmp_path, N)
    name = "set-224px-jpeg-c2"
    part = datasets.load(name, tmp_path, 0.0).train

    def own() -> int:
        return sum(len(x) for x in batches(part, "resized-crop+flip", name, BATCH))

    found = benchmark.pedantic(rates, args=(own, torchvisions(tmp_path)), rounds=1, iterations=1)
    won = ratio(*found)
    benchmark.extra_info["own / torchvision"] = round(won, 2)
    print(f"\nimages/s, own {found[0][0]:.0f}, torchvision {found[1][0]:.0f}; ratio {won:.2f}")
    assert won >= 1.0


@pytest.mark.parametrize("on_disk", [False, True], ids=["in memory", "mapped"])
def test_packed_photographs_against_decoded_ones(
    tmp_path: Path, benchmark: Any, on_disk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed at 64 pixels, with crops and mirrors: at least 20 times as fast as that."""
    cores = local.usable_cores()
    torch.set_num_threads(cores)
    photographs(tmp_path, N)
    name = "set-64px-c2"
    packed.pack(folders.read("set", tmp_path, 2), 64, tmp_path / name, cores)
    if on_disk:
        monkeypatch.setattr(packed, "IN_MEMORY", 0)
    part = datasets.load(name, tmp_path, 0.0).train
    assert isinstance(part[0], Pictures) == on_disk

    def own() -> int:
        return sum(
            len(x) for _ in range(10)
            for x in batches(part, "resized-crop+flip", name, BATCH)
        )  # fmt: skip

    found = benchmark.pedantic(rates, args=(own, torchvisions(tmp_path)), rounds=1, iterations=1)
    won = ratio(*found)
    benchmark.extra_info["packed / decoded"] = round(won, 1)
    print(f"\nimages/s, packed {found[0][0]:.0f}, torchvision {found[1][0]:.0f}; ratio {won:.1f}")
    assert won >= 20
