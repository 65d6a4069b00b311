"""Equal tuning: points that nothing shifts, one budget for all, settings with their provenance."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from methods import METHODS, load_builtin
from methods.space import Choice, LogUniform
from reports import build as reports
from reports.tuning import Tuning, tunings
from results import tuned
from results.store import Store
from suites import options, run, tune
from suites.catalogue import SUITES
from suites.engine.cell import Cell
from suites.engine.trial import Job
from suites.launching import attempt, local
from suites.request import Request, expand
from suites.suite import RequestError, Row
from tests.records import make_record

load_builtin()


# ------------------------------------------------------------------------------------ requests

FEW = ("--methods", "backprop", "hff", "--architectures", "mlp-2x500")


def arguments(*more: str, folder: Path | None = None) -> list[str]:
    where = ["--results-dir", f"{folder}/r", "--report-dir", f"{folder}/p"] if folder else []
    return ["table1", *more, *where]


def asked(*more: str, folder: Path | None = None) -> Request:
    """The request of a command line, without running it."""
    args = tune.parser().parse_args(arguments(*more, folder=folder))
    return tune.resolve(args, "python -m suites.tune", [], "cpu")


def run_request(*more: str) -> Request:
    return options.resolve(run.parser().parse_args(["table1", *more]), "a command", [], "cpu")


def refused(more: Sequence[str], capsys: pytest.CaptureFixture[str], main: Any = tune.main) -> str:
    with pytest.raises(SystemExit) as end:
        main(["table1", *more])
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    return str(err)


def test_every_method_has_the_same_budget() -> None:
    """The backprop control too, or it would be a straw man."""
    request = asked("--points", "3", "--methods", *SUITES["table1"].methods)  # type: ignore[arg-type]
    spent = Counter((cell["row"], cell["column"]) for cell in request.plan["cells"])
    assert set(spent.values()) == {3}
    gaps = {(gap["row"], gap["column"]) for gap in request.plan["unsupported"]}
    columns = [column["id"] for column in request.plan["columns"]]
    assert {*spent} | gaps == {(r["id"], c) for r in request.plan["rows"] for c in columns}
    assert ("backprop", columns[0]) in spent


def test_an_unequal_budget_is_noticed() -> None:
    request = asked(*FEW, "--points", "3")
    with pytest.raises(AssertionError, match="budget is 3"):
        tune.check_budget(request.wanted[:-1], 3)


def test_points_are_cells_like_any_other() -> None:
    """The first is the very cell of the table; more points leave the others as they are."""
    few, more = asked(*FEW, "--points", "3"), asked(*FEW, "--points", "5")
    keys = {(w.row, w.point): w.cell.key for w in more.wanted}
    assert all(keys[w.row, w.point] == w.cell.key for w in few.wanted)
    table = run_request(*FEW, "--seeds", "1")
    assert {w.cell.key for w in table.wanted} == {keys["backprop", 0], keys["hff", 0]}
    assert len(set(keys.values())) == 10
    assert {w.cell.seed for w in more.wanted} == {0}


def test_all_methods_get_the_same_coordinates() -> None:
    """Learning rates of equal ranges, so: equal rates."""
    rates: dict[str, list[float]] = {}
    for w in asked(*FEW, "--points", "6").wanted:
        rates.setdefault(w.row, []).append(w.cell.config["lr"])
    assert rates["backprop"] == rates["hff"] and len(set(rates["hff"])) == 6


def test_settings_that_come_twice_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS["hff"], "space", {"prototypes": Choice(1, 2)})
    request = asked("--methods", "hff", "--architectures", "mlp-2x500", "--points", "5")
    assert len(request.wanted) == 2 and len(request.plan["cells"]) == 5


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--points", "1"], ["--points", "at least 2"]),
        (["--points", "100000"], ["points asked for", "at most 100000"]),
        (["--methods", "hhf"], ["did you mean 'hff'"]),
        (["--seeds", "2"], ["--seeds"]),
        (["--write", "/no/such/folder/tuned.json"], ["--write", "no folder"]),
        (["--launcher", "local", "--site", "x.toml"], ["--site", "--launcher slurm"]),
    ],
)
def test_wrong_requests(
    more: list[str], words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = refused([*more, "--results-dir", str(tmp_path / "r")], capsys)
    assert all(word in line for word in words)
    assert not (tmp_path / "r").exists()


def test_suites_that_cannot_be_tuned(capsys: pytest.CaptureFixture[str]) -> None:
    for suite in ("table2", "table3", "audit"):
        with pytest.raises(SystemExit):
            tune.main([suite])
        assert f"which '{suite}' is not about" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        tune.main(["local-loss", "--profile", "paper", "--dry-run"])
    assert "for validation" in capsys.readouterr().err


def test_dry_run_shows_settings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert tune.main(arguments(*FEW, "--points", "2", "--dry-run", folder=tmp_path)) == 0
    out = capsys.readouterr().out
    assert "hff on digits/mlp-2x500, point 0: lr 0.001, margin 0.1, scale 16, prototypes 2" in out
    assert "4 cells, 4 to do; nothing was run" in out
    assert not (tmp_path / "r").exists()


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune.main(["--help"])
    out = capsys.readouterr().out
    assert "examples:" in out and "--write" in out and "Point 0" in out
    assert "--weights" not in out and "--seeds" not in out


# ------------------------------------------------------------------------------- made-up records


def record(cell: Cell, value: float | None, status: str = "ok") -> dict[str, Any]:
    """A record of a cell with this validation accuracy, and a test accuracy that is a trap."""
    found = make_record(accuracy=value or 0.0, status=status, code_sha=cell.code_sha(),
                        reason=None if status == "ok" else f"it {status}")  # fmt: skip
    found |= {"key": cell.key, "cell": cell.identity()}
    if status == "ok":
        found["metrics"]["test"] = {"last": {"accuracy_pct": 12.34, "loss": 0.1, "n": 360}}
    return found


def filled(folder: Path, request: Request, values: dict[str, list[Any]]) -> Store:
    """Records of all points: validation accuracies by row, or a status, or None for no record."""
    store = Store(folder / "r")
    store.prepare()
    store.write_plan(request.plan)
    for w in request.wanted:
        assert w.point is not None
        value = values[w.row][w.point]
        if isinstance(value, str):
            assert store.publish(record(w.cell, None, value))
        elif value is not None:
            assert store.publish(record(w.cell, value))
    return store


def read(store: Store) -> dict[str, Tuning]:
    return {t.row.id: t for t in tunings(reports.read("table1-tune", store))}


def test_the_first_of_the_best_points_wins(tmp_path: Path) -> None:
    request = asked(*FEW, "--points", "4")
    store = filled(tmp_path, request, {"backprop": [90.0, 95.0, 95.0, "diverged"],
                                       "hff": [97.0, "failed", 96.0, 97.0]})  # fmt: skip
    found = read(store)
    best, kept = found["backprop"].best, found["hff"].best
    assert best and best.number == 1 and found["backprop"].gain == 5.0
    assert kept and kept.number == 0 and found["hff"].gain == 0.0
    assert found["hff"].counts == {"ok": 3, "failed": 1}
    assert all(t.complete for t in found.values())


def test_nothing_is_chosen_where_no_point_is_ok(tmp_path: Path) -> None:
    request = asked(*FEW, "--points", "2")
    store = filled(tmp_path, request, {"backprop": ["diverged", "diverged"], "hff": [97.0, 98.0]})
    found = read(store)
    assert found["backprop"].best is None and found["backprop"].gain is None
    assert [e.row for e in tune.chosen([*found.values()], request)] == ["hff"]


def tuned_file(folder: Path, *more: str, values: Any = None) -> Path:
    """What `suites.tune` writes, from made-up records."""
    request = asked(*FEW, "--points", "2", *more, folder=folder)
    filled(folder, request, values or {"backprop": [90.0, 95.0], "hff": [97.0, 98.0]})
    argv = arguments(*FEW, "--points", "2", *more, folder=folder)
    assert tune.main([*argv, "--write", str(folder / "tuned.json")]) == 0
    return folder / "tuned.json"


def test_a_file_of_unequal_budgets_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One method tuned longer than another is what the suite is there to prevent."""
    path = tuned_file(tmp_path)
    document = json.loads(path.read_text())
    document["entries"][1]["points"] = 4
    path.write_text(json.dumps(document))
    capsys.readouterr()
    line = refused([*FEW, "--tuned", str(path), "--dry-run"], capsys, run.main)
    assert "with 2 points and hff with 4" in line and "equal --points" in line


def test_chosen_settings_have_their_provenance(tmp_path: Path) -> None:
    path = tuned_file(tmp_path, values={"backprop": [90.0, "diverged"], "hff": [97.0, 98.0]})
    document = json.loads(path.read_text())
    entry = document["entries"][1]
    request = asked(*FEW, "--points", "2")
    cell = next(w.cell for w in request.wanted if (w.row, w.point) == ("hff", 1))
    assert document["suite"] == "table1" and document["schema"] == 1
    assert entry["key"] == cell.key and entry["code_sha"] == cell.code_sha()
    assert entry["settings"] == {name: cell.config[name] for name in METHODS["hff"].space}
    assert entry["protocol"] == cell.protocol.as_dict()
    assert (entry["point"], entry["points"], entry["ok"]) == (1, 2, 2)
    assert (entry["val_accuracy_pct"], entry["untuned_val_accuracy_pct"]) == (98.0, 97.0)
    assert "suites.tune" in entry["command"] and entry["date"].startswith("2026")
    other = document["entries"][0]
    assert (other["row"], other["point"], other["diverged"]) == ("backprop", 0, 1)


def test_other_places_stay_in_the_file(tmp_path: Path) -> None:
    path = tuned_file(tmp_path)
    old = tuned.read(path)
    moved = dataclasses.replace(old.entries[0], dataset="mnist")
    again = dataclasses.replace(old.entries[1], val_accuracy_pct=99.0)
    merged = tuned.merge(path, "table1", [moved, again])
    assert tuned.read(path) == dataclasses.replace(merged, entries=tuned.read(path).entries)
    assert {e.place: e.val_accuracy_pct for e in tuned.read(path).entries} == {
        old.entries[0].place: 95.0, old.entries[1].place: 99.0, moved.place: 95.0,
    }  # fmt: skip


def test_what_a_tuning_finds_nothing_for_is_not_left_from_before(tmp_path: Path) -> None:
    """Else one method would keep the settings of another budget."""
    path = tuned_file(tmp_path / "a")
    assert [e.row for e in tuned.read(path).entries] == ["backprop", "hff"]
    again = tmp_path / "b"
    request = asked(*FEW, "--points", "2", folder=again)
    filled(again, request, {"backprop": [90.0, 95.0], "hff": ["diverged", "diverged"]})
    argv = arguments(*FEW, "--points", "2", folder=again)
    assert tune.main([*argv, "--write", str(path)]) == 0
    assert [e.row for e in tuned.read(path).entries] == ["backprop"]


def test_a_suites_own_row_keeps_what_makes_it_what_it_is() -> None:
    """Also where it has a method's name; and its own ranges, where it has some."""
    own = Row("hff", "One prototype", "hff", {"prototypes": 1}, {"lr": LogUniform(1.0, 10.0)})
    suite = dataclasses.replace(SUITES["table1"], name="own", methods=("backprop", own))
    untuned = expand(suite, "quick", "", ["backprop", "hff"], architectures=["mlp-2x500"], seeds=1)
    request = tune.tried(untuned, 4, Path("f"))
    mine = [w.cell.config for w in request.wanted if w.row == "hff"]
    assert {config["prototypes"] for config in mine} == {1} and len(mine) == 4
    assert all(1 <= config["lr"] <= 10 for config in mine[1:])
    assert request.plan["tuning"]["spaces"]["hff"]["lr"]["low"] == 1.0
    theirs = [w.cell.config["lr"] for w in request.wanted if w.row == "backprop"]
    # the coordinate of the field is the same, wherever its range lies
    at = [math.log(config["lr"], 10) for config in mine[1:]]
    low, high = (math.log10(v) for v in (1e-4, 1e-2))
    expected = [(math.log10(lr) - low) / (high - low) for lr in theirs[1:]]
    assert at == pytest.approx(expected, abs=2e-3)  # values have three digits


def test_the_rates_of_mean_goodness_lie_around_its_own() -> None:
    args = tune.parser().parse_args(["ff-mnist", "--points", "8", "--methods", "ff-mean"])
    rates = [w.cell.config["lr"] for w in tune.resolve(args, "", [], "cpu").wanted]
    assert rates[0] == 0.25 and all(0.05 <= lr <= 5 for lr in rates)


def test_an_unfinished_tuning_writes_no_settings(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A choice among fewer points would not be the budget that it claims."""
    request = asked(*FEW, "--points", "2", folder=tmp_path)
    store = filled(tmp_path, request, {"backprop": [90.0, None], "hff": [97.0, 98.0]})
    args = tune.parser().parse_args(arguments(*FEW, "--points", "2", folder=tmp_path))
    from rich.console import Console

    assert tune.report(args, request, store, Console()) == 1
    assert "not on record: 1 point; no settings were written" in capsys.readouterr().out
    assert not tune.target(args, SUITES["table1"]).exists()
    assert not read(store)["backprop"].complete


# -------------------------------------------------------------------------- tables that take them


def test_a_table_takes_a_file_of_settings(tmp_path: Path) -> None:
    path = tuned_file(tmp_path)
    request = run_request(*FEW, "--tuned", str(path))
    best = {e.row: e for e in tuned.read(path).entries}
    for w in request.wanted:
        assert {k: w.cell.config[k] for k in best[w.row].settings} == best[w.row].settings
    assert [t["points"] for t in request.plan["tuned"]] == [2, 2]
    assert [t["since"] for t in request.plan["tuned"]] == [[], []]
    older = json.loads(path.read_text())
    older["entries"][0]["code_sha"] = "0" * 16
    path.write_text(json.dumps(older))
    since = [t["since"] for t in run_request(*FEW, "--tuned", str(path)).plan["tuned"]]
    assert since == [["by older sources"], []]
    shorter = run_request(*FEW, "--tuned", str(path), "--epochs", "3")
    assert shorter.plan["tuned"][1]["since"] == ["under another protocol (epochs 30, here 3)"]
    # of a file that is not here, and that nobody asks for
    older["entries"].append(older["entries"][0] | {"row": "mine", "method": "mine"})
    path.write_text(json.dumps(older))
    assert len(run_request(*FEW, "--tuned", str(path)).plan["tuned"]) == 2
    with pytest.raises(RequestError, match="'mine', which is not known here"):
        run_request("--architectures", "mlp-2x500", "--tuned", str(path))
    assert [t.keys() >= {"row", "column"} for t in request.plan["tuned"]] == [True, True]
    # the audit of a rule is made once, whatever its rates
    assert request.plan["audits"] == run_request(*FEW).plan["audits"]


STANDARD = ("--profile", "standard", "--datasets", "mnist", "fashion-mnist", "--methods",
            "backprop", "hff", "--architectures", "mlp-3x1000", "--seeds", "1")  # fmt: skip


def test_standard_takes_the_committed_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = run_request(*STANDARD, "--tuned", "none")
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    without = run_request(*STANDARD)
    assert [w.cell.key for w in without.wanted] == [w.cell.key for w in default.wanted]
    assert "default settings" in without.plan["profile_note"]
    entry = tuned.read(tuned_file(tmp_path)).entries[1]
    entry = dataclasses.replace(entry, dataset="mnist", architecture="mlp-3x1000")
    tuned.write(tmp_path / "table1-standard.json", tuned.Tuned("table1", (entry,)))
    taken = {w.row + w.cell.dataset: w.cell for w in run_request(*STANDARD).wanted}
    assert taken["hffmnist"].config["lr"] == entry.settings["lr"] != 1e-3
    assert taken["hfffashion-mnist"].config["lr"] == taken["backpropmnist"].config["lr"] == 1e-3
    assert run_request(*FEW).plan["tuned"] == []  # not in `quick`
    assert run_request(*STANDARD, "--tuned", "none").plan["tuned"] == []
    # and tuning anew begins with what was not tuned
    again = asked(*STANDARD[:-2], "--points", "2")
    assert {w.cell.config["lr"] for w in again.wanted if w.point == 0} == {1e-3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, ["no file", "suites.tune"]),
        ("{", ["not valid JSON"]),
        ("[]", ["no schema version"]),
        ('{"schema": 9}', ["newer than 1"]),
        ('{"schema": 1}', ["no suite"]),
        ({"suite": "table2"}, ["'table2'", "'table1'"]),
        ({"method": "hhf"}, ["'hhf'", "--plugin"]),
        ({"method": "ff"}, ["'hff' are those of method 'ff'"]),
        ({"settings": {"rate": 1}}, ["'rate'", "it has"]),
        ({"settings": {"lr": "high"}}, ["'lr'", "'high'", "0.001"]),
        ({"points": "many"}, ["entries[0]", "'points'"]),
        ({"row": "backprop"}, ["'backprop'", "'hff'"]),
        ({"dataset": "mnist"}, ["nothing for these rows", "hff on mnist"]),
    ],
    ids=str,
)
def test_files_that_are_refused(
    change: Any, words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "mine.json"
    if isinstance(change, str):
        path.write_text(change)
    elif change is not None:
        document = {"schema": 1, "suite": "table1", "entries": [dict(ENTRY)]}
        (document if "suite" in change else document["entries"][0]).update(change)  # type: ignore[attr-defined]
        path.write_text(json.dumps(document))
    line = refused([*FEW, "--tuned", str(path), "--dry-run"], capsys, run.main)
    assert all(word in line for word in words)


ENTRY = {
    "row": "hff", "dataset": "digits", "architecture": "mlp-2x500", "settings": {"lr": 0.002},
    "method": "hff", "method_version": 2, "profile": "quick", "protocol": {}, "seed": 0,
    "point": 1, "points": 8, "ok": 8, "diverged": 0, "failed": 0, "val_accuracy_pct": 98.0,
    "untuned_val_accuracy_pct": None, "key": "0", "code_sha": "0", "date": "", "command": "",
}  # fmt: skip


def test_tuned_values_of_another_kind_of_suite(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["table2", "--tuned", "none"])
    assert "--tuned is for training" in capsys.readouterr().err


# --------------------------------------------------------------------------------- trained cells


def test_an_interrupted_tuning_goes_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is trained twice, and the user is told of validation alone."""
    ran: list[str] = []
    most = 3

    def here(self: local.Launcher, jobs: Sequence[Job], on_end: Any, tick: Any) -> None:
        for job in jobs:
            if len(ran) == most:
                raise KeyboardInterrupt
            on_end(job, attempt.run(job))
            ran.append(job.cell.key)

    monkeypatch.setattr(local.Launcher, "run", here)
    argv = arguments(*FEW, "--points", "2", "--epochs", "1", folder=tmp_path)
    assert tune.main(argv) == 130
    assert "interrupted: 3 of 4 cells are on record" in capsys.readouterr().out
    most = 99
    assert tune.main(argv) == 0
    out = capsys.readouterr().out
    assert "3 on record, 1 to run" in out and len(ran) == len(set(ran)) == 4
    assert "% on validation" in out and "on test" not in out
    found = read(Store(tmp_path / "r"))
    kept = tuned.read(tmp_path / "p/table1-tune/tuned.json")
    assert {e.row: e.point for e in kept.entries} == {
        row: t.best.number for row, t in found.items() if t.best
    }
    for t in found.values():
        assert t.best and t.best.run.record
        val = t.best.run.record["metrics"]["val"][t.row.readout]["accuracy_pct"]
        assert t.best.run.value == val == max(p.run.value or 0.0 for p in t.points)
    assert tune.main(argv) == 0 and len(ran) == 4
