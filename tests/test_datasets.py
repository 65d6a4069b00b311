"""Splits, checks and augmentation of the data."""

from __future__ import annotations

import dataclasses
import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from methods import Task
from suites.engine import augmentation, datasets
from suites.engine.datasets import DatasetError, load, prepare
from suites.engine.registry import Registry
from suites.engine.seeds import generator


def test_digits_are_scikit_learns_and_split_without_overlap() -> None:
    from sklearn.datasets import load_digits

    data = load("digits", None, 0.1)
    parts = [data.train, data.val, data.test]
    assert [len(p[1]) for p in parts] == [1294, 144, 359]
    rows = torch.cat([torch.cat([i.flatten(1), l[:, None].to(torch.uint8)], 1) for i, l in parts])
    bunch = load_digits()
    expected = np.c_[np.rint(bunch.images.reshape(1797, 64) * 255 / 16), bunch.target]
    assert sorted(map(tuple, rows.tolist())) == sorted(map(tuple, expected.astype(int).tolist()))


def test_the_validation_split_is_the_same_every_time() -> None:
    one = load("digits", None, 0.1)
    datasets._read.cache_clear()
    two = load("digits", None, 0.1)
    assert torch.equal(one.val[0], two.val[0]) and torch.equal(one.train[0], two.train[0])


def test_statistics_are_those_of_the_training_part() -> None:
    data = load("digits", None, 0.25)
    pixels = data.train[0].double() / 255
    assert data.task.mean[0] == pytest.approx(float(pixels.mean()), abs=1e-12)
    assert data.task.std[0] == pytest.approx(float(pixels.std(unbiased=False)), abs=1e-12)
    x = prepare(data.train[0], data.task)
    assert float(x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(x.std(unbiased=False)) == pytest.approx(1, abs=1e-5)


def augmented(images: Tensor, kind: str) -> Tensor:
    drawn = augmentation.draw(kind, len(images), images.device, "test")
    return augmentation.apply(images, kind, drawn)


def test_crop_against_a_loop() -> None:
    """Each image has an offset of its own; one offset per batch would be a weaker augmentation."""
    images = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
    out = augmented(images, "crop2")
    rng = generator("cpu", "test")
    top = torch.randint(5, (20, 1), generator=rng).flatten()
    left = torch.randint(5, (20, 1), generator=rng).flatten()
    for b in range(20):
        padded = np.pad(images[b].numpy(), ((0, 0), (2, 2), (2, 2)))
        window = padded[:, top[b] : top[b] + 8, left[b] : left[b] + 8]
        assert np.array_equal(out[b].numpy(), window)
    assert len({(int(a), int(b)) for a, b in zip(top, left, strict=True)}) > 5


def test_flip_mirrors_about_half_of_the_images() -> None:
    images = torch.randint(256, (400, 1, 4, 4), dtype=torch.uint8)
    drawn = augmentation.draw("crop2+flip", 400, images.device, "test")
    out = augmentation.apply(images, "crop2+flip", {"flip": drawn["flip"]})
    mirrored = (out == images.flip(3)).flatten(1).all(1)
    kept = (out == images).flatten(1).all(1)
    assert bool((mirrored | kept).all()) and 150 < int(mirrored.sum()) < 250


def test_augmentation_happens_before_standardisation() -> None:
    """Padding is black in the image, not the mean grey."""
    task = Task("t", (1, 8, 8), 2, (0.5,), (0.25,))
    images = torch.full((64, 1, 8, 8), 255, dtype=torch.uint8)
    x = prepare(augmented(images, "crop2"), task)
    assert set(x.unique().tolist()) == {-2.0, 2.0}


def test_a_name_stands_for_one_thing() -> None:
    """A second data set of a name would be reported under the number of the first."""
    digits = datasets.DATASETS["digits"]
    with pytest.raises(ValueError, match="'digits' is registered twice"):
        Registry([digits, dataclasses.replace(digits, sha256=None)], lambda name: None)


def test_missing_data_says_where_and_what_to_do(tmp_path: Path) -> None:
    for folder, words in (
        (None, "--data-dir"),
        (tmp_path / "none", "does not exist"),
        (tmp_path, "--download"),
    ):
        with pytest.raises(DatasetError, match=words) as caught:
            load("mnist", folder, 0.1)
        assert "\n" not in str(caught.value)


IMAGES, LABELS = torch.zeros(6, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (IMAGES, LABELS.float(), "labels are torch.float32 (6,), not int64 (6,)"),
        (IMAGES, LABELS[:, None], "labels are torch.int64 (6, 1), not int64 (6,)"),
        (IMAGES, LABELS.clamp(max=1), "registered with 3 classes, and its highest label is 1"),
        (IMAGES, LABELS + 1, "labels run from 1 to 3, not from 0 to 2"),
        (IMAGES.float(), LABELS, "images are torch.float32"),
        (IMAGES[:5], LABELS, "5 images, 6 labels"),
        (IMAGES.numpy(), LABELS, "must return torch tensors"),
        (None, LABELS, "its loader fails (AttributeError: "),
    ],
)
def test_what_a_loader_gets_wrong_is_said_of_the_loader(
    images: Tensor, labels: Tensor, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loader(folder: Path, download: bool) -> tuple[datasets.Images, datasets.Images]:
        part = IMAGES.nothing if images is None else images, labels
        return part, part

    mine = datasets.Dataset("mine", 3, (1, 8, 8), loader, embedded=True)
    monkeypatch.setitem(datasets.DATASETS, "mine", mine)
    datasets._read.cache_clear()
    with pytest.raises(DatasetError) as caught:
        load("mine", None, 0.1)
    assert told in str(caught.value) and "--download" not in str(caught.value)


def test_a_loader_without_files_that_is_not_registered_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = datasets.Dataset("mine", 3, (1, 8, 8), lambda folder, download: pytest.fail("called"))
    monkeypatch.setitem(datasets.DATASETS, "mine", mine)
    with pytest.raises(DatasetError, match="register it with embedded=True"):
        load("mine", None, 0.1)


@pytest.mark.data
def test_real_mnist(data_dir: Path) -> None:
    data = load("mnist", data_dir, 0.1)
    assert [len(p[1]) for p in (data.train, data.val, data.test)] == [54000, 6000, 10000]
    labels = torch.cat([data.train[1], data.val[1]])
    assert torch.bincount(labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert data.task.mean[0] == pytest.approx(0.1307, abs=5e-4)


@pytest.mark.data
@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty"])
def test_damaged_mnist_is_named(data_dir: Path, tmp_path: Path, damage: str) -> None:
    """One flipped byte changes no file size and no format, but it is not MNIST any more."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (data_dir / "MNIST" / "raw").iterdir():
        if file.suffix == ".gz":
            (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        else:
            shutil.copy(file, raw / file.name)
    victim = raw / "train-images-idx3-ubyte"
    content = bytearray(victim.read_bytes())
    if damage == "one byte":
        content[100_000] ^= 1
    victim.write_bytes(
        {"truncated": content[:1_000_000], "one byte": content, "empty": b""}[damage]
    )
    with pytest.raises(DatasetError, match="mnist") as caught:
        load("mnist", tmp_path, 0.1)
    assert str(tmp_path) in str(caught.value) and "--download" in str(caught.value)
    assert "\n" not in str(caught.value)
