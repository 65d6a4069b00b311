"""Transfer: probes against scikit-learn's, and what is chosen on what."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from methods import Method, load_builtin
from results.lease import Lease
from results.store import Store
from suites import options, preflight, run, status
from suites.engine import datasets, evaluation
from suites.engine.cell import Cell, Protocol
from suites.engine.trial import Job, Trial
from suites.launching import attempt
from suites.request import expand
from suites.suite import RequestError
from suites.tables import table3
from suites.transfer import measure, pretrained, probes
from suites.transfer.probes import Features, Probe, Score

load_builtin()
SOURCE, TARGET = "digits-0to4", "digits-5to9"
PROTOCOL = Protocol(epochs=2, batch_size=64, source=SOURCE)


def features(n_values: int = 200) -> list[Features]:
    """Random ReLU features of the digits: training, validation, test."""
    data = datasets.load("digits", None, 0.2)
    weights = torch.randn(64, n_values, generator=torch.Generator().manual_seed(0))
    parts = (data.train, data.val, data.test)
    return [((datasets.prepare(x, data.task).flatten(1) @ weights).relu(), y) for x, y in parts]


# -------------------------------------------------------------------------------- probes


def test_linear_probe_is_logistic_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    """scikit-learn's, on the same features: accuracy within 0.3 points, and the same minimum.

    At the weakest strengths the steps end before the minimum, where the loss on new images only
    grows: there it may be lower than scikit-learn's.
    """
    from sklearn.linear_model import LogisticRegression

    train, val, test = features()
    x, x_test = map(probes.standardisation(train[0]), (train[0], test[0]))
    for i, strength in enumerate(path := probes.STRENGTHS):
        monkeypatch.setattr(probes, "STRENGTHS", path[: i + 1])
        monkeypatch.setattr(probes, "best_of", lambda tried: list(tried)[-1])
        ours = probes.linear(train, val, test, 10)
        theirs = LogisticRegression(C=1 / (len(x) * strength), max_iter=2000, tol=1e-8)
        theirs.fit(x.double().numpy(), train[1].numpy())
        right = 100 * theirs.score(x_test.double().numpy(), test[1].numpy())
        chances = theirs.predict_log_proba(x_test.double().numpy())
        loss = -float(np.mean(chances[np.arange(len(test[1])), test[1].numpy()]))
        assert abs(ours.test.right - right) <= 0.3
        if strength >= 1e-3:
            assert ours.test.loss == pytest.approx(loss, rel=2e-3)
        else:
            assert 0.8 * loss < ours.test.loss < 1.02 * loss


def test_strength_is_chosen_on_validation() -> None:
    """With noise for features, a strong λ is better there; what the test set says is no reason."""
    rng = torch.Generator().manual_seed(1)
    noise: list[Features] = [
        (torch.randn(n, 100, generator=rng), torch.randint(2, (n,), generator=rng))
        for n in (150, 400, 400)
    ]
    kept = probes.linear(*noise, 2)
    swapped = probes.linear(noise[0], noise[1], (noise[2][0], 1 - noise[2][1]), 2)
    assert kept.choice == swapped.choice and kept.val == swapped.val
    assert kept.test.right + swapped.test.right == pytest.approx(100)


def test_neighbours_are_those_of_a_second_implementation() -> None:
    """scikit-learn's by cosine: equal but for the images whose vote is a tie."""
    from sklearn.neighbors import KNeighborsClassifier

    train, _, test = features()
    for k in probes.NEIGHBOURS:
        theirs = KNeighborsClassifier(k, metric="cosine").fit(train[0].numpy(), train[1].numpy())
        chances = torch.from_numpy(theirs.predict_proba(test[0].numpy()))
        ours = probes._nearest(train, test[0], 10, lambda: None)[k]
        most = chances.amax(dim=1)
        assert torch.equal(chances[torch.arange(len(ours)), ours], most)
        clear = (chances == most[:, None]).sum(dim=1) == 1
        predicted = torch.from_numpy(theirs.predict(test[0].numpy()))
        assert torch.equal(ours[clear], predicted[clear]) and clear.float().mean() > 0.9


def test_of_tied_classes_the_nearer_wins() -> None:
    train = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), torch.tensor([0, 1, 2])
    query = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    assert probes._nearest(train, query, 3, lambda: None)[5].tolist() == [0, 2]


def test_constant_features_say_nothing() -> None:
    """Also where rounding makes them vary a little."""
    x = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 0.1
    x[:, 2] = 0
    train, other = map(probes.standardisation(x), (x, x + 1))
    assert train[:, 0].mean().abs() < 1e-5 and train[:, 0].std(correction=0) == pytest.approx(1)
    assert not train[:, 1:].any() and not other[:, 1:].any()


def test_few_labels_are_read_on_features_scaled_by_all_images() -> None:
    """What happens to vary by a hair in the few must not be blown up to the size of the rest."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    few = probes.few(labels, 1, torch.Generator().manual_seed(1))
    assert few is not None
    x = torch.randn(400, 50, generator=rng)
    x[few] *= 1e-3
    x[:, 0] += 6.0 * labels  # the classes
    part, whole = (x[few], labels[few]), (x, labels)
    assert probes.linear(part, whole, whole, 2, unlabelled=x).test.right > 99
    assert probes.linear(part, whole, whole, 2).test.right < 80
    full = probes.linear(whole, whole, whole, 2)
    assert probes.linear(whole, whole, whole, 2, unlabelled=x) == full  # what it means by default


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--datasets", "digits-0to4", "--sources", "digits"], "one is part of the other"),
        (["--datasets", "digits", "--sources", "digits-0to4"], "one is part of the other"),
        (["--datasets", "digits-0to4", "--sources", "digits-4to9"], "one is part of the other"),
        (
            ["--datasets", "x-64px-c9-n5", "--sources", "x-64px-jpeg-c20"],
            "one is part of the other",
        ),
        (["--datasets", "imagenette2-64px", "--sources", "imagenet-64px"], "one is part of the"),
        (["--datasets", "digits-0to4", "--sources", "noise-1x8x8-c5"], "random labels"),
    ],
)
def test_pairs_whose_accuracy_would_not_mean_what_it_says(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run.main(["table3", "--dry-run", *arguments])
    assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run.main(["table1", "--dry-run", "--datasets", "noise-1x8x8-c10"])
    assert "random labels" in capsys.readouterr().err


def test_weights_that_somebody_else_trained_may_know_the_target() -> None:
    """The three controls of docs/imagenet.md, as the page writes them."""
    request = expand(
        table3.SUITE, "standard", "", ["random", "backprop", "hff"], ["imagenet-224px-jpeg-n50"],
        tunings=["none", "itself", "backprop"], weights="0123456789ab",
        architectures=["resnet18-imagenet"], seeds=1,
    )  # fmt: skip
    assert {w.row for w in request.wanted} == {"random", "backprop", "hff"}


def test_source_and_target_of_one_folder_under_other_names(tmp_path: Path) -> None:
    from suites.images import sample

    root = sample.make(tmp_path)
    (root / "imagenet").symlink_to(root / sample.NAME)
    (root / "birds.txt").write_text("".join(f"digit-{i}\n" for i in range(5)))
    what = ["--datasets", "birds-32px-jpeg-c5", "--sources", "imagenet-32px-jpeg-c10"]
    args = run.parser().parse_args(["table3", *what, "--data-dir", str(root)])
    request = options.resolve(args, "", [], "cpu")
    with pytest.raises(RequestError, match="both are photographs of"):
        preflight.check_data(request, Store(tmp_path / "r"), root, False, False)


def test_a_target_without_validation_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the source is trained on: there is nothing to choose block and strength on."""
    request = expand(table3.SUITE, "quick", "", ["backprop"], architectures=["mlp-2x500"])
    whole = datasets.load
    check = (request, Store(tmp_path / "r"), None, False, False)
    assert set(preflight.check_data(*check)) == {"digits-0to4", "digits-5to9"}

    def without(name: str, *rest: Any) -> datasets.Data:
        data = whole(name, *rest)
        none = data.val[0][:0], data.val[1][:0]
        return dataclasses.replace(data, val=none) if name == "digits-5to9" else data

    monkeypatch.setattr(datasets, "load", without)
    with pytest.raises(RequestError, match="digits-5to9: none of its"):
        preflight.check_data(*check)


def test_few_have_equal_numbers_and_are_nested() -> None:
    labels = torch.arange(50) % 5
    draws = [probes.few(labels, n, torch.Generator().manual_seed(3)) for n in (2, 4)]
    assert draws[0] is not None and draws[1] is not None
    assert torch.bincount(labels[draws[1]]).tolist() == [4] * 5
    assert {*draws[0].tolist()} < {*draws[1].tolist()}
    assert probes.few(labels, 11, torch.Generator()) is None


# ---------------------------------------------------------------------------------- data


def test_images_are_fitted_as_pil_does() -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 32, 32), dtype=np.uint8)
    pil = Image.fromarray(image.transpose(1, 2, 0))
    images = torch.from_numpy(image)[None]
    grey = np.asarray(pil.convert("L"), dtype=int)
    assert np.abs(datasets.fitted(images, (1, 32, 32))[0, 0].numpy() - grey).max() <= 1
    small = np.asarray(pil.resize((12, 12), Image.Resampling.BILINEAR), dtype=int)
    ours = datasets.fitted(images, (3, 12, 12))[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - small).max() <= 1
    one = images[:, :1]
    assert torch.equal(datasets.fitted(one, (3, 32, 32)), one.expand(-1, 3, -1, -1))
    assert datasets.fitted(images, (3, 32, 32)) is images
    with pytest.raises(ValueError, match="3 channels cannot be given 4"):
        datasets.fitted(images, (4, 32, 32))


def test_a_subset_has_some_classes_of_the_whole() -> None:
    whole, half = datasets.load("digits", None, 0.0), datasets.load(TARGET, None, 0.0)
    kept = whole.test[1] >= 5
    assert half.task.n_classes == 5
    assert torch.equal(half.test[0], whole.test[0][kept])
    assert torch.equal(half.test[1], whole.test[1][kept] - 5)
    for name in ("digits-5to5", "digits-5to10", "nothing-0to4", "digits-"):
        assert datasets.subset(name) is None


# --------------------------------------------------------------------------------- cells


def cell(method: str = "hff", seed: int = 0, **protocol: Any) -> Cell:
    held = dataclasses.replace(PROTOCOL, **protocol)
    return Cell.of(method, {}, "mlp-2x500", TARGET, held, seed, "transfer")


def job(tmp_path: Path, wanted: Cell) -> Job:
    return Job(wanted, "transfer", "table3", "quick", "command", tmp_path)


def record(tmp_path: Path, wanted: Cell) -> dict[str, Any]:
    return Store(tmp_path).read([wanted.key]).records[wanted.key]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The datasets that are trained on, in order."""
    names: list[str] = []
    own = Trial.trained

    def noted(self: Trial, data: datasets.Data) -> Method:
        names.append(data.task.name)
        return own(self, data)

    monkeypatch.setattr(Trial, "trained", noted)
    return names


def test_a_network_is_trained_once_for_all_its_targets(tmp_path: Path, trained: list[str]) -> None:
    cells = [cell(), dataclasses.replace(cell(), dataset=SOURCE), cell(epochs=0)]
    for wanted in cells:
        assert attempt.run(job(tmp_path, wanted)).status == "ok"
    assert trained == [SOURCE]
    records = [record(tmp_path, wanted) for wanted in cells]
    assert {*records[0]["metrics"]["test"]} >= {
        "linear", "neighbours", "linear, block 1", "neighbours, block 2", "linear, 10 per class",
    }  # fmt: skip
    assert records[0]["metrics"]["test"]["linear"]["n"] == len(
        datasets.load(TARGET, None, 0).test[1]
    )
    assert len({r["key"] for r in records}) == 3
    assert not list(tmp_path.glob("live/*")) and not list(tmp_path.glob("checkpoints/*"))


def test_another_source_of_the_same_name_is_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records name the data of both sides: what was learned on other images is another result."""
    argv = ["table3", "--methods", "random", "--seeds", "1", "--workers", "1", "--results-dir",
            str(tmp_path), "--report-dir", str(tmp_path / "p")]  # fmt: skip
    assert run.main(argv) == 0
    (path,) = [p for p in tmp_path.glob("records/*.json") if "digits-5to9" in p.read_text()][:1]
    told = json.loads(path.read_text())
    source = told["cell"]["protocol"]["source"]
    assert told["source_sha256"] == datasets.load(source, None, 0.1).sha256 != told["data_sha256"]
    path.write_text(json.dumps({**told, "source_sha256": "0" * 64}))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run.main(argv)
    assert f"{source} is not what it was" in capsys.readouterr().err


def test_what_is_pretrained_is_the_cell_of_a_training(tmp_path: Path) -> None:
    """Its accuracy on the source is the one on record for that cell, to the last image."""
    source = cell().pretraining()
    assert source == Cell.of("hff", {}, "mlp-2x500", SOURCE, Protocol(epochs=2, batch_size=64), 0)
    attempt.run(job(tmp_path, source))
    trial = Trial(job(tmp_path, cell()), torch.device("cpu"), None)  # type: ignore[arg-type]
    method, task = pretrained.pretrained(trial)
    data = datasets.load(SOURCE, None, source.protocol.val_fraction)
    assert task == data.task
    readout = method.traits.readouts[0]
    found = evaluation.read(source, method, data, "test", readout)
    assert found == record(tmp_path, source)["metrics"]["test"][readout]


def test_stopped_in_pretraining_and_gone_on_with(tmp_path: Path, trained: list[str]) -> None:
    """The same numbers as without the stop."""
    asked = iter(range(10**6))
    assert attempt.run(job(tmp_path / "a", cell()), lambda: next(asked) > 12).status == "stopped"
    assert len(list(tmp_path.glob("a/checkpoints/*"))) == 1
    for folder in ("a", "b"):
        attempt.run(job(tmp_path / folder, cell()))
    one, other = record(tmp_path / "a", cell()), record(tmp_path / "b", cell())
    assert one["metrics"] == other["metrics"] and len(trained) == 3


def test_status_knows_of_the_checkpoint_of_a_pretraining(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a key of its own, and is what the cell goes on from."""
    request = expand(table3.SUITE, "quick", "", ["random", "hff"], seeds=1)
    store = Store(tmp_path)
    store.prepare()
    store.write_plan(request.plan)
    begins = [w.cell.pretraining().key for w in request.wanted if w.cell.protocol.epochs]
    (store.checkpoints_dir / f"{begins[0]}.pt").touch()
    assert status.main(["table3", "--results-dir", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "1 interrupted" in out and f"{len(request.wanted) - 1} missing" in out


def test_who_finds_another_at_the_pretraining_waits(
    tmp_path: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not trained a second time."""
    attempt.run(job(tmp_path / "other", cell()))
    store, source = Store(tmp_path / "here"), cell().pretraining()
    lease = Lease(store.live_dir / f"{source.key}.json", {})
    assert lease.acquire()

    def finish(seconds: float) -> None:
        shutil.copytree(tmp_path / "other/pretrained", store.pretrained_dir)
        lease.release()

    monkeypatch.setattr(pretrained.time, "sleep", finish)
    assert attempt.run(job(store.root, cell())).status == "ok" and len(trained) == 1
    one, other = record(store.root, cell()), record(tmp_path / "other", cell())
    assert one["metrics"] == other["metrics"]
    assert other["timings"]["train_s"] > 0 == one["timings"]["train_s"]


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    attempt.run(job(tmp_path, cell()))
    (path,) = tmp_path.glob("pretrained/*")
    other = dataclasses.replace(cell(), dataset=SOURCE)
    for text in (b"", path.read_bytes()[:5000]):
        path.write_bytes(text)
        outcome = attempt.run(job(tmp_path, other))
        assert outcome.status == "failed" and f"{path} cannot be read" in str(outcome.reason)
    torch.save({"blocks.0.weights.weight": torch.zeros(2)}, path)
    assert "cannot be read" in str(attempt.run(job(tmp_path, other)).reason)
    torch.save({}, path)
    assert "does not fit" in str(attempt.run(job(tmp_path, other)).reason)


def test_probes_see_the_target_alone(tmp_path: Path) -> None:
    """Shuffled training labels of the target give chance, shuffled test labels change no choice."""
    attempt.run(job(tmp_path, cell()))
    before = record(tmp_path, cell())["metrics"]
    trial = Trial(job(tmp_path, cell()), torch.device("cpu"), None)  # type: ignore[arg-type]
    data = datasets.load(TARGET, None, 0.1)
    order = torch.randperm(len(data.test[1]), generator=torch.Generator().manual_seed(0))
    again = measure.measure(
        trial, dataclasses.replace(data, test=(data.test[0], data.test[1][order]))
    )
    assert again["val"] == before["val"]
    choices = {name: probe["choice"] for name, probe in before["test"].items()}
    assert {name: probe["choice"] for name, probe in again["test"].items()} == choices
    assert again["test"]["linear"]["accuracy_pct"] < 35 < before["test"]["linear"]["accuracy_pct"]
    rng = torch.Generator().manual_seed(0)
    labels = data.train[1][torch.randperm(len(data.train[1]), generator=rng)]
    by_chance = measure.measure(trial, dataclasses.replace(data, train=(data.train[0], labels)))
    assert by_chance["test"]["linear"]["accuracy_pct"] < 40


def test_the_block_is_chosen_on_validation() -> None:
    def probe(val: float, test: float) -> Probe:
        return Probe(1.0, Score(val, 0.1), Score(test))

    by_block = [probe(80, 99), probe(90, 50), probe(90, 70)]
    found = measure._metrics({"linear": by_block, "neighbours": by_block}, {"val": 10, "test": 20})
    assert found["test"]["linear"] == {
        "accuracy_pct": 50, "loss": None, "n": 20, "draws": 1, "choice": 1.0, "block": 2,
    }  # fmt: skip
    assert found["test"]["linear, block 1"]["accuracy_pct"] == 99
    assert found["val"]["linear"]["loss"] == 0.1


def test_maps_are_averaged_and_other_activities_are_not() -> None:
    maps = torch.rand(2, 8 * 32 * 32)
    pooled = measure._pooled(maps, [(8, 32, 32)], 0)
    assert pooled.shape == (2, 2048)
    assert torch.allclose(pooled.mean(1), maps.mean(1), atol=1e-5)
    assert measure._pooled(maps, [(5000,)], 0) is maps and measure._pooled(maps, [], 0) is maps


def test_features_that_are_no_numbers_are_a_divergence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Method, x: Tensor) -> list[Tensor]:
        return [x.flatten(1), x.flatten(1) * math.nan]

    wanted = cell("backprop", epochs=0)
    monkeypatch.setattr(wanted.method_class(), "features", broken)
    outcome = attempt.run(job(tmp_path, wanted))
    assert (outcome.status, outcome.reason) == (
        "diverged", "the activities of block 2 are not finite",
    )  # fmt: skip


def test_keys_of_other_cells_are_what_they_were() -> None:
    assert (
        "source"
        not in Cell.of("hff", {}, "mlp-2x500", "digits", Protocol(30), 0).identity()["protocol"]
    )
    assert cell().identity()["protocol"]["source"] == SOURCE
    assert cell(source="digits").key != cell().key != cell(epochs=0).key
    with pytest.raises(ValueError, match="at least 1"):
        Protocol(epochs=0)


# --------------------------------------------------------------------------------- table


def test_the_table_is_made_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows trained and random, a column per source and target, figures by depth and labels."""
    results, pages = tmp_path / "results", tmp_path / "pages"
    status = run.main(
        ["table3", "--methods", "random", "hff", "--seeds", "1", "--epochs", "1", "--workers", "1",
         "--results-dir", str(results), "--report-dir", str(pages)]
    )  # fmt: skip
    assert status == 0, capsys.readouterr().err
    plan = Store(results).read_plan("table3")
    assert plan is not None and plan["kind"] == "transfer"
    assert [column["id"] for column in plan["columns"]] == [
        "digits-0to4/mlp-2x500, from digits-5to9", "digits-5to9/mlp-2x500, from digits-0to4",
    ]  # fmt: skip
    records = Store(results).read(entry["key"] for entry in plan["cells"]).records.values()
    epochs = {(r["cell"]["method"], r["cell"]["protocol"]["epochs"]) for r in records}
    assert epochs == {("backprop", 0), ("hff", 1)}  # --epochs does not train the random control
    page = (pages / "table3/index.html").read_text()
    for words in (
        "mlp-2x500, from digits-5to9",
        "By depth",
        "By labelled images",
        "linear, 10 per class",
        "neighbours, block 2",
    ):
        assert words in page, words
    assert 'id="claims"' not in page and "<h3>Learning curves" not in page
    assert {path.name for path in (pages / "table3").glob("*.pdf")} == {
        "accuracy.pdf", "depth.pdf", "labels.pdf",
    }  # fmt: skip


def test_a_source_that_is_not_there_is_named_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run.main(["table3", "--profile", "standard", "--datasets", "fashion-mnist",
                  "--data-dir", str(tmp_path), "--results-dir", str(tmp_path / "r")])  # fmt: skip
    assert end.value.code == 2
    assert "mnist" in capsys.readouterr().err and not list(tmp_path.glob("r/records/*.json"))
