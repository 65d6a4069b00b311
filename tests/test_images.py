"""Photographs in class folders: decoding, labels, packing, reading ahead."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image

from methods import load_builtin
from suites import pack
from suites.engine import augmentation, datasets
from suites.engine.augmentation import RESIZED
from suites.images import folders, names, packed, sample
from suites.images.decoding import N_DRAWS, crop_boxes, evaluation_crop, random_crop
from suites.images.folders import DatasetError
from suites.images.pictures import Photographs, Pictures

load_builtin()

REAL = "imagenette-sample"  # in the folder of real datasets


def photograph(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Something smooth with edges in it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (7, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def save(path: Path, image: Image.Image, kind: str = "JPEG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind, quality=92)
    return path


# ------------------------------------------------------------------------------ decoding


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize(
    ("width", "height", "mode"),
    [(500, 375, "RGB"), (333, 500, "RGB"), (68, 121, "L"), (257, 255, "CMYK"), (900, 100, "RGB")],
)
def test_the_evaluation_crop_is_that_of_torchvision(
    tmp_path: Path, size: int, width: int, height: int, mode: str
) -> None:
    path = save(tmp_path / "a.JPEG", photograph(width, height, mode=mode))
    usual = T.Compose([T.Resize(round(size * 256 / 224)), T.CenterCrop(size)])
    with Image.open(path) as image:
        expected = np.asarray(usual(image.convert("RGB")))
    assert np.array_equal(evaluation_crop(path, size), expected)


def as_torchvision_has_it(root: Path, n_classes: int) -> None:
    """Files, labels and pixels of a class folder are those of torchvision's ImageFolder."""
    from torchvision.datasets import ImageFolder

    usual = T.Compose([T.Resize(256), T.CenterCrop(224)])
    found = folders.read(root.name, root.parent, n_classes)
    for part, mine in (("train", found.train), ("val", found.val)):
        theirs = ImageFolder(str(root / part), usual)
        assert list(found.classes) == theirs.classes
        assert [str(mine.root / p) for p in mine.paths] == [p for p, _ in theirs.samples]
        assert list(mine.labels) == theirs.targets
        for i in range(0, len(theirs), 7):
            pixels = evaluation_crop(mine.root / mine.paths[i], 224)
            assert np.array_equal(pixels, np.asarray(theirs[i][0]))


def test_files_and_labels_are_those_of_torchvision(tmp_path: Path) -> None:
    """In every format that torchvision takes, under names whose order is not that of numbers."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert set(folders.SUFFIXES) == set(IMG_EXTENSIONS)
    kinds = {"jpg": "JPEG", "pgm": "PPM", "tif": "TIFF"}
    for part in ("train", "val"):
        for name in ("n2", "n10", "Cat"):
            for i, suffix in enumerate(folders.SUFFIXES):
                kind = kinds.get(suffix[1:], suffix[1:].upper())
                path = tmp_path / "pictures" / part / name / f"{i}{suffix.upper() if i else suffix}"
                save(path, photograph(40 + i, 50, mode="L" if suffix == ".pgm" else "RGB"), kind)
    as_torchvision_has_it(tmp_path / "pictures", 3)


def test_real_photographs_and_labels_are_those_of_torchvision(data_dir: Path) -> None:
    if not (data_dir / REAL).is_dir():
        pytest.skip(f"needs real photographs: {data_dir / REAL}")
    as_torchvision_has_it(data_dir / REAL, 10)


def test_other_formats_under_the_name_of_jpeg(tmp_path: Path) -> None:
    """ImageNet has a PNG file among its JPEG files; palettes and alpha come with such."""
    for mode in ("P", "RGBA", "L", "1"):
        path = save(tmp_path / f"{mode}.JPEG", photograph(80, 60, mode=mode), "PNG")
        assert evaluation_crop(path, 32).shape == (32, 32, 3)


@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_a_broken_file_is_named(tmp_path: Path, damage: str) -> None:
    path = save(tmp_path / "broken.JPEG", photograph(300, 200))
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"not found", "truncated": whole[:-900]}[damage])
    for read in (lambda: evaluation_crop(path, 32), lambda: random_crop(path, 32, np.zeros(22))):
        with pytest.raises(DatasetError, match=r"broken\.JPEG cannot be decoded"):
            read()


def test_random_crops_have_the_areas_and_shapes_of_torchvision() -> None:
    """Two samples from one distribution: Kolmogorov-Smirnov, for each of four numbers of a box."""
    from scipy.stats import ks_2samp

    torch.manual_seed(0)
    image = torch.empty(3, 375, 500)
    theirs = np.array(
        [T.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    )
    boxes = crop_boxes(np.random.default_rng(0).random((4000, N_DRAWS)), 500, 375)
    for mine, column in ((boxes[:, 1], 0), (boxes[:, 0], 1), (boxes[:, 3], 2), (boxes[:, 2], 3)):
        assert ks_2samp(mine, theirs[:, column]).pvalue > 0.001
    left, top, width, height = boxes.T
    assert (left >= 0).all() and (left + width <= 500).all()
    assert (top >= 0).all() and (top + height <= 375).all()


def test_where_no_crop_fits_it_is_the_middle() -> None:
    boxes = crop_boxes(np.full((1, N_DRAWS), 0.999), 1000, 30)
    assert boxes.tolist() == [[480, 0, 40, 30]]
    assert crop_boxes(np.full((1, N_DRAWS), 0.999), 30, 1000).tolist() == [[0, 480, 30, 40]]


@pytest.mark.parametrize(
    ("size", "sides"),
    [(32, (640, 480)), (64, (640, 480)), (200, (640, 480)), (32, (500, 375)), (64, (500, 375))],
)
def test_a_scaled_decoding_shows_the_same_part(
    tmp_path: Path, size: int, sides: tuple[int, int]
) -> None:
    """Against the crop of the whole photograph: within a few grey levels.

    An eighth of 500 x 375 pixels, ImageNet's most frequent size, ends within its last pixels.
    """
    path = save(tmp_path / "a.JPEG", photograph(*sides))
    draws = np.random.default_rng(1).random((8, N_DRAWS))
    with Image.open(path) as image:
        whole = image.convert("RGB")
    for row in draws:
        left, top, width, height = crop_boxes(row[None], *sides)[0]
        expected = whole.resize(
            (size, size), Image.Resampling.BILINEAR,
            box=(left, top, left + width, top + height),
        )  # fmt: skip
        difference = random_crop(path, size, row).astype(int) - np.asarray(expected).astype(int)
        assert np.abs(difference).mean() < 2


def test_mirrored_parts_are_the_parts_mirrored(tmp_path: Path) -> None:
    """About half of them, by whoever cuts them out."""
    path = save(tmp_path / "a.JPEG", photograph(90, 70))
    drawn = augmentation.draw("resized-crop+flip", 60, torch.device("cpu"), "test")[RESIZED]
    tensor = torch.from_numpy(evaluation_crop(path, 32).copy()).permute(2, 0, 1)
    found = augmentation.apply(tensor.expand(60, 3, 32, 32), "resized-crop+flip", {RESIZED: drawn})
    turned = 0
    for row, mine in zip(drawn, found, strict=True):
        plain = random_crop(path, 32, row[:N_DRAWS].numpy())
        own = random_crop(path, 32, row.numpy())
        part = augmentation.resized(tensor[None], row[None, :N_DRAWS])[0]
        is_turned = bool(row[N_DRAWS] < 0.5)
        assert np.array_equal(own, plain[:, ::-1] if is_turned else plain)
        assert (mine.int() - (part.flip(2) if is_turned else part).int()).abs().max() <= 1
        turned += is_turned
    assert 18 < turned < 42


def test_random_crops_of_tensors_against_the_crop_of_an_image() -> None:
    """Upscaled by Pillow: equal up to rounding, but for the edges."""
    image = photograph(64, 64)
    draws = torch.rand(16, N_DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).expand(16, 3, 64, 64)
    found = augmentation.apply(tensor, "resized-crop", {RESIZED: draws})
    for row, mine in zip(crop_boxes(draws.numpy(), 64, 64), found, strict=True):
        left, top, width, height = row
        box = (left, top, left + width, top + height)
        expected = np.asarray(image.resize((64, 64), Image.Resampling.BILINEAR, box=box))
        difference = mine.permute(1, 2, 0).numpy().astype(int) - expected
        assert np.abs(difference[4:-4, 4:-4]).max() <= 1


# ------------------------------------------------------------------------------ folders


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("imagenet-64px", ("imagenet", 64, False, None, None, 1000, True)),
        ("tiny-imagenet-200-64px-jpeg", ("tiny-imagenet-200", 64, True, None, None, 200, True)),
        ("my-photos-32px-jpeg-c3-n20", ("my-photos", 32, True, 3, 20, 3, False)),
        ("imagenet-64px-c10", ("imagenet", 64, False, 10, None, 10, False)),
        ("mine-8px", ("mine", 8, False, None, None, 0, False)),
        ("mnist", None),
        ("imagenet-px", None),
    ],
)
def test_what_a_name_says(name: str, found: tuple[Any, ...] | None) -> None:
    said = names.parse(name)
    assert (said and (*dataclasses.astuple(said), said.n_classes, said.whole)) == found


def test_labels_by_folder_and_the_first_classes(photos: Path) -> None:
    found = folders.read("digit-photos", photos, 3, 5)
    assert found.classes == ("digit-0", "digit-1", "digit-2")
    assert found.train.labels == (0,) * 5 + (1,) * 5 + (2,) * 5
    assert found.val.paths[5] == "digit-1/val_000.JPEG"
    direct = folders.read("digit-photos", photos / "digit-photos", 3, 5)
    assert direct.train == found.train  # DIR may be the folder itself


TRUTH = {
    "LOC_val_solution.csv": "ImageId,PredictionString\nv_1,n02 3 4 5 6 n02 1 1 1 1\n"
    "v_0,n03 1 2 3 4\nv_2,n01 1 1 1 1\n",
    "val_annotations.txt": "v_0.JPEG\tn03\t0\t0\t9\t9\nv_1.JPEG\tn02\t0\t0\t9\t9\n"
    "v_2.JPEG\tn01\t0\t0\t9\t9\n",
    "val.txt": "v_0.JPEG 2\nv_1.JPEG 1\nv_2.JPEG 0\n",
    "ILSVRC2012_validation_ground_truth.txt": "30\n7\n1\n",
}


@pytest.mark.parametrize("truth", TRUTH)
def test_validation_images_in_one_folder(tmp_path: Path, truth: str) -> None:
    from scipy.io import savemat

    root = tmp_path / "set"
    for wnid in ("n01", "n02", "n03"):
        save(root / "train" / wnid / "images" / f"{wnid}_0.JPEG", photograph(40, 40))
    for i in range(3):
        save(root / "val" / "images" / f"v_{i}.JPEG", photograph(40, 40))
    with pytest.raises(DatasetError, match="the file that tells the class"):
        folders.read("set", tmp_path, 3)
    (root / truth).write_text(TRUTH[truth])
    kind = np.dtype([("ILSVRC2012_ID", int), ("WNID", "O")])
    numbers = np.array([(1, "n01"), (7, "n02"), (30, "n03")], dtype=kind)
    savemat(root / "meta.mat", {"synsets": numbers})
    found = folders.read("set", tmp_path, 3)
    assert [Path(p).stem for p in found.val.paths] == ["v_2", "v_1", "v_0"]
    assert found.val.labels == (0, 1, 2) and found.train.paths[0] == "n01/images/n01_0.JPEG"
    folders.read.cache_clear()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("val.txt", b"v_0.JPEG -1\n", "-1 is the number of no class"),
        ("val.txt", "v_0.JPEG caf\u00e9\n".encode("latin-1"), "is not UTF-8"),
        ("meta.mat", b"", "meta.mat cannot be read"),
    ],
)
def test_files_beside_the_photographs_that_are_broken_are_named(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    root = tmp_path / "set"
    for wnid in ("n01", "n02"):
        save(root / "train" / wnid / "a.JPEG", photograph(40, 40))
    save(root / "val" / "v_0.JPEG", photograph(40, 40))
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n")
    (root / name).write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        folders.read("set", tmp_path, 2)
    folders.read.cache_clear()


def test_a_part_of_imagenet_by_a_list_of_wnids(tmp_path: Path) -> None:
    for wnid in ("n01", "n02", "n03"):
        for part in ("train", "val"):
            save(tmp_path / "imagenet" / part / wnid / "a.JPEG", photograph(40, 40))
    (tmp_path / "imagenet100.txt").write_text("n03\nn01 a fish\n")
    (tmp_path / "imagenet" / "LOC_synset_mapping.txt").write_text("n03 shark, fish\nn01 tench\n")
    found = folders.read("imagenet100", tmp_path, 2)
    assert found.classes == ("n01", "n03") and found.words == ("tench", "shark")
    (tmp_path / "other.txt").write_text("n09\n")
    with pytest.raises(DatasetError, match="no n09"):
        folders.read("other", tmp_path, 1)


def test_a_photograph_is_in_one_split_at_all_sizes_and_in_all_parts(photos: Path) -> None:
    """What one run chose a probe on, another must not have trained on."""

    def validation(name: str) -> set[str]:
        data = datasets.load(name, photos, 0.2)
        assert isinstance(data.val[0], Pictures) and isinstance(data.val[0].source, Photographs)
        paths = data.val[0].source._listing.paths
        return {paths[i] for i in data.val[0]._index.tolist()}

    whole = validation("digit-photos-32px-jpeg-c10")
    assert 150 < len(whole) < 250  # of 1000
    assert validation("digit-photos-64px-jpeg-c10") == whole
    part = {p for p in whole if int(p[6]) < 4 and int(p[-8:-5]) < 30}
    assert validation("digit-photos-32px-jpeg-c4-n30") == part != set()
    data = datasets.load("digit-photos-32px-jpeg-c10", photos, 0.2)
    assert len(data.train[1]) + len(data.val[1]) == 1000


def test_numbers_in_a_list_count_in_all_classes(tmp_path: Path) -> None:
    """Also where only some of them are taken; names that are numbers are names."""
    for classes, listed, expected in (
        (("n1", "n2", "n3"), "v0 2\nv1 0\nv2 1\n", ["v0"]),
        (("0", "2", "10"), "v0 2\nv1 10\nv2 0\n", ["v0"]),
    ):
        root = tmp_path / classes[0]
        for name in classes:
            save(root / "imagenet" / "train" / name / "a.JPEG", photograph(40, 40))
        for i in range(3):
            save(root / "imagenet" / "val" / f"v{i}.JPEG", photograph(40, 40))
        (root / "imagenet" / "val.txt").write_text(listed)
        last = sorted(classes)[-1]
        (root / "some.txt").write_text(f"{last}\n")
        found = folders.read("some", root, 1)
        assert [Path(p).stem for p in found.val.paths] == expected, classes


def test_a_folder_is_taken_for_no_other(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is not that folder itself"):
        datasets.load("imagenette2-32px-jpeg", photos / "digit-photos", 0.1)
    (tmp_path / "imagenette2").symlink_to(photos / "digit-photos")
    assert folders.only_one(tmp_path) == ("imagenette2", 10)
    datasets.load("imagenette2-32px-jpeg", tmp_path, 0.1)
    (tmp_path / "imagenet").symlink_to(photos / "digit-photos")
    with pytest.raises(DatasetError, match="has 10 classes, not 1000"):
        datasets.load("imagenet-32px-jpeg", tmp_path, 0.1)
    (tmp_path / "x").mkdir()
    packed.pack(folders.read("imagenette2", tmp_path, 10), 16, tmp_path / "x", 1)
    (tmp_path / "x").rename(tmp_path / "imagenette2-32px")
    with pytest.raises(DatasetError, match="holds 10 classes at 16 pixels"):
        datasets.load("imagenette2-32px", tmp_path, 0.1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit-photos-32px-jpeg-c11", "has 10 classes, not 11"),
        ("nothing-32px-jpeg-c10", "no .*nothing/train"),
        ("digit-photos-32px-c10", "python -m suites.pack digit-photos-32px-c10"),
    ],
)
def test_what_is_missing_is_one_line(photos: Path, name: str, words: str) -> None:
    with pytest.raises(DatasetError, match=words) as caught:
        datasets.load(name, photos, 0.1)
    assert "\n" not in str(caught.value)
    with pytest.raises(DatasetError, match="--data-dir"):
        datasets.load(name, None, 0.1)


@pytest.mark.parametrize("name", ["pets-32px-jpeg", "aircraft-32px-jpeg"])
def test_sets_that_torchvision_fetches(tmp_path: Path, name: str) -> None:
    """Laid out by hand as torchvision wants them: two classes, some files of each."""
    pets, aircraft = tmp_path / "oxford-iiit-pet", tmp_path / "fgvc-aircraft-2013b" / "data"
    (pets / "annotations").mkdir(parents=True)
    aircraft.mkdir(parents=True)
    (aircraft / "variants.txt").write_text("A 1\nB 2\n")
    for part, n in (("trainval", 6), ("test", 4)):
        lines: list[list[str]] = [[], []]
        for i in reversed(range(n)):
            stem = f"{part}_{i}"
            save(pets / "images" / f"{stem}.jpg", photograph(50, 40, i))
            save(aircraft / "images" / f"{stem}.jpg", photograph(40, 50, i))
            lines[0].append(f"{stem} {i % 2 + 1} 1 1")
            lines[1].append(f"{stem} {'AB'[i % 2]} {i % 2 + 1}")
        (pets / "annotations" / f"{part}.txt").write_text("\n".join(lines[0]) + "\n")
        (aircraft / f"images_variant_{part}.txt").write_text("\n".join(lines[1]) + "\n")
    data = datasets.load(name, tmp_path, 0.0)
    assert data.train[1].tolist() == [0, 0, 0, 1, 1, 1] and data.test[1].tolist() == [0, 0, 1, 1]
    folder = pets / "images" if name.startswith("pets") else aircraft / "images"
    expected = evaluation_crop(folder / "trainval_2.jpg", 32)
    assert np.array_equal(data.train[0][:][1].permute(1, 2, 0).numpy(), expected)
    with pytest.raises(DatasetError, match="--download"):
        datasets.load(name, tmp_path / "oxford-iiit-pet", 0.0)


# ------------------------------------------------------------------------------ packing


def test_packed_and_decoded_are_the_same_dataset(photos: Path, tmp_path: Path) -> None:
    name = "digit-photos-32px-c4-n9"
    arguments = [name, "--data-dir", str(photos), "--out", str(tmp_path)]
    assert pack.main(arguments) == 0
    (tmp_path / "digit-photos").symlink_to(photos / "digit-photos")
    one = datasets.load(name, tmp_path, 0.1)
    two = datasets.load(name.replace("px", "px-jpeg"), tmp_path, 0.1)
    assert isinstance(one.train[0], torch.Tensor) and isinstance(two.train[0], Pictures)
    assert len(one.val[1]) + len(one.train[1]) == 36
    for a, b in ((one.train, two.train), (one.val, two.val), (one.test, two.test)):
        assert torch.equal(a[0][:], b[0][:]) and torch.equal(a[1], b[1])
    assert one.task.mean == two.task.mean and one.task.std == two.task.std
    assert pack.main([*arguments, "--verify"]) == 0
    assert pack.main(arguments) == 0  # there already
    with open(tmp_path / name / "train.u8", "r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    assert pack.main([*arguments, "--verify"]) == 1


@pytest.mark.slow
def test_packing_goes_on_after_sigkill_and_gives_the_same_bytes(tmp_path: Path) -> None:
    """5,000 files; killed in the middle, twice."""
    root = tmp_path / "many"
    contents = []
    for seed in range(50):
        buffer = io.BytesIO()
        photograph(160, 120, seed).save(buffer, "JPEG")
        contents.append(buffer.getvalue())
    for part, n in (("train", 450), ("val", 50)):
        for wnid in range(10):
            folder = root / part / f"n{wnid}"
            folder.mkdir(parents=True)
            for i in range(n):
                (folder / f"{i:04d}.JPEG").write_bytes(contents[(i * 7 + wnid) % 50])
    command = [
        sys.executable, "-m", "suites.pack", "many-64px-c10", "--data-dir", str(tmp_path),
        "--threads", "1",
    ]  # fmt: skip
    journal = tmp_path / "cut" / "many-64px-c10" / "train.u8.journal"
    for chunks in (2, 5):
        process = subprocess.Popen([*command, "--out", str(tmp_path / "cut")])
        deadline = time.monotonic() + 120
        while not (journal.exists() and len(journal.read_text().splitlines()) >= chunks):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (journal.parent / "about.json").exists()
    with open(journal, "a") as file:
        file.write("8 0123")  # a line that was cut short
    before = os.stat(journal.parent / "train.u8.part").st_ino
    subprocess.run([*command, "--out", str(tmp_path / "cut")], check=True)
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True)
    for file in ("train.u8", "val.u8", "about.json"):
        one, two = (tmp_path / where / "many-64px-c10" / file for where in ("cut", "whole"))
        assert one.read_bytes() == two.read_bytes(), file
    assert os.stat(journal.parent / "train.u8").st_ino == before  # the same file, gone on with
    assert sorted(p.name for p in journal.parent.iterdir()) == ["about.json", "train.u8", "val.u8"]


def test_broken_files_are_all_named_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample.make(tmp_path)
    broken = tmp_path / "digit-photos" / "train" / "digit-1" / "train_003.JPEG"
    good = broken.read_bytes()
    broken.write_bytes(good[: len(good) // 2])
    arguments = ["digit-photos-32px-c2", "--data-dir", str(tmp_path)]
    assert pack.main(arguments) == 1
    assert "1 photographs cannot be decoded" in (told := capsys.readouterr().err)
    assert str(broken) in told
    assert str(broken) in (tmp_path / "digit-photos-32px-c2" / "broken.txt").read_text()
    broken.write_bytes(good)
    folders.read.cache_clear()
    assert pack.main(arguments) == 0


def test_a_wrong_request_to_pack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["imagenet"], "is not a name like"),
        (["imagenet-64px-jpeg"], "is not a name like"),
        (["flowers-64px"], "say how many classes"),
        (["imagenet-64px"], "no "),
        (["imagenet-64px", "--threads", "0"], "--threads"),
        (["imagenet-64px", "--verify"], "is not packed"),
    ):
        with pytest.raises(SystemExit) as ended:
            pack.main([*arguments, "--data-dir", str(tmp_path)])
        told = capsys.readouterr().err
        assert ended.value.code == 2 and words in told and told.count("\n") == 1


def test_a_folder_too_many_is_not_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be a class, and all behind it would have the numbers of others."""
    for part in ("train", "val"):
        for name in ("a_stray", *(f"n{i:02d}" for i in range(10))):
            save(tmp_path / "imagenette2" / part / name / "a.JPEG", photograph(40, 40))
    with pytest.raises(SystemExit):
        pack.main(["imagenette2-32px", "--data-dir", str(tmp_path)])
    assert "has 11 classes, not 10" in capsys.readouterr().err


# ------------------------------------------------------------------------------ reading ahead


def test_reading_ahead_gives_what_was_asked_for(photos: Path) -> None:
    listing = folders.read("digit-photos", photos, 10).train
    pictures = Pictures(Photographs(listing, 32)).at(torch.arange(0, 400, 2))
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    parts = list(order.split(37))
    for index, images in zip(parts, pictures.ahead((i, None) for i in parts), strict=True):
        for row, i in enumerate(index.tolist()):
            path = listing.root / listing.paths[2 * i]
            assert np.array_equal(images[row].permute(1, 2, 0).numpy(), evaluation_crop(path, 32))


def test_a_broken_file_ends_the_reading(tmp_path: Path) -> None:
    for i in range(40):
        save(tmp_path / "x" / "train" / "a" / f"{i:02d}.JPEG", photograph(40, 40, i))
    listing = folders._by_folder(tmp_path / "x" / "train", ["a"], None)
    (tmp_path / "x" / "train" / "a" / "33.JPEG").write_bytes(b"")
    batches = Pictures(Photographs(listing, 32)).split(16)
    assert len(next(batches)) == len(next(batches)) == 16
    with pytest.raises(DatasetError, match=r"33\.JPEG"):
        next(batches)
