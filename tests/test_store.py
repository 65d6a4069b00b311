"""Records, the store and leases: nothing lost, nothing torn, nothing overwritten."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from results import RecordError, Store
from results.lease import Lease, is_alive, process_id
from results.record import SCHEMA, cell_key, check, parse


def record(seed: int = 0, status: str = "ok", **changes: Any) -> dict[str, Any]:
    cell = {"method": "hff", "seed": seed}
    return {
        "schema": SCHEMA, "key": cell_key(cell), "suite": "table1", "status": status, "cell": cell,
        "metrics": {}, "curves": {}, "timings": {}, "memory": {}, "cost": {}, "environment": {},
        "code_sha": "0", "started_at": "2026-01-01", "finished_at": "2026-01-01", **changes,
    }  # fmt: skip


def test_key_depends_on_values_and_not_on_order() -> None:
    assert cell_key({"a": 1, "b": 2}) == cell_key({"b": 2, "a": 1})
    assert cell_key({"a": 1, "b": 2}) != cell_key({"a": 1, "b": 3})
    assert cell_key({"a": 1}) != cell_key({"a": 1.5})


def test_round_trip_and_nan_becomes_null(tmp_path: Path) -> None:
    store = Store(tmp_path)
    wanted = record(timings={"train_s": float("nan"), "curve": [1.0, float("inf")]})
    path = store.publish(wanted)
    assert path is not None and "NaN" not in path.read_text()
    found = store.read([wanted["key"]]).records[wanted["key"]]
    assert found["timings"] == {"train_s": None, "curve": [1.0, None]}


def test_a_finished_record_is_never_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = record(reason="first")
    assert store.publish(first) is not None
    assert store.publish(record(reason="second")) is None
    assert store.read([first["key"]]).records[first["key"]]["reason"] == "first"
    assert not list(tmp_path.rglob(".part-*"))


def test_accidents_are_kept_beside_and_do_not_hide_a_success(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for n, status in enumerate(["failed", "failed", "killed"]):
        path = store.publish(record(status=status, reason=str(n)))
        assert path is not None
        os.utime(path, (1000 + n, 1000 + n))
    key = record()["key"]
    assert len(list(store.records_dir.iterdir())) == 3
    assert store.read([key]).records[key]["reason"] == "2"  # the latest
    store.publish(record(status="ok", reason="done"))
    assert store.read([key]).records[key]["reason"] == "done"


def test_superseded_records_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    key = record()["key"]
    for n in range(2):
        store.publish(record(reason=str(n)))
        store.supersede(key)
        assert store.read([key]).records == {}
    kept = sorted(store.records_dir.iterdir())
    assert [json.loads(p.read_text())["reason"] for p in kept] == ["0", "1"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "not valid JSON"),
        ('{"schema": 1, "key"', "not valid JSON"),
        ("[]", "not a JSON object"),
        ("{}", "no schema version"),
        ('{"schema": 1}', "missing"),
        ('{"schema": 0}', "too old"),
    ],
)
def test_a_corrupt_record_is_set_aside_by_name(tmp_path: Path, content: str, why: str) -> None:
    store = Store(tmp_path)
    good, bad = record(0), record(1)
    store.publish(good)
    path = store.records_dir / f"{bad['key']}.json"
    path.write_text(content)
    for moves in (False, True):  # who only reads leaves it where it is
        summary = store.read([good["key"], bad["key"]], set_aside=moves)
        assert set(summary.records) == {good["key"]}
        assert len(summary.unreadable) == 1
        assert str(path) in summary.unreadable[0] and why in summary.unreadable[0]
        assert path.exists() is not moves
    assert not path.exists() and len(list(store.set_aside_dir.iterdir())) == 1
    assert store.publish(bad) is not None  # the cell can be run again


def test_an_edited_record_is_not_believed() -> None:
    forged = record()
    forged["cell"] = {**forged["cell"], "seed": 9}
    with pytest.raises(RecordError, match="edited"):
        check(forged)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"metrics": {"test": [1]}}, "metrics of 'test' are no table"),
        ({"metrics": {"test": {"last": 97}}}, "metrics of readout 'last' on 'test'"),
        ({"metrics": {"test": {"last": {"accuracy_pct": "97"}}}}, "are no numbers"),
        ({"curves": {"epoch": 3}}, "curve 'epoch' is no list"),
        ({"speed": [1]}, "field 'speed'"),
    ],
)
def test_figures_in_another_form_are_named(broken: dict[str, Any], why: str) -> None:
    """Every reader takes their form for granted, and would end in a trace."""
    check(record(metrics={"test": {"last": {"accuracy_pct": 97, "loss": None}}}, audit=None))
    with pytest.raises(RecordError, match=why):
        check(record(**broken))


def test_a_newer_schema_is_refused_by_name_and_left_in_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    newer = record(schema=SCHEMA + 1)
    store.records_dir.mkdir()
    path = store.records_dir / f"{newer['key']}.json"
    path.write_text(json.dumps(newer))
    summary = store.read([newer["key"]])
    assert "newer" in summary.unreadable[0] and path.exists()
    with pytest.raises(RecordError, match="schema 2 is newer"):
        parse(path.read_text())


def test_plans(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.read_plan("table1") is None
    store.write_plan({"suite": "table1", "cells": []})
    assert store.read_plan("table1") == {"suite": "table1", "cells": []}
    (store.plans_dir / "table1.json").write_text("{")
    with pytest.raises(RecordError, match=r"table1\.json: not valid JSON"):
        store.read_plan("table1")


def _race(folder: str, n: int) -> None:
    Store(folder).publish(record(reason=str(n)))


def test_many_writers_one_winner(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    racers = [context.Process(target=_race, args=(str(tmp_path), n)) for n in range(12)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    files = list(Store(tmp_path).records_dir.iterdir())
    assert len(files) == 1
    check(json.loads(files[0].read_text()))


# ------------------------------------------------------------------------------- leases


def test_a_lease_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "live" / "abc.json"
    one, two = Lease(path, {}), Lease(path, {})
    assert one.acquire() and not two.acquire()
    one.renew(epoch=3)
    assert Store(tmp_path).live()["abc"]["epoch"] == 3
    one.release()
    assert two.acquire()


def test_a_lease_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "live" / "abc.json"
    script = (
        "from results.lease import Lease; from pathlib import Path; import os;"
        f"assert Lease(Path({str(path)!r}), {{}}).acquire(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parent.parent)
    assert path.exists()
    assert Store(tmp_path).live() == {}
    assert Lease(path, {}).acquire()


def test_a_lease_that_was_taken_over_is_neither_overwritten_nor_removed(tmp_path: Path) -> None:
    path = tmp_path / "live" / "abc.json"
    lease = Lease(path, {})
    assert lease.acquire()
    path.write_text(json.dumps({"host": "another", "process": "1:1"}))
    lease._renewed = 0.0
    assert not lease.renew(epoch=1)
    lease.release()
    assert json.loads(path.read_text())["host"] == "another"


def test_trouble_with_the_lease_file_is_no_reason_to_stop(tmp_path: Path) -> None:
    lease = Lease(tmp_path / "live" / "abc.json", {})
    assert lease.acquire()
    (tmp_path / "live" / "abc.json").unlink()
    (tmp_path / "live").rmdir()
    (tmp_path / "live").write_text("in the way")
    assert lease.renew(epoch=1)


def test_life_signs() -> None:
    here = {"host": os.uname().nodename, "process": process_id(os.getpid())}
    assert is_alive(here, 1e6)
    assert not is_alive({**here, "process": f"{os.getpid()}:1"}, 0)  # the number was reused
    elsewhere = {"host": "another", "process": "1:1"}
    assert is_alive(elsewhere, 60) and not is_alive(elsewhere, 600)
    assert not is_alive(None, 60)  # torn by a crash
