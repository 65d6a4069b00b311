"""Photographs in training: from files as from memory, table 4, networks at that scale."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from methods import METHODS, Task, load_builtin
from results.store import Store
from suites import options, run
from suites.engine import datasets, training
from suites.engine.architectures import ARCHITECTURES
from suites.engine.cell import Cell, Protocol
from suites.engine.checkpoint import Checkpoint
from suites.engine.evaluation import evaluate
from suites.engine.training import Training
from suites.engine.trial import Job, Stopped, Trial
from suites.images import folders, sample
from suites.images.folders import DatasetError
from suites.images.pictures import Pictures
from suites.launching import attempt

load_builtin()


# ------------------------------------------------------------------------------ training from disk

METHOD = "backprop"


def cell(dataset: str, augmentation: str = "none", epochs: int = 2) -> Cell:
    protocol = Protocol(epochs=epochs, batch_size=16, augmentation=augmentation)
    return Cell.of(METHOD, {}, "cnn-small", dataset, protocol, 0)


def trial(tmp_path: Path, wanted: Cell, data_dir: Path, **more: Any) -> Trial:
    job = Job(wanted, "", "table4", "quick", "", tmp_path, data_dir, checkpoint_s=1e9)
    return Trial(job, torch.device("cpu"), Checkpoint(Store(tmp_path), wanted), **more)


def test_a_network_trained_from_files_is_that_trained_from_memory(
    photos: Path, tmp_path: Path
) -> None:
    """Bit for bit: the same images in the same order, whoever holds them."""
    name = "digit-photos-32px-jpeg-c4-n20"
    data = datasets.load(name, photos, 0.1)
    assert isinstance(data.train[0], Pictures)
    held = replace(
        data, train=(data.train[0][:], data.train[1]), val=(data.val[0][:], data.val[1]),
        test=(data.test[0][:], data.test[1]),
    )  # fmt: skip
    found = []
    for kind, source in enumerate((data, held)):
        one = trial(tmp_path / str(kind), cell(name, "crop4+flip"), photos)
        one.run(source)
        found.append((one.metrics, one.progress.curves["train_loss"]))
        assert (one.progress.data_wait_s > 0) == (source is data)
    assert found[0] == found[1]
    assert found[0][0]["test"]["last"]["accuracy_pct"] > 25


@pytest.mark.parametrize("augmentation", ["none", "resized-crop+flip"])
def test_stopped_in_an_epoch_and_gone_on_with_the_images_that_are_left(
    photos: Path, tmp_path: Path, augmentation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "digit-photos-32px-jpeg-c4-n20"
    wanted, data = cell(name, augmentation), datasets.load(name, photos, 0.1)
    whole = trial(tmp_path / "whole", wanted, photos)
    whole.run(data)
    asked: list[list[int]] = []  # of the second part: which images each step was given
    step = Training._step

    def noted(self: Training, done: int, index: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        asked.append([done, *index.tolist()])
        return step(self, done, index, x)

    monkeypatch.setattr(Training, "_step", noted)
    countdown = iter([False] * 2 + [True])
    with pytest.raises(Stopped):
        trial(tmp_path / "cut", wanted, photos, stop=lambda: next(countdown)).run(data)
    assert [done for done, *_ in asked] == [0, 1, 2]  # of four in an epoch
    again = trial(tmp_path / "cut", wanted, photos)
    again.run(data)
    assert [done for done, *_ in asked] == [0, 1, 2, 3, 4, 5, 6, 7]
    first_epoch = [i for done, *index in asked[:4] for i in index]
    assert len(set(first_epoch)) == len(first_epoch) == 64  # each image once, none again
    assert (
        again.metrics == whole.metrics
        and again.progress.curves["train_loss"] == (whole.progress.curves["train_loss"])
    )


def test_a_broken_photograph_is_the_reason_on_record(tmp_path: Path) -> None:
    sample.make(tmp_path / "data")
    broken = next((tmp_path / "data").rglob("train/digit-1/*.JPEG"))
    broken.write_bytes(broken.read_bytes()[:200])
    folders.read.cache_clear()
    wanted = cell("digit-photos-32px-jpeg-c2", epochs=1)
    job = Job(wanted, "x", "table4", "quick", "", tmp_path / "runs", tmp_path / "data")
    outcome = attempt.run(job)
    assert outcome.status == "failed" and broken.name in str(outcome.reason)


# ------------------------------------------------------------------------------ the suite


def test_table4_on_the_class_folder_at_hand(tmp_path: Path, photos: Path) -> None:
    """The folder itself, or the one that holds it; the name says what was taken of it."""
    arguments = ["table4", "--methods", "backprop", "--epochs", "1", "--dry-run"]
    for folder in (photos, photos / "digit-photos"):
        args = run.parser().parse_args([*arguments, "--data-dir", str(folder)])
        request = options.resolve(args, "", [], "cpu")
        names = {wanted.cell.dataset for wanted in request.wanted}
        assert names == {"digit-photos-64px-jpeg-c10-n20"}
    (tmp_path / "empty").mkdir()
    args = run.parser().parse_args([*arguments, "--data-dir", str(tmp_path / "empty")])
    with pytest.raises(DatasetError, match="no class folder"):
        options.resolve(args, "", [], "cpu")


def test_other_photographs_of_the_same_name_are_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records are not shown as of data that they were not made of, and training does not go on."""
    data = sample.make(tmp_path)
    where = ["--results-dir", str(tmp_path / "runs"), "--report-dir", str(tmp_path / "out")]
    what = [
        "table4", "--data-dir", str(data), "--datasets", "digit-photos-32px-jpeg-c2-n20",
        "--methods", "backprop", "--architectures", "cnn-small", "--epochs", "1", "--workers", "1",
    ]  # fmt: skip
    assert run.main([*what, *where]) == 0
    name = "digit-photos-32px-jpeg-c2-n20"
    wanted, before = cell(name, epochs=2), datasets.load(name, data, 0.1)
    stops = iter([False, True])
    with pytest.raises(Stopped):
        trial(tmp_path / "cut", wanted, data, stop=lambda: next(stops)).run(before)
    (data / "digit-photos" / "train" / "digit-1" / "train_003.JPEG").unlink()
    folders.read.cache_clear()
    datasets._read.cache_clear()
    with pytest.raises(SystemExit) as ended:
        run.main([*what, *where])
    assert ended.value.code == 2 and "is not what it was" in capsys.readouterr().err
    again = trial(tmp_path / "cut", wanted, data)
    again.run(datasets.load(name, data, 0.1))
    assert "other data of the same name" in again.warnings[0] and again.progress.sessions == 1


def test_rules_that_look_at_all_images_are_shown_some_photographs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all classes, and no more than can be held."""
    monkeypatch.setattr(training, "MOST_AT_START", 8)
    seen: list[torch.Tensor] = []

    def start(self: object, x: torch.Tensor, y: torch.Tensor) -> None:
        assert len(x) == len(y)
        seen.append(y)

    monkeypatch.setattr(METHODS["backprop"], "start", start)
    name = "digit-photos-32px-jpeg-c4-n20"
    trial(tmp_path, cell(name, epochs=1), photos).run(datasets.load(name, photos, 0.1))
    assert len(seen[0]) == 8 and set(seen[0].tolist()) == {0, 1, 2, 3}


def test_table4_without_a_folder_makes_one_and_shows_top_5(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--results-dir", str(tmp_path / "runs"), "--report-dir", str(tmp_path / "out")]
    what = ["--methods", "backprop", "--architectures", "mlp-3x1000", "--epochs", "1"]
    assert run.main(["table4", *what, "--workers", "1", *where]) == 0
    assert "stand in for photographs" in capsys.readouterr().out
    (record,) = [json.loads(p.read_text()) for p in (tmp_path / "runs/records").glob("*.json")]
    metric = record["metrics"]["test"]["last"]
    assert metric["accuracy_pct"] <= metric["top5_pct"] <= 100 and metric["n"] == 200
    assert 0 < record["timings"]["data_wait_share"] < 1
    assert "last, top 5" in (tmp_path / "out/table4/index.html").read_text()


def test_among_the_best_five_by_hand() -> None:
    """Scores that are all alike count for the classes that topk names, not for all."""

    class Fixed:
        training = False
        scores = torch.zeros(4, 12)

        def eval(self) -> None: ...

        def train(self, mode: bool) -> None: ...

        def logits(self, x: torch.Tensor, readout: str, rng: object) -> torch.Tensor:
            return self.scores

    method = Fixed()
    images, labels = torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 3, 7, 11])
    task = Task("t", (1, 2, 2), 12, (0.0,), (1.0,))
    found = evaluate(method, (images, labels), task, "last", torch.Generator())  # type: ignore[arg-type]
    assert found["top5_pct"] < 100
    method.scores = torch.arange(12.0).repeat(4, 1)  # the best five: 7 to 11
    found = evaluate(method, (images, labels), task, "last", torch.Generator())  # type: ignore[arg-type]
    assert found["top5_pct"] == 50 and found["accuracy_pct"] == 25


# ------------------------------------------------------------------------------ networks


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("resnet18-imagenet", "resnet18"), ("resnet50-imagenet", "resnet50"),
        ("mobilenet-v3-small", "mobilenet_v3_small"),
    ],
)  # fmt: skip
def test_networks_of_torchvision_compute_what_they_do_there(name: str, model: str) -> None:
    """The same weights, from the same draws; features are what its classifier gets."""
    import torchvision.models

    torch.manual_seed(0)
    blocks = ARCHITECTURES[name].blocks(Task("t", (3, 64, 64), 10)).eval()
    torch.manual_seed(0)
    whole = getattr(torchvision.models, model)(weights=None).eval()
    last = "fc" if hasattr(whole, "fc") else "classifier"
    setattr(whole, last, torch.nn.Identity())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(blocks(x).flatten(1), whole(x))


@pytest.mark.parametrize("name", ["alexnet", "vgg11-bn", "layercnn-8x128", "mobilenet-v3-small"])
@pytest.mark.parametrize("row", ["backprop", "hff", "decoupled", "layerwise"])
def test_large_networks_can_be_trained_in_blocks(name: str, row: str) -> None:
    """One step on a thousand classes, on narrow blocks where they can be: shapes and finiteness."""
    task = Task("t", (3, 32, 32), 1000, (0.5,) * 3, (0.5,) * 3)
    cls = METHODS[row]
    config = cls.Config()
    blocks = ARCHITECTURES[name].blocks(task, cls.style(config), 1 / 8)
    method = cls(blocks, task, config, torch.Generator()).train()
    x, y = torch.randn(4, 3, 32, 32), torch.randint(1000, (4,))
    out = method.train_step(x, y, method.phases(10)[0][0], 0.0)
    assert bool(torch.isfinite(out["loss"]))
    assert method.eval().logits(x).shape == (4, 1000)
