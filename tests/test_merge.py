"""Merging: whatever several machines have found is in one folder afterwards, and only once."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports import html
from reports.assemble import build_table
from reports.build import read as read_table
from results import merge as module
from results.merge import main, merge
from results.plans import check_plan, unite
from results.record import SCHEMA, RecordError, cell_key
from results.store import Store
from tests.records import filled, make_plan, make_record, make_tuning, nothing

CELL = {"method": "hff", "dataset": "digits", "architecture": "mlp-2x500"}


def record(
    seed: int = 0,
    status: str = "ok",
    hour: int = 10,
    accuracy: float = 97.0,
    host: str = "node1",
    **changes: Any,
) -> dict[str, Any]:
    cell = {**CELL, "seed": seed}
    metrics = {"test": {"last": {"accuracy_pct": accuracy, "n": 360}}} if status == "ok" else {}
    return {
        "schema": SCHEMA, "key": cell_key(cell), "suite": "table1", "status": status, "cell": cell,
        "metrics": metrics, "curves": {}, "timings": {}, "memory": {}, "cost": {},
        "environment": {"host": host}, "code_sha": "0", "started_at": "2026-01-01",
        "finished_at": f"2026-01-01T{hour:02}:00:00+00:00", **changes,
    }  # fmt: skip


def store_of(folder: Path, *records: dict[str, Any]) -> Store:
    """A store that was given these records one after the other, each finished one by --fresh."""
    store = Store(folder)
    store.prepare()
    for one in records:
        if one["status"] in ("ok", "diverged"):
            store.supersede(one["key"])
        assert store.publish(one)
    return store


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def contents(store: Store) -> Counter[bytes]:
    return Counter(path.read_bytes() for path in store.records_dir.iterdir())


def current(store: Store) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in store.records_dir.iterdir() if p.name.count(".") == 1}


# ------------------------------------------------------------------------------- records


def test_records_arrive_as_they_are_and_once(tmp_path: Path) -> None:
    a = store_of(tmp_path / "a", record(0), record(1, "diverged"), record(2, "failed"))
    b = store_of(tmp_path / "b", record(3), record(4), record(4, hour=11))
    into = Store(tmp_path / "into")
    before = snapshot(tmp_path / "a"), snapshot(tmp_path / "b")
    outcome = merge([a, b], into)
    assert (outcome.added, outcome.known, outcome.conflicts) == (6, 0, [])
    assert contents(into) == contents(a) + contents(b)
    assert (snapshot(tmp_path / "a"), snapshot(tmp_path / "b")) == before
    there = snapshot(into.root)
    outcome = merge([b, a, b], into)
    assert (outcome.added, outcome.known) == (0, 6)
    assert snapshot(into.root) == there


@pytest.mark.parametrize("order", list(itertools.permutations("ab")))
def test_of_two_runs_of_a_cell_the_newest_counts_and_both_are_told(
    tmp_path: Path, order: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A result must not depend on which folder was merged first."""
    record_a, record_b = record(accuracy=97.25), record(hour=11, accuracy=95.5, host="node2")
    stores = {"a": store_of(tmp_path / "a", record_a), "b": store_of(tmp_path / "b", record_b)}
    folders = [str(stores[name].root) for name in order]
    key, into = record_a["key"], tmp_path / "into"
    assert main([folders[0], "--into", str(into)]) == 0
    assert main([folders[1], "--into", str(into)]) == 1
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("conflict: "))
    for word in ("hff on digits/mlp-2x500, seed 0", key, "97.25 % on node1", "95.50 % on node2"):
        assert word in line
    assert "11:00" in line and "1 conflict" in said.splitlines()[-1]
    kept = {p.name: json.loads(p.read_text()) for p in (into / "records").iterdir()}
    assert kept == {f"{key}.json": record_b, f"{key}.superseded-1.json": record_a}
    assert main([*folders, "--into", str(into)]) == 0  # it is told once


def test_conflicts_say_what_they_mean(tmp_path: Path) -> None:
    same = store_of(tmp_path / "a", record()), store_of(tmp_path / "b", record(hour=11))
    outcome = merge(same, Store(tmp_path / "c"))
    (line,) = outcome.repeated  # which is no conflict
    assert not outcome.conflicts
    assert "the same numbers" in line and "different sources" not in line
    other = store_of(tmp_path / "d", record(hour=9, code_sha="1", status="diverged"))
    (line,) = merge([*same, other], Store(tmp_path / "e")).conflicts
    assert "diverged on node1" in line and "different sources" in line


def test_other_spaces_and_other_ways_to_write_a_number_are_no_conflict(tmp_path: Path) -> None:
    strange = record(timings={"steps": 10**30, "text": "half \ud800"})
    a, b = store_of(tmp_path / "a", record(1)), store_of(tmp_path / "b", record(1))
    for store, indent in ((a, None), (b, 4)):
        path = store.records_dir / f"{strange['key']}.json"
        path.write_text(json.dumps(strange, indent=indent, sort_keys=indent is None))
    into = Store(tmp_path / "into")
    assert merge([a, b], into).added == 2 and merge([b], into).known == 2
    assert merge([b], into).conflicts == []


def test_what_fresh_has_replaced_does_not_come_back(tmp_path: Path) -> None:
    """Whatever clocks say: who asked for --fresh had a reason."""
    old, new = record(hour=12, accuracy=10.0), record(hour=11)
    laptop = store_of(tmp_path / "laptop", old)
    cluster = store_of(tmp_path / "cluster", old, new)
    outcome = merge([cluster], laptop)
    assert outcome.conflicts == [] and len(outcome.replaced) == 1
    assert current(laptop) == current(cluster) and contents(laptop) == contents(cluster)
    before = snapshot(cluster.root)
    merge([store_of(tmp_path / "third", old)], cluster)
    assert snapshot(cluster.root) == before


def test_a_cell_put_aside_for_a_run_to_come_stays_open(tmp_path: Path) -> None:
    waiting = store_of(tmp_path / "a", record())
    waiting.supersede(record()["key"])
    finished = store_of(tmp_path / "b", record())
    merge([finished], waiting)
    assert current(waiting) == {}
    merge([waiting], finished)  # elsewhere nothing is lost by it
    assert len(current(finished)) == 1
    both = Store(tmp_path / "c")
    merge([waiting, finished], both)
    assert current(both) == current(finished)


@pytest.mark.parametrize("disks", ["one", "several", "links"])
def test_accidents_get_free_numbers_and_keep_their_time(
    tmp_path: Path, disks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason that is shown for a failed cell is that of its latest accident."""
    link = os.link

    def within_a_folder(one: Path, other: Path) -> None:
        if one.parent != other.parent:
            raise OSError(18, "Invalid cross-device link")
        link(one, other)

    if disks == "several":
        monkeypatch.setattr(os, "link", within_a_folder)
    stores = []
    for name, moment in (("a", 3000), ("b", 1000), ("c", 2000)):
        store = store_of(tmp_path / name, record(0, "failed", reason=name))
        for path in store.records_dir.iterdir():
            os.utime(path, (moment, moment))
            if disks == "links":
                path.symlink_to(path.rename(tmp_path / f"{name}.json"))
        stores.append(store)
    into = Store(tmp_path / "into")
    for store in stores:
        merge([store], into)
    key = record()["key"]
    names = sorted(path.name for path in into.records_dir.iterdir())
    assert names == [f"{key}.failed-{n}.json" for n in (1, 2, 3)]
    assert into.read([key]).records[key]["reason"] == "a"
    assert not any(path.is_symlink() for path in into.records_dir.iterdir())
    assert not list(into.root.rglob(".part-*"))
    there = snapshot(into.root)
    merge(stores[::-1], into)
    assert snapshot(into.root) == there


def test_an_interrupted_merge_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: the old record is put aside, and the new one is not there yet."""
    a = store_of(tmp_path / "a", record(0), record(1))
    b = store_of(tmp_path / "b", record(0, hour=11), record(1, hour=11))
    whole = store_of(tmp_path / "whole", record(0), record(1))
    merge([b], whole)
    place = Store.place

    def torn(self: Store, *args: Any) -> Path | None:
        raise OSError(28, "No space left on device", str(self.records_dir))

    monkeypatch.setattr(Store, "place", torn)
    with pytest.raises(module.MergeError, match="No space left"):
        merge([b], a)
    monkeypatch.setattr(Store, "place", place)
    merge([b], a)
    assert contents(a) == contents(whole) and current(a) == current(whole)


Life = list[list[tuple[int, str, int, int]]]  # folder -> (seed, status, hour, accuracy)
lives = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 1), st.sampled_from(("ok", "ok", "diverged", "failed", "killed")),
            st.integers(0, 5), st.integers(0, 2),
        ),
        max_size=5,
    ),
    min_size=2, max_size=3,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(lives, st.randoms())
def test_no_order_loses_or_prefers_anything(life: Life, random: Any) -> None:
    """However folders are merged, one by one, together or by detours, everything is there."""
    with tempfile.TemporaryDirectory() as name, mock.patch("os.fsync"):  # no power cut in here
        folder = Path(name)
        stores = []
        for i, runs in enumerate(life):
            runs_by_clock = {(run[2], run[0]): run for run in runs}  # a cell runs once at a time
            records = [
                record(seed, status, hour, 90.0 + accuracy, f"node{i}" if accuracy else "both")
                for _, (seed, status, hour, accuracy) in sorted(runs_by_clock.items())
            ]
            stores.append(store_of(folder / str(i), *records))
        everything = set().union(*(contents(store) for store in stores))
        together, one_by_one, detour = (Store(folder / n) for n in ("together", "one", "detour"))
        merge(stores, together)
        shuffled = random.sample(stores, len(stores))
        for store in shuffled:
            known = snapshot(one_by_one.root) if one_by_one.root.exists() else {}
            merge([store], one_by_one)
            after = snapshot(one_by_one.root)
            moved = {path for path in known if after.get(path) != known[path]}
            assert all(Path(path).name.count(".") == 1 for path in moved)  # the cell's own alone
            assert set(known.values()) <= set(after.values())
        merge(shuffled[1:], detour)
        merge([detour], shuffled[0])
        for result in (together, one_by_one, shuffled[0]):
            found = contents(result)
            assert set(found) == everything
        assert contents(together) == contents(one_by_one)
        assert max(contents(together).values(), default=1) == 1
        assert current(together) == current(one_by_one) == current(shuffled[0])


# ------------------------------------------------------------------------- broken files


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("{key}.json", "{", "not valid JSON"),
        ("{key}.json", "", "not valid JSON"),
        ("0123456789abcdef.json", "{record}", "it holds the record of"),
        ("{key}.failed-1.json", "{record}", "does not fit a record that is 'ok'"),
        ("{key}.json", '{"schema": 2}', "newer than"),
        ("{key}.json", '{"cell": NaN}', "schema"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_left(
    tmp_path: Path, name: str, content: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_of(tmp_path / "a", record(1))
    path = store.records_dir / name.format(key=record()["key"])
    path.write_text(content.replace("{record}", json.dumps(record())))
    assert main([str(store.root), "--into", str(tmp_path / "into")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(path) in said and why in said
    assert path.exists()
    assert len(list((tmp_path / "into" / "records").iterdir())) == 1


def test_a_torn_record_makes_room_and_a_newer_one_does_not(tmp_path: Path) -> None:
    good = store_of(tmp_path / "a", record())
    key = record()["key"]
    into = store_of(tmp_path / "into")
    (into.records_dir / f"{key}.json").write_text("{")
    outcome = merge([good], into)
    assert len(outcome.unreadable) == 1 and current(into) == current(good)
    assert [path.read_text() for path in into.set_aside_dir.iterdir()] == ["{"]
    newer = store_of(tmp_path / "newer")
    (newer.records_dir / f"{key}.json").write_text(json.dumps(record(schema=SCHEMA + 1)))
    before = contents(newer)
    assert "newer than" in merge([good], newer).unreadable[0]
    assert contents(newer) == before


# -------------------------------------------------------------------------------- plans


def planned(created: str, **options: Any) -> dict[str, Any]:
    plan = make_plan(**options)
    plan["created_at"] = f"2026-03-{created}T10:00:00+00:00"
    plan["command"] = f"command of {created}"
    return plan


def test_two_parts_of_a_suite_become_one_table(tmp_path: Path) -> None:
    parts = [
        (planned("01", rows=("hff",), seeds=2), [make_record("hff", seed=s) for s in range(2)]),
        (
            planned("02", rows=("ff", "hff"), seeds=3),
            [make_record("ff", seed=s) for s in (0, 1, 2)],
        ),
    ]
    stores = [filled(tmp_path / str(i), *part) for i, part in enumerate(parts)]
    for i, order in enumerate(([0, 1], [1, 0])):
        into = Store(tmp_path / f"into{i}")
        for part in order:
            assert merge([stores[part]], into).plans == []
        there = snapshot(into.root)
        merge(stores, into)
        assert snapshot(into.root) == there
        table = read_table("table1", into, nothing)
        states = {row: (c.state, c.n_wanted) for (row, _), c in table.cells.items()}
        assert states == {"ff": ("ok", 3), "hff": ("partial", 3)}
        assert table.plan["command"] == "command of 02\ncommand of 01"


def test_tuned_settings_stay_with_their_rows() -> None:
    """Else the page would say of one half of the table that its settings are the defaults."""
    parts = [planned("01", rows=(row,)) for row in ("hff", "ff")]
    for part in parts:
        row = part["rows"][0]["id"]
        part["tuned"] = [
            {"row": row, "column": "digits/mlp-2x500", "points": 16, "settings": {"lr": 0.1}}
        ]
    plan, lines = unite(parts)
    assert not lines and {t["row"] for t in plan["tuned"]} == {"hff", "ff"}
    parts = [planned("01", rows=("hff",)) for _ in range(2)]
    for part, points in zip(parts, (8, 16), strict=True):
        part["tuned"] = [{"row": "hff", "column": "digits/mlp-2x500", "points": points}]
    assert "has another tuning" in unite(parts)[1][0]


def test_published_numbers_that_came_with_a_request_stay_with_it() -> None:
    parts = [planned(f"0{i}", rows=(row,)) for i, row in enumerate(("hff", "ff", "ff"))]
    numbers = [{"row": part["rows"][0]["id"], "source": "Table 7"} for part in parts]
    for part, number in zip(parts, numbers, strict=True):
        part["published"] = [number]
    plan, lines = unite(parts)
    assert not lines and sorted(n["row"] for n in plan["published"]) == ["ff", "hff"]
    del parts[2]["published"]
    assert len(unite(parts)[0]["published"]) == 2
    parts[0]["published"] = ["Table 7"]
    with pytest.raises(RecordError, match="broken 'published'"):
        check_plan(parts[0], "table1")


def test_tunings_unite_by_point_and_never_with_other_budgets() -> None:
    plan, _ = make_tuning("HFF")
    parts = [json.loads(json.dumps(plan)) for _ in range(2)]
    for part, row in zip(parts, ("backprop", "hff"), strict=True):
        part["rows"] = [r for r in plan["rows"] if r["id"] == row]
        part["cells"] = [c for c in plan["cells"] if c["row"] == row]
        part["tuning"]["spaces"] = {row: plan["tuning"]["spaces"][row]}
    united, lines = unite(parts)
    assert not lines
    assert len(united["cells"]) == len(plan["cells"])
    assert united["tuning"]["spaces"] == plan["tuning"]["spaces"]
    assert unite([plan, plan])[0]["cells"] == plan["cells"]
    parts[1]["tuning"]["points"] = 9
    assert "points of tuning" in unite(parts)[1][0]


def test_the_newest_plan_says_which_sources_are_current() -> None:
    """Else a record of older sources would be shown as one of today's."""
    old, new = planned("01", seeds=3), planned("02", seeds=2)
    for cell in old["cells"]:
        cell["code_sha"] = "older"
    united, lines = unite([old, new])
    assert lines == [] and len(united["cells"]) == 6
    assert {cell["code_sha"] for cell in united["cells"]} == {new["cells"][0]["code_sha"]}
    assert unite([united, old, new]) == (united, [])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda p: p.update(profile="paper"), "profile paper and quick"),
        (lambda p: p.update(headline={"split": "val", "metric": "loss"}), "headline"),
        (lambda p: p["columns"][0]["protocol"].update(epochs=6), "has another protocol"),
        (lambda p: p["rows"][0].update(readout="sum"), "has another readout"),
        (lambda p: p["cells"][0].update(key="0" * 16), "has other settings"),
        (lambda p: p.update(budgets=[{"row": "hff", "column": "digits/mlp-2x500",
                                      "protocol": {"epochs": 9}}]), "has another budget"),
    ],
)  # fmt: skip
def test_plans_that_are_not_alike_are_not_mixed(change: Any, why: str) -> None:
    old, new = planned("01"), planned("02")
    change(new)
    united, (line,) = unite([old, new])
    assert united == {**new, "left_out": [line]}
    assert why in line and "command of 01" in line
    assert unite([united, old]) == (united, [line])  # told again, and noted once
    assert "Requests left out" in html.render(build_table(united, {}))


def test_a_broken_plan_is_told_and_replaced_by_a_good_one(tmp_path: Path) -> None:
    good = filled(tmp_path / "a", planned("01"), [])
    for i, content in enumerate(("{", '{"cells": [1]}', '{"suite": "b", "cells": []}')):
        into = store_of(tmp_path / f"into{i}")
        (into.plans_dir / "table1.json").write_text(content)
        assert len(merge([good], into).unreadable) == 1
        assert into.read_plan("table1") == good.read_plan("table1")
        assert [path.read_text() for path in into.set_aside_dir.iterdir()] == [content]
        broken = store_of(tmp_path / f"broken{i}")
        (broken.plans_dir / "table1.json").write_text(content)
        assert len(merge([broken], good).unreadable) == 1
        assert (broken.plans_dir / "table1.json").read_text() == content


# ------------------------------------------------------------------------- command line


def test_a_dry_run_tells_all_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = store_of(tmp_path / "a", record(0), record(1), record(2, "failed"))
    into = store_of(tmp_path / "into", record(0, hour=11, status="diverged"))
    before = snapshot(tmp_path)
    assert main([str(a.root), "--into", str(into.root), "--dry-run"]) == 1
    said = capsys.readouterr().out
    assert "3 records would be added" in said and "conflict: " in said
    assert main([str(a.root), "--into", str(tmp_path / "new"), "--dry-run"]) == 0
    assert snapshot(tmp_path) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none", "--into", "into"], "none is not there"),
        (["a/records", "--into", "into"], "did you mean a?"),
        (["a/plans", "--into", "into"], "is no folder of results"),
        (["a", "--into", "a"], "merged into itself"),
        (["a", "--into", "file"], "is not a folder"),
        (["a"], "--into"),
        (["--into", "a"], "FROM"),
        (["a", "--into", "into", "--what"], "--what"),
    ],
)
def test_a_wrong_request_is_one_line_and_status_2(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    store_of(tmp_path / "a", record())
    (tmp_path / "file").write_text("")
    before = snapshot(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    assert captured.err.count("\n") == 1 and said in captured.err
    assert snapshot(tmp_path) == before


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    for word in ("--dry-run", "conflict", "exit status", "examples"):
        assert word in said
