"""Datasets: named sources of train / validation / test splits, as uint8 tensors.

To add one, write a loader that returns its two parts and register it at the end of this file.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from methods import Task
from suites.engine.registry import Registry
from suites.engine.seeds import derive_seed, generator
from suites.images import folders, names, packed, published_sets
from suites.images.folders import DatasetError
from suites.images.pictures import Photographs, Pictures

Images = tuple[Tensor | Pictures, Tensor]  # uint8 (N, C, H, W) and int64 (N,)
# of ImageNet's training images, in [0, 1], as torchvision's weights have them
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Dataset:
    """A registered dataset.

    Attributes:
        load: (folder, download) -> (train images, test images); folder is None when embedded.
        folder: what is looked for below the data directory, for messages.
        sha256: of all pixels and labels as loaded; catches damage that file formats do not show.
        folder_of: of photographs: the class folder, whose parts and sizes share one split.
        statistics: mean and standard deviation of each channel, in [0, 1]; None to take them from
            the training images.
    """

    name: str
    n_classes: int
    shape: tuple[int, int, int]
    load: Callable[[Path, bool], tuple[Images, Images]]
    embedded: bool = False
    folder: str = ""
    sha256: str | None = None
    version: int = 1
    folder_of: str = ""
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Data:
    """The three splits of a dataset, on one device."""

    task: Task
    train: Images
    val: Images
    test: Images
    sha256: str

    def to(self, device: torch.device) -> Data:
        """The same data on a device."""

        def move(part: Images) -> Images:
            return part[0].to(device), part[1].to(device)

        return replace(self, train=move(self.train), val=move(self.val), test=move(self.test))


def load(name: str, data_dir: Path | None, val_fraction: float, download: bool = False) -> Data:
    """The splits of a dataset, checked.

    The validation split is cut from the training images by a seed fixed per dataset, the same in
    every run; mean and std are those of the remaining training images. Of a class folder, a
    photograph is in the same split at all sizes and in all parts of the folder.

    Raises:
        DatasetError: files are missing, unreadable or not what they should be.
    """
    train, test, digest = _read(name, data_dir, download)
    dataset = DATASETS[name]
    val_index, train_index = _split(dataset, train[1], val_fraction)
    kept, val = _some(train, train_index), _some(train, val_index)
    mean, std = dataset.statistics or _channel_statistics(kept[0][:])
    task = Task(name, dataset.shape, dataset.n_classes, mean, std)
    return Data(task, kept, val, test, digest)


def _split(dataset: Dataset, labels: Tensor, val_fraction: float) -> tuple[Tensor, Tensor]:
    """Indices of the validation images, and of those that are left."""
    if not dataset.folder_of:
        rng = generator("cpu", dataset.name, "validation split")
        order = torch.randperm(len(labels), generator=rng)
        n_val = round(len(order) * val_fraction)
        return order[:n_val].sort().values, order[n_val:].sort().values
    drawn = []
    for label, n in enumerate(torch.bincount(labels).tolist()):  # by class, as they are sorted
        seed = derive_seed(dataset.folder_of, label, "validation split")
        drawn.append(np.random.default_rng(seed).random(n))
    chosen = torch.from_numpy(np.concatenate(drawn)) < val_fraction
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()


def _some(part: Images, index: Tensor) -> Images:
    images, labels = part
    some = images.at(index) if isinstance(images, Pictures) else images[index]
    return some, labels[index]


def _channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in [0, 1], exact whatever the order of sums."""
    level = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = float((share * level).sum())
        means.append(mean)
        stds.append(float((share * (level - mean).square()).sum().sqrt()))
    return tuple(means), tuple(stds)


def bare_task(name: str) -> Task:
    """Shape and classes of a dataset without reading it."""
    dataset = DATASETS[name]
    channels = dataset.shape[0]
    mean, std = dataset.statistics or ((0.0,) * channels, (1.0,) * channels)
    return Task(name, dataset.shape, dataset.n_classes, mean, std)


@functools.lru_cache(maxsize=2)
def _read(name: str, data_dir: Path | None, download: bool) -> tuple[Images, Images, str]:
    dataset = DATASETS[name]
    if not dataset.embedded:
        _check_folder(dataset, data_dir, download)
    try:
        train, test = dataset.load(data_dir or Path(), download)
        for images, labels in (train, test):
            _check_tensors(dataset, images, labels)
        highest = max(int(train[1].max()), int(test[1].max()))
        if highest < dataset.n_classes - 1 and not (dataset.folder_of or is_noise(name)):
            raise DatasetError(
                f"dataset {name!r}: it is registered with {dataset.n_classes} classes, and its "
                f"highest label is {highest}, so that it has {highest + 1}"
            )
    except DatasetError:
        raise
    except Exception as error:  # torchvision raises whatever the broken bytes lead to
        if dataset.embedded:
            raise DatasetError(
                f"dataset {name!r}: its loader fails ({type(error).__name__}: {error})"
            ) from error
        where = f" in {data_dir}" if data_dir else ""
        raise DatasetError(
            f"dataset {name!r}{where} cannot be read ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}); delete "
            f"{dataset.folder or 'it'} there and fetch it again with --download"
        ) from error
    digest = _digest(train, test)
    if dataset.sha256 is not None and digest != dataset.sha256:
        if dataset.embedded:
            raise DatasetError(
                f"embedded dataset {name!r} has SHA-256 {digest}, not the one registered: another "
                "version of its package may bring other data; if its loader was changed on "
                "purpose, register this value"
            )
        raise DatasetError(
            f"dataset {name!r} in {data_dir} is damaged: its pixels and labels have SHA-256 "
            f"{digest[:12]}…, not {dataset.sha256[:12]}…; delete {dataset.folder} there and fetch "
            "it again with --download"
        )
    return train, test, digest


def _check_folder(dataset: Dataset, data_dir: Path | None, download: bool) -> None:
    if data_dir is None:
        raise DatasetError(
            f"dataset {dataset.name!r} is not embedded: say where it is with --data-dir DIR "
            + (
                f"(expected: DIR/{dataset.folder}), or add --download to fetch it there"
                if dataset.folder
                else "(the folder that its files lie in, see docs/imagenet.md)"
                if dataset.folder_of
                else "(the folder that its files lie in), or register it with embedded=True where "
                "its loader needs no files"
            )
        )
    if download:
        data_dir.mkdir(parents=True, exist_ok=True)
    elif not data_dir.is_dir():
        raise DatasetError(
            f"data directory {data_dir} does not exist: point --data-dir at the folder that holds "
            "the data sets, or add --download to make it"
        )
    elif dataset.folder and not any(data_dir.glob(dataset.folder)):
        raise DatasetError(
            f"dataset {dataset.name!r}: {data_dir / dataset.folder} not found; point --data-dir "
            "at the folder that holds it, or add --download to fetch it there"
        )


def _check_tensors(dataset: Dataset, images: Tensor | Pictures, labels: Tensor) -> None:
    if not isinstance(images, Tensor | Pictures) or not isinstance(labels, Tensor):
        raise DatasetError(f"dataset {dataset.name!r}: its loader must return torch tensors")
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise DatasetError(
            f"dataset {dataset.name!r}: labels are {labels.dtype} {tuple(labels.shape)}, not int64 "
            f"({len(labels)},)"
        )
    if images.dtype != torch.uint8 or images.shape[1:] != dataset.shape:
        raise DatasetError(
            f"dataset {dataset.name!r}: images are {images.dtype} {tuple(images.shape[1:])}, "
            f"not uint8 {dataset.shape}"
        )
    if len(images) != len(labels) or len(images) == 0:
        raise DatasetError(f"dataset {dataset.name!r}: {len(images)} images, {len(labels)} labels")
    if not (int(labels.min()) >= 0 and int(labels.max()) < dataset.n_classes):
        raise DatasetError(
            f"dataset {dataset.name!r}: labels run from {int(labels.min())} to "
            f"{int(labels.max())}, not from 0 to {dataset.n_classes - 1}"
        )


def _digest(*parts: Images) -> str:
    sha = hashlib.sha256()
    for images, labels in parts:
        if isinstance(images, Pictures):
            sha.update(images.source.digest.encode())
        else:
            sha.update(images.numpy().tobytes())
        sha.update(labels.to(torch.uint8 if labels.max() < 256 else torch.int16).numpy().tobytes())
    return sha.hexdigest()


# ------------------------------------------------------------------------------- batches


def prepare(images: Tensor, task: Task) -> Tensor:
    """Standardised float32 images, (B, C, H, W), from uint8 ones, on their device."""
    shift, scale = _standardisation(task, images.device)
    return images.to(torch.float32).sub_(shift).mul_(scale)


def in_batches(part: Images, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of a part in turn, so many at a time."""
    images, labels = part
    return zip(images.split(size), labels.split(size), strict=True)


@functools.lru_cache(maxsize=8)
def _standardisation(task: Task, device: torch.device) -> tuple[Tensor, Tensor]:
    """What to subtract from and multiply grey levels with, kept on the device: (1, C, 1, 1)."""
    shift = torch.tensor([255 * m for m in task.mean], device=device)
    scale = torch.tensor([1 / (255 * s) if s else 1.0 for s in task.std], device=device)
    return shift.view(1, -1, 1, 1), scale.view(1, -1, 1, 1)


def fitted(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images brought to the shape of others, for a network that was made for those.

    Grey becomes three equal channels, and colours their luma (ITU-R BT.601); sides are resized
    bilinearly, with antialiasing.

    Args:
        images: uint8, (B, C, H, W). shape: (C', H', W'), with C' 1 or 3 where it differs from C.
    """
    if images.shape[1:] == shape:
        return images
    out = images.to(torch.float32)
    if out.shape[1] == 1 and shape[0] == 3:
        out = out.expand(-1, 3, -1, -1)
    elif out.shape[1] == 3 and shape[0] == 1:
        weights = out.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
        out = (out * weights).sum(dim=1, keepdim=True)
    elif out.shape[1] != shape[0]:
        raise ValueError(f"images of {out.shape[1]} channels cannot be given {shape[0]}")
    if out.shape[2:] != shape[1:]:
        out = torch.nn.functional.interpolate(
            out, size=shape[1:], mode="bilinear", antialias=True, align_corners=False
        )
    return out.round().clamp(0, 255).to(torch.uint8)


# ------------------------------------------------------------------------------- loaders


def _digits(folder: Path, download: bool) -> tuple[Images, Images]:
    """scikit-learn's 1797 handwritten digits of 8x8 pixels; a fixed random fifth is test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    order = torch.randperm(len(labels), generator=generator("cpu", "digits", "test split"))
    n_test = len(labels) // 5
    test, train = order[:n_test].sort().values, order[n_test:].sort().values
    return (images[train], labels[train]), (images[test], labels[test])


def _synthetic(folder: Path, download: bool) -> tuple[Images, Images]:
    """A separable problem of no interest: one random image of 16x16 pixels a class, plus noise."""
    rng = generator("cpu", "synthetic")
    centres = torch.randn(10, 1, 16, 16, generator=rng)
    parts = []
    for n in (2000, 500):
        labels = torch.arange(n) % 10
        noise = torch.randn(n, 1, 16, 16, generator=rng)
        images = (128 + 40 * (centres[labels] + noise)).clamp(0, 255).to(torch.uint8)
        parts.append((images, labels))
    return parts[0], parts[1]


def _torchvision(class_name: str) -> Callable[[Path, bool], tuple[Images, Images]]:
    def load_parts(folder: Path, download: bool) -> tuple[Images, Images]:
        import torchvision.datasets as source

        cls = getattr(source, class_name)
        parts = []
        for first in (True, False):
            which = {"split": "train" if first else "test"} if class_name == "SVHN" else {
                "train": first
            }  # fmt: skip
            part = cls(str(folder), download=download, **which)
            labels = part.labels if class_name == "SVHN" else part.targets
            parts.append((_channels_first(part.data), torch.as_tensor(labels, dtype=torch.int64)))
        return parts[0], parts[1]

    return load_parts


def _channels_first(images: Tensor | np.ndarray) -> Tensor:
    tensor = torch.as_tensor(images)
    if tensor.dim() == 3:  # (N, H, W), grey
        return tensor.unsqueeze(1)
    if tensor.shape[1] == 3:  # SVHN is (N, 3, H, W) already
        return tensor
    return tensor.permute(0, 3, 1, 2).contiguous()


NOISE = re.compile(r"noise-(\d+)x(\d+)x(\d+)-c(\d+)")
NOISE_IMAGES, NOISE_BYTES = 4096, 2**27  # as many images, if they fit into so many bytes


def is_noise(name: str) -> bool:
    """Whether a dataset is noise with random labels, whose test images are its training images."""
    return NOISE.fullmatch(name) is not None


def noise(name: str) -> Dataset | None:
    """Images of noise with random labels: "noise-3x32x32-c100" has 100 classes; else None."""
    match = NOISE.fullmatch(name)
    if match is None or not all(map(int, match.groups())):
        return None
    channels, height, width, n_classes = map(int, match.groups())
    shape = (channels, height, width)

    def load_parts(folder: Path, download: bool) -> tuple[Images, Images]:
        rng = generator("cpu", name)
        n = max(1, min(NOISE_IMAGES, NOISE_BYTES // math.prod(shape)))
        images = torch.randint(256, (n, *shape), dtype=torch.uint8, generator=rng)
        part = images, torch.randint(n_classes, (n,), generator=rng)
        return part, part

    return Dataset(name, n_classes, shape, load_parts, embedded=True)


SUBSET = re.compile(r"(.+)-(\d+)to(\d+)")


def subset(name: str) -> Dataset | None:
    """Some classes of a dataset, numbered from 0: "digits-5to9" has five; else None."""
    match = SUBSET.fullmatch(name)
    whole = DATASETS.get(match[1]) if match else None
    if match is None or whole is None:
        return None
    first, last = int(match[2]), int(match[3])
    if not first < last < whole.n_classes:
        return None
    whole_name = whole.name

    def load_parts(folder: Path, download: bool) -> tuple[Images, Images]:
        parts = []
        for images, labels in _read(whole_name, folder, download)[:2]:
            kept = (labels >= first) & (labels <= last)
            parts.append((images[kept], labels[kept] - first))
        return parts[0], parts[1]

    return replace(whole, name=name, n_classes=last - first + 1, load=load_parts, sha256=None)


def shared_classes(one: str, other: str) -> int:
    """How many classes two datasets have in common that are the same dataset or parts of it."""
    (whole, first, last), (whole_too, first_too, last_too) = map(_classes_of, (one, other))
    if whole != whole_too:
        return 0
    return max(0, min(last, last_too) - max(first, first_too) + 1)


def _classes_of(name: str) -> tuple[str, int, int]:
    """The dataset that it is, or is part of, with its first and last class there."""
    match = SUBSET.fullmatch(name)
    if match and match[1] in DATASETS:
        return match[1], int(match[2]), int(match[3])
    return name, 0, DATASETS[name].n_classes - 1 if name in DATASETS else 0


def whole_folder(name: str) -> str | None:
    """The class folder that a dataset is all of, as papers name it; None for any other dataset."""
    photos = names.parse(name)
    return photos.folder if photos and photos.whole else None


def photographs(name: str) -> Dataset | None:
    """A class folder: "imagenet-64px" is ImageNet-1k as suites.pack makes it; else None.

    Flowers102, pets and aircraft are always decoded in training: they are small, and taken whole.
    """
    photos = names.parse(name)
    if photos is None or not photos.size or photos.n_classes < 2 or photos.most == 0:
        return None
    folder, size, n_classes = photos.folder, photos.size, photos.n_classes
    if folder in published_sets.SETS and not (photos.decoded and photos.whole):
        return None

    def decoded(data_dir: Path, download: bool) -> tuple[Images, Images]:
        if folder in published_sets.SETS:
            parts = published_sets.read(folder, data_dir, download)
        else:
            exactly = photos.first is None
            found = folders.read(folder, data_dir, n_classes, photos.most, exactly=exactly)
            parts = found.train, found.val
        train, val = (
            (Pictures(Photographs(part, size)), torch.tensor(part.labels)) for part in parts
        )
        return train, val

    def ready(data_dir: Path, download: bool) -> tuple[Images, Images]:
        if not (data_dir / name).is_dir():
            raise DatasetError(
                f"dataset {name!r}: {data_dir / name} not found; make it once by `python -m "
                f"suites.pack {name} --data-dir {data_dir}`, or take "
                f"{name.replace('px', 'px-jpeg')}, which decodes the photographs in training"
            )
        about = packed.read_about(data_dir / name)
        if (about.size, len(about.classes)) != (size, n_classes):
            raise DatasetError(
                f"dataset {name!r}: {data_dir / name} holds {len(about.classes)} classes at "
                f"{about.size} pixels; delete it and pack it again"
            )
        return packed.load(data_dir / name)

    return Dataset(
        name, n_classes, (3, size, size), decoded if photos.decoded else ready,
        folder_of=folder, statistics=IMAGENET_STATISTICS,
    )  # fmt: skip


DATASETS = Registry(
    (
        Dataset(
            "digits", 10, (1, 8, 8), _digits, embedded=True,
            sha256="26984dcf7ade3763a42940d0834988ba79cc56871e4e9341df178fc7be889d06",
        ),
        Dataset("synthetic", 10, (1, 16, 16), _synthetic, embedded=True),
        Dataset(
            "mnist", 10, (1, 28, 28), _torchvision("MNIST"), folder="MNIST",
            sha256="06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16",
        ),
        Dataset(
            "fashion-mnist", 10, (1, 28, 28), _torchvision("FashionMNIST"), folder="FashionMNIST",
            sha256="ca3ab2a37f845e1b8ae23cab1b51749a3011ba3bf1d9016176d75cbaabac376f",
        ),
        Dataset("kmnist", 10, (1, 28, 28), _torchvision("KMNIST"), folder="KMNIST"),
        Dataset(
            "cifar10", 10, (3, 32, 32), _torchvision("CIFAR10"), folder="cifar-10-batches-py",
            sha256="32e5966899bde482c0ef7d076bf69809b4b1488c806f657a814cfca4646ec493",
        ),
        Dataset(
            "cifar100",
            100,
            (3, 32, 32),
            _torchvision("CIFAR100"),
            folder="cifar-100-python",
            sha256="b41e29387b788506ced6a48cea527c65d6387e1598add60c84d6995abf0b21fa",
        ),
        Dataset("svhn", 10, (3, 32, 32), _torchvision("SVHN"), folder="*_32x32.mat"),
    ),
    family=lambda name: noise(name) or subset(name) or photographs(name),
)  # fmt: skip
