"""Equal tuning: points that nothing shifts, one budget for all, settings with their provenance."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from methods import METHODS, PluginError, load_builtin, load_file
from methods.base import resolve_config
from methods.space import Choice, LogUniform, Range, Uniform
from reports import build as reports
from reports.table import Column, Row, Run
from reports.tuning import Point, Tuning, tunings
from reports.tuning_page import limits
from results import tuned
from results.store import Store
from suites import options, points, run, tune
from suites.catalogue import SUITES
from suites.engine import engine, sources
from suites.engine.cell import Cell
from suites.engine.trial import Job
from suites.launching import local
from suites.request import Request, why_not
from suites.suite import rows_of
from tests.methods import toy
from tests.records import make_record
from tests.test_sources import MEMBERS, plugin_sha

load_builtin()


# ------------------------------------------------------------------------------------ points


def test_more_points_shift_none() -> None:
    """Else a larger budget would train everything again."""
    assert points.coordinates(100)[:7] == points.coordinates(7)
    assert points.coordinates(1) == points.coordinates(64)[:1]


def test_the_points_are_these_on_every_machine_and_with_every_version() -> None:
    """They are in the keys of all tuned cells: another library must not draw others."""
    found = [[round(u, 6) for u in point[:3]] for point in points.coordinates(4)]
    assert found == PINNED


PINNED = [
    [0.293962, 0.977345, 0.097328],
    [0.996665, 0.097034, 0.945866],
    [0.664962, 0.669285, 0.257333],
    [0.12439, 0.438891, 0.564763],
]


def test_every_coordinate_is_spread_evenly() -> None:
    """Each sixteenth of a range holds one of the first 16 points, or a range is not searched."""
    for column in range(points.COLUMNS):
        assert sorted(int(16 * p[column]) for p in points.coordinates(16)) == list(range(16))


def test_pairs_of_coordinates_are_spread_evenly() -> None:
    """A sequence whose coordinates move together would search a diagonal."""
    fields = range(max(len(cls.space) for cls in METHODS.values()))
    for one in fields:
        for other in fields:
            quarters = Counter((int(2 * p[one]), int(2 * p[other])) for p in points.coordinates(16))
            assert one == other or min(quarters[a, b] for a in (0, 1) for b in (0, 1)) >= 2


class Short:
    space = {"lr": LogUniform(1e-4, 1e-2), "margin": Uniform(0.0, 1.0)}  # noqa: RUF012


class Long:
    space = {**Short.space, "k": Choice(1, 2)}  # noqa: RUF012


def drawn(cls: Any, n: int = 8, **fixed: Any) -> list[dict[str, Any]]:
    return points.settings(cls, n, fixed, {"lr": 1e-3, "margin": 0.1, "k": 1})


def test_a_field_at_the_end_shifts_no_other() -> None:
    """A hyper-parameter that is added must not make the others' points new ones."""
    for before, after in zip(drawn(Short), drawn(Long), strict=True):
        assert before == {name: after[name] for name in before}


def test_a_field_that_a_row_fixes_keeps_its_coordinate() -> None:
    fixed = drawn(Short, lr=1.0)
    assert [point["margin"] for point in fixed] == [point["margin"] for point in drawn(Short)]
    assert all("lr" not in point for point in fixed)


def test_the_first_point_is_what_was_not_tuned() -> None:
    assert drawn(Short)[0] == {"lr": 1e-3, "margin": 0.1}


@pytest.mark.parametrize(
    ("space", "low", "middle", "high"),
    [
        (Uniform(0.0, 0.3), 0.0, 0.15, 0.3),
        (LogUniform(1e-4, 1e-2), 1e-4, 1e-3, 1e-2),
        (Choice(1, 2, 4, 8), 1, 4, 8),
        (Choice("a", "b"), "a", "b", "b"),
    ],
)
def test_ranges(space: Range, low: Any, middle: Any, high: Any) -> None:
    assert [space.at(0.0), space.at(0.5), space.at(1 - 2**-30)] == [low, middle, high]
    assert space.holds(low) and space.holds(high)
    assert not space.holds(-1.0)


def test_choices_are_alike_and_numbers_are_short() -> None:
    values = [Choice(1, 2, 4).at(i / 300) for i in range(300)]
    assert Counter(values) == {1: 100, 2: 100, 4: 100}
    assert LogUniform(1e-4, 1e-2).at(0.123456789) == 0.000177


@pytest.mark.parametrize(
    "make", [lambda: Uniform(1.0, 1.0), lambda: LogUniform(0.0, 1.0), lambda: Choice(1)]
)
def test_ranges_that_are_none(make: Callable[[], Range]) -> None:
    with pytest.raises(ValueError, match=r"range|choice"):
        make()


# ------------------------------------------------------------------------------------ spaces


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_declares_what_is_tuned(name: str) -> None:
    """Its learning rate, and little else: the budget is the same for all."""
    cls = METHODS[name]
    assert "lr" in cls.space or "readout_lr" in cls.space
    assert 2 <= len(cls.space) <= 4
    config = resolve_config(cls, {})
    for field, values in cls.space.items():
        assert values.holds(getattr(config, field)), f"the default of {field} is out of its range"
        assert all(values.holds(values.at(i / 64)) for i in range(64))
        assert json.loads(json.dumps(values.as_dict())) == values.as_dict()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_can_train_at_the_ends_of_its_space(name: str) -> None:
    """A value that it cannot even be made with would be a wasted point."""
    space = METHODS[name].space
    x, y = toy.batch(12)
    for u in (0.0, 1 - 2**-30):
        settings = {field: values.at(u) for field, values in space.items()}
        for architecture in ("mlp-2x500", "cnn-small"):
            if why_not(METHODS[name], settings, architecture, "digits"):
                continue
            method = toy.make(name, architecture=architecture, **settings)
            method.start(x, y)
            phase = method.phases(2)[0][0]
            method.train_step(method.frozen(x, phase), y, phase, 0.0)


def test_every_row_of_table_1_can_be_tuned() -> None:
    for row in rows_of(SUITES["table1"].methods):
        assert tune.space_of(row)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ('{"rate": LogUniform(1e-4, 1e-2)}', ["'rate'", "no field of Config", "lr"]),
        ('{"lr": 0.1}', ["'lr'", "LogUniform"]),
        ("[1]", ["dictionary"]),
    ],
)
def test_a_space_that_cannot_be_tuned_is_refused(
    space: str, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.replace("{space}", f"space = {space}"))
    with pytest.raises(PluginError) as error:
        load_file(tmp_path / "mine.py")
    assert all(word in str(error.value) for word in words)


PLUGIN = """
from dataclasses import dataclass
from methods import Method, Traits, register
from methods.space import LogUniform

@dataclass(frozen=True)
class Config:
    lr: float = 1e-3

@register
class Mine(Method):
    name, label, version, source = "mine", "Mine", 1, "here"
    traits, Config = Traits(True), Config
    {space}
    def train_step(self, x, y, phase, progress): ...
    def logits(self, x, readout="last", rng=None): ...
"""


def test_a_method_without_a_space_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.replace("{space}", ""))
    try:
        line = refused(["--methods", "mine", "--plugin", str(tmp_path / "mine.py")], capsys)
    finally:
        METHODS.pop("mine", None)
    assert "'mine' declares no search space" in line and "LogUniform" in line


# ----------------------------------------------------------------------- what makes records stale


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ('space = {"unused": 1}', False),
        ('space: dict = {"unused": 1}  # a comment', False),
        ('space = {\n        "a": 1,  # }\n        "ü": 2,\n    }', False),
        ('space = {**{}, "unused": len("unused")}', False),
        ("space = 3", True),  # a field of another kind
        ("spaces = {}", True),
        ("other, space = {}, {}", True),
        ("rates = {}; space = {}", True),  # not alone on its line
        ("space = {}; rates = 3", True),
    ],
)
def test_a_search_space_makes_no_record_stale(line: str, counts: bool, tmp_path: Path) -> None:
    """It says what is tried next; it cannot change what was measured."""
    before = plugin_sha(tmp_path / "a.py", MEMBERS)
    text = MEMBERS.replace("    rate = 0.1\n", f"    rate = 0.1\n    {line}\n")
    assert text != MEMBERS
    assert (plugin_sha(tmp_path / "b" / "a.py", text) != before) == counts


def test_the_search_space_of_a_method_makes_no_record_stale(tmp_path: Path) -> None:
    """Neither by its values, nor by the names in it, nor by what it imports."""
    text = MEMBERS.replace("class Config: pass", "class Config:\n    unused: float = 1e-3")
    before = plugin_sha(tmp_path / "a.py", text)
    head = "from methods.space import LogUniform\n"
    for n, ends in enumerate(("1e-4, 1e-2", "1e-5, 1e-1")):
        space = f'    space = {{"unused": LogUniform({ends})}}\n    def scaled('
        tuned_too = head + text.replace("    def scaled(", space)
        assert "LogUniform(" in tuned_too
        assert plugin_sha(tmp_path / f"{n}" / "a.py", tuned_too) == before


def test_what_stands_beside_a_search_space_counts(tmp_path: Path) -> None:
    text = MEMBERS.replace("    rate = 0.1\n", '    rate = 0.1\n    space = {"a": 1}\n')
    before = plugin_sha(tmp_path / "a.py", text)
    for n, change in enumerate((("0.1", "0.2"), ("2 * x", "3 * x"), ("Traits(True)", "Traits(1)"))):
        assert plugin_sha(tmp_path / f"{n}" / "a.py", text.replace(*change)) != before


def test_a_class_of_a_search_space_alone() -> None:
    part = sources.parse("class A:\n    space = {}\n").definitions["A"]
    assert part.text == "class A:\n    pass"
    assert "def as_dict" not in "\n".join(sources.used("train", METHODS["hff"]).values())


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
    shorter = run_request(*FEW, "--tuned", str(path), "--epochs", "3")
    assert shorter.plan["tuned"][0]["since"] == ["under another protocol (epochs 30, here 3)"]
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


# ------------------------------------------------------------------------------------ pages


def page_of(store: Store, folder: Path, suite: str = "table1-tune") -> str:
    return reports.build(suite, store, folder / "p")[0].read_text()


def test_the_page_of_a_tuning(tmp_path: Path) -> None:
    """Budget, gain and sensitivity; and nothing of the test set, or it would have a say."""
    request = asked(*FEW, "--points", "4")
    store = filled(tmp_path, request, {"backprop": [90.0, 95.0, 10.0, "diverged"],
                                       "hff": [97.0, "failed", 96.0, None]})  # fmt: skip
    page = page_of(store, tmp_path)
    assert page == page_of(store, tmp_path)
    assert "Unfinished: of 8 points 5 ok, 1 diverged, 1 failed, 1 missing." in page
    assert "+5.00" in page and "as untuned" in page and "it diverged" in page
    assert page.count("<figure") == len(METHODS["backprop"].space) + len(METHODS["hff"].space)
    assert "0.0001 to 0.01, logarithmic" in page and "1, 2, 4 or 8" in page
    assert "12.34" not in page and "http" not in page.replace("http://www.w3.org", "")
    line = (tmp_path / "p/table1-tune/table1-tune.csv").read_text().splitlines()[2]
    assert line.startswith("backprop,backprop,digits,mlp-2x500,1,ok,,False,95.0,True,")


def made_up(values: list[float], rates: list[float], n: int = 100) -> Tuning:
    """One tuning of a rate between 1e-4 and 1, judged by n validation images."""
    tried = [
        Point(i, {"lr": rate, "k": 1}, Run("0", 0, "ok", None, value, False, {
            "metrics": {"val": {"last": {"n": n}}}}))
        for i, (value, rate) in enumerate(zip(values, rates, strict=True))
    ]  # fmt: skip
    row = Row("hff", "HFF", "hff", "", "last", ("last",), True, "", "", "", ())
    column = Column("c", "digits", "mlp-2x500", "mlp-2x500", {})
    space = {"lr": LogUniform(1e-4, 1.0).as_dict(), "k": Choice(1, 2).as_dict()}
    return Tuning(row, column, tuple(tried), space)


def test_what_chance_chose_and_what_lies_at_an_end_is_said() -> None:
    # of 100 images 90 % has a standard error of 3 points
    near = made_up([90.0, 87.1, 86.9, 80.0], [1e-4, 1e-3, 1e-2, 1.0])
    assert near.standard_error == pytest.approx(3.0) and near.n_level == 1
    assert near.edges == ["lr near the low end"]
    exact = made_up([90.0, 87.1], [0.41, 0.3], n=10_000)
    assert exact.n_level == 0 and exact.edges == ["lr near the high end"]
    assert made_up([90.0, 89.0], [0.39, 0.3]).edges == []  # nine tenths of the range, just not
    assert made_up([90.0, 89.0], [10.0, 0.3]).edges  # untuned settings may lie outside
    low = made_up([100.0, 99.0], [0.01, 0.3])
    assert low.standard_error == 0.0 and low.n_level == 0


def test_the_page_leads_to_the_table_with_the_chosen_settings(tmp_path: Path) -> None:
    path = tuned_file(tmp_path)
    page = page_of(Store(tmp_path / "r"), tmp_path)
    assert f"python -m suites.run table1 --profile quick --tuned {path}" in page
    capped = run_request(*FEW, "--tuned", str(path))
    assert [t["points"] for t in capped.plan["tuned"]] == [2, 2]


def test_the_page_is_built_again_from_what_is_stored(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tuned_file(tmp_path)
    page = tmp_path / "p/table1-tune/index.html"
    before = page.read_bytes()
    page.unlink()
    where = ["--results-dir", str(tmp_path / "r"), "--report-dir", str(tmp_path / "p")]
    assert reports.main(["table1-tune", *where]) == 0
    assert page.read_bytes() == before
    assert reports.main(["local-loss-tune", *where]) == 2
    assert "python -m suites.tune local-loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda plan: plan["cells"].pop(), "budget of every method is 2"),
        (lambda plan: plan.pop("tuning"), "no 'tuning'"),
        (lambda plan: plan["cells"][0].pop("settings"), "cells[0]"),
        (lambda plan: plan["tuning"]["spaces"].pop("hff"), "search space of hff"),
    ],
)
def test_a_plan_that_is_not_fair_or_not_whole_is_named(
    spoil: Callable[[dict[str, Any]], Any], words: str, tmp_path: Path
) -> None:
    request = asked(*FEW, "--points", "2")
    spoil(request.plan)
    store = Store(tmp_path / "r")
    store.write_plan(request.plan)
    with pytest.raises(reports.ReportError, match=re.escape(words)):
        reports.read("table1-tune", store)


def test_pages_say_which_settings_are_tuned(tmp_path: Path) -> None:
    path = tuned_file(tmp_path)
    for more, sentence in (
        ([], "Settings: tuned with 2 points."),
        (["--methods", "backprop", "hff", "ff"],
         "Settings: tuned with 2 points but default settings for Forward-Forward."),
        (["--architectures", "mlp-2x500", "cnn-small"],
         "Settings: digits, mlp-2x500: tuned with 2 points; digits, cnn-small: default settings."),
    ):  # fmt: skip
        request = run_request(*FEW, *more, "--tuned", str(path))
        Store(tmp_path / "r").write_plan(request.plan)
        page = page_of(Store(tmp_path / "r"), tmp_path, "table1")
        assert sentence in page and "Tuned settings" in page
    Store(tmp_path / "r").write_plan(run_request(*FEW).plan)
    page = page_of(Store(tmp_path / "r"), tmp_path, "table1")
    assert "Settings:" not in page and "Tuned settings" not in page


def test_what_failed_to_learn_does_not_squeeze_the_panel() -> None:
    bottom, top = limits([10.0, 95.0, 96.0, 97.0, 98.0])
    assert (bottom, top) == (90.0, 98.0)
    assert limits([98.0, 98.0]) == (97.0, 98.0)
    assert limits([10.0]) == (9.0, 10.0)


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
            on_end(job, engine.run(job))
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
