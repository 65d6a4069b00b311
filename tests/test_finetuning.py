"""Transfer of networks that go on learning, and of networks that others have trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models

from methods import Method, Task, load_builtin
from results.store import Store
from suites import run
from suites.engine import datasets
from suites.engine.architectures import ARCHITECTURES
from suites.engine.cell import Cell, Protocol
from suites.engine.checkpoint import Checkpoint
from suites.engine.passes import stacks_of
from suites.engine.trial import Job, Stopped, Trial
from suites.images import sample
from suites.launching import attempt
from suites.transfer import measure, pretrained, probes, tuning, weights
from suites.transfer.weights import WeightsError

load_builtin()
PROTOCOL = Protocol(epochs=2, batch_size=64, source="digits-0to4", tuning="itself", tuning_epochs=3)


def transfer(method: str, protocol: Protocol = PROTOCOL, architecture: str = "mlp-2x500") -> Cell:
    return Cell.of(method, {}, architecture, "digits-5to9", protocol, 0, "transfer")


def trial(root: Path, cell: Cell, **more: Any) -> Trial:
    job = Job(cell, "", "table3", "quick", "", root, checkpoint_s=1e9)
    return Trial(job, torch.device("cpu"), Checkpoint(Store(root), cell), **more)


# ------------------------------------------------------------------------------ fine-tuning


@pytest.mark.parametrize(
    ("method", "how"),
    [
        ("hff", "itself"),
        ("hff", "backprop"),
        ("ff", "itself"),
        ("ff", "backprop"),
        ("fa", "itself"),
        ("fa", "backprop"),
        ("noprop", "itself"),
        ("noprop", "backprop"),
    ],
)
def test_tuning_begins_with_what_the_source_has_made(
    tmp_path: Path, method: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = transfer(method, dataclasses.replace(PROTOCOL, tuning=how))
    data = datasets.load("digits-5to9", None, 0.1)
    source, task = pretrained.pretrained(trial(tmp_path, cell))
    begun: list[Method] = []
    train = Trial.train

    def noted(self: Trial, method: Method, data: datasets.Data) -> None:
        begun.append(method)
        stacks = stacks_of(method)
        assert len(stacks) == (1 if how == "backprop" else len(stacks_of(source)))
        for stack, whole in zip(stacks, stacks_of(source), strict=False):  # all ten of NoProp's
            made = dict(whole.named_parameters())
            for name, mine in stack.named_parameters():
                assert torch.equal(mine, made[name]), name
                assert mine.data_ptr() != made[name].data_ptr(), name
        assert method.task.n_classes == 5 and method.task.mean == task.mean
        train(self, method, data)

    monkeypatch.setattr(Trial, "train", noted)
    found = measure.measure(trial(tmp_path, cell), data)
    (tuned,) = begun
    assert tuned.name == ("backprop" if how == "backprop" else method)
    made = dict(source.blocks.named_parameters())
    for name, mine in tuned.blocks.named_parameters():
        assert torch.equal(mine, made[name]) != mine.requires_grad, name
    assert found["test"][tuning.READOUT]["n"] == len(data.test[1])
    least = {"ff": 20, "noprop": 40}.get(tuned.name, 60)
    assert found["test"][tuning.READOUT]["accuracy_pct"] > least


@pytest.mark.parametrize("method", ["pepita", "softhebb"])
def test_what_cannot_be_tuned_is_told_before_the_source_is_learned(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = transfer(method, dataclasses.replace(PROTOCOL, tuning="backprop"))
    monkeypatch.setattr(Trial, "train", None)  # nothing is trained
    with pytest.raises(ValueError, match=r"backprop starts from have no .*bias"):
        measure.measure(trial(tmp_path, cell), datasets.load("digits-5to9", None, 0.1))


def test_a_checkpoint_of_tuning_knows_its_source(tmp_path: Path) -> None:
    """Else weights that were tuned from another source would stand under this one's name."""
    data = datasets.load("digits-5to9", None, 0.1)
    calls = iter(range(10**6))
    n = len(datasets.load("digits-0to4", None, 0.1).train[1]) // 64 * 2
    first = trial(tmp_path, transfer("hff"), stop=lambda: next(calls) > n + 15)
    with pytest.raises(Stopped):
        measure.measure(first, data)
    (path,) = tmp_path.glob("checkpoints/*.pt")
    assert torch.load(path)["progress"]["data_sha256"] not in ("", data.sha256)


def test_stopped_in_tuning_and_gone_on_with(tmp_path: Path) -> None:
    data = datasets.load("digits-5to9", None, 0.1)
    cell = transfer("hff")
    whole = measure.measure(trial(tmp_path / "whole", cell), data)
    calls = iter(range(10**6))
    n = len(datasets.load("digits-0to4", None, 0.1).train[1]) // 64 * 2  # steps on the source
    cut = trial(tmp_path / "cut", cell, stop=lambda: next(calls) > n + 15)
    with pytest.raises(Stopped):
        measure.measure(cut, data)
    assert list((tmp_path / "cut").glob("checkpoints/*.pt"))
    again = trial(tmp_path / "cut", cell)
    assert measure.measure(again, data) == whole
    assert again.progress.sessions == 2


def test_targets_too_large_when_enlarged_are_enlarged_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 8x8 to 16x16 pixels: the same bits as where all of them are held."""
    protocol = dataclasses.replace(PROTOCOL, source="synthetic", epochs=0, tuning_epochs=1)
    cell, data = transfer("hff", protocol), datasets.load("digits-5to9", None, 0.1)
    held = measure.measure(trial(tmp_path / "held", cell), data)
    monkeypatch.setattr(tuning, "MOST_FITTED", 0)
    task = datasets.load("synthetic", None, 0.1).task
    assert tuning.fitted(data, task).train[0].shape == (len(data.train[1]), 1, 16, 16)
    assert measure.measure(trial(tmp_path / "read", cell), data) == held


def test_random_weights_that_are_tuned_are_a_training_from_nothing(tmp_path: Path) -> None:
    """The control: its blocks are those that nobody has trained."""
    cell = transfer("backprop", dataclasses.replace(PROTOCOL, epochs=0))
    method, task = pretrained.pretrained(trial(tmp_path, cell))
    fresh = cell.pretraining().build(task, torch.device("cpu"))
    for mine, theirs in zip(method.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    found = measure.measure(trial(tmp_path, cell), datasets.load("digits-5to9", None, 0.1))
    assert found["test"][tuning.READOUT]["accuracy_pct"] > 60


def test_tuned_columns_of_the_table(tmp_path: Path) -> None:
    where = ["--results-dir", str(tmp_path / "runs"), "--report-dir", str(tmp_path / "out")]
    what = ["--methods", "random", "backprop", "hff", "--seeds", "1", "--epochs", "2"]
    more = ["--datasets", "digits-5to9", "--finetune", "none", "itself", "backprop"]
    assert run.main(["table3", *what, *more, "--workers", "1", *where]) == 0
    records = [json.loads(p.read_text()) for p in (tmp_path / "runs/records").glob("*.json")]
    # of backprop, fine-tuned by itself and by backprop are one cell
    assert len(records) == 3 + 2 * 1 + 2
    page = (tmp_path / "out/table3/index.html").read_text()
    assert "fine-tuned by backprop" in page and "no test accuracy" not in page


# ------------------------------------------------------------------------------ weights of others

MODEL, NETWORK = "mobilenet_v3_small", "mobilenet-v3-small"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision publishes them, with statistics of batch norm as well."""
    torch.manual_seed(7)
    whole = torchvision.models.get_model(MODEL, weights=None).train()
    with torch.no_grad():
        whole(torch.randn(16, 3, 64, 64))
    path = tmp_path_factory.mktemp("weights") / "mobilenet-1234.pth"
    torch.save(whole.state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "model"), [(NETWORK, MODEL), ("resnet18-imagenet", "resnet18")]
)  # fmt: skip
def test_blocks_with_published_weights_are_that_network(
    tmp_path: Path, name: str, model: str
) -> None:
    torch.manual_seed(1)
    whole = torchvision.models.get_model(model, weights=None).train()
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        whole(x)
        path = tmp_path / "w.pth"
        torch.save(whole.state_dict(), path)
        blocks = ARCHITECTURES[name].blocks(Task("t", (3, 64, 64), 10)).eval()
        weights.load_into(blocks, weights.read(path, name), name)
        setattr(whole, "fc" if hasattr(whole, "fc") else "classifier", torch.nn.Identity())
        assert torch.equal(blocks(x).flatten(1), whole.eval()(x))


def test_probes_on_published_weights(tmp_path: Path, published: Path) -> None:
    """The last block against torchvision's features, standardised by hand, and the same probe."""
    name = "digit-photos-32px-jpeg-c3-n12"
    sample.make(tmp_path)
    protocol = Protocol(
        epochs=1, source="imagenet-32px", weights=weights.digest(published), val_fraction=0.25
    )
    cell = Cell.of("backprop", {}, NETWORK, name, protocol, 0, "transfer")
    job = Job(
        cell, "", "table3", "standard", "", tmp_path / "runs", tmp_path, weights=published
    )  # fmt: skip
    assert attempt.run(job).status == "ok"
    found = Store(tmp_path / "runs").read([cell.key]).records[cell.key]["metrics"]["test"]
    whole = torchvision.models.get_model(MODEL, weights=None).eval()
    whole.load_state_dict(torch.load(published))
    whole.classifier = torch.nn.Identity()
    data = datasets.load(name, tmp_path, 0.25)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    parts = []
    with torch.no_grad():
        for images, labels in (data.train, data.val, data.test):
            parts.append((whole((images[:].float() / 255 - mean) / std), labels))
    expected = probes.linear(*parts, 3)
    last = len(ARCHITECTURES[NETWORK].blocks(data.task))
    assert found[f"linear, block {last}"]["accuracy_pct"] == pytest.approx(
        expected.test.right, abs=100 / 36 + 1e-6
    )


def test_the_table_of_published_weights(tmp_path: Path, published: Path) -> None:
    """Weights of others are tuned, and weights of nobody beside them; no source is read."""
    sample.make(tmp_path)
    where = ["--results-dir", str(tmp_path / "runs"), "--report-dir", str(tmp_path / "out")]
    what = ["--methods", "random", "backprop", "hff", "--seeds", "1", "--epochs", "1"]
    more = [
        "--datasets", "digit-photos-32px-jpeg-c2-n20", "--data-dir", str(tmp_path),
        "--architectures", NETWORK, "--weights", str(published), "--sources", "imagenet-32px",
        "--finetune", "itself", "--profile", "standard", "--workers", "1",
    ]  # fmt: skip
    assert run.main(["table3", *what, *more, *where]) == 0
    records = [json.loads(p.read_text()) for p in (tmp_path / "runs/records").glob("*.json")]
    begun = {
        (r["cell"]["method"], r["cell"]["protocol"].get("weights", ""),
         r["cell"]["protocol"].get("tuning", ""))
        for r in records
    }  # fmt: skip
    sha = weights.digest(published)
    assert begun == {
        ("backprop", "", "backprop"), ("backprop", sha, "backprop"), ("hff", sha, "itself"),
    }  # fmt: skip


def test_wrong_weights_are_one_line(
    tmp_path: Path, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, text, objects = (tmp_path / f for f in ("other.pth", "text.pth", "objects.pth"))
    state = torch.load(published)
    torch.save({k: v[..., :1] if k.endswith("0.0.weight") else v for k, v in state.items()}, other)
    text.write_text("not found")
    torch.save({"epoch": 3, "state": state}, objects)
    where = ["--results-dir", str(tmp_path / "runs"), "--report-dir", str(tmp_path / "out")]
    base = ["table3", "--profile", "standard", "--datasets", "cifar10", *where]
    for more, words in (
        (["--weights", "none.pth", "--architectures", NETWORK], "no such file"),
        (["--weights", str(other), "--architectures", NETWORK], "has shape"),
        (["--weights", str(published), "--architectures", "resnet18-imagenet"], "is missing"),
        (["--weights", str(published), "--architectures", "vgg8b"], "not a network of torchvision"),
        (["--weights", str(text), "--architectures", NETWORK], "cannot be read"),
        (["--weights", str(objects), "--architectures", NETWORK], "not a state dict"),
        (["--weights", str(published)], "for one network"),
        (["--weights", "torchvision", "--architectures", "resnet50-imagenet"], "fetch it"),
    ):
        with pytest.raises(SystemExit) as ended:
            run.main([*base, *more])
        told = capsys.readouterr().err
        assert ended.value.code == 2 and words in told and told.count("\n") == 1, told


def test_weights_that_changed_meanwhile(tmp_path: Path, published: Path) -> None:
    protocol = Protocol(epochs=1, source="imagenet-32px", weights="0123456789ab")
    cell = Cell.of("backprop", {}, NETWORK, "cifar10", protocol, 0, "transfer")
    job = Job(cell, "", "table3", "standard", "", tmp_path, weights=published)
    with pytest.raises(WeightsError, match="have changed"):
        pretrained.pretrained(Trial(job, torch.device("cpu"), Checkpoint(Store(tmp_path), cell)))
