"""All records as one frame: what is in it, and that the cache never shows what is no longer so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas
import pytest

from results.frame import by_column, load
from results.store import Store
from tests.records import filled, make_plan, make_record


def store_of(folder: Path) -> Store:
    records = [make_record("hff", seed=0, accuracy=97.0), make_record("hff", seed=1, accuracy=95.0)]
    records.append(make_record("backprop", seed=0, status="failed", reason="no luck"))
    return filled(folder, make_plan(), records)


def cache_of(store: Store) -> Path:
    return store.root / "cache" / "records.parquet"


def test_a_line_per_record(tmp_path: Path) -> None:
    frame = load(store_of(tmp_path))
    assert len(frame) == 3 and frame["file"].is_unique
    ok = frame[frame["status"] == "ok"].sort_values("cell.seed")
    assert ok["metrics.test.last.accuracy_pct"].tolist() == [97.0, 95.0]
    assert ok["cell.config.lr"].tolist() == [0.1, 0.1] and ok["cost.n_params"].sum() == 1296020
    assert not [name for name in frame if name.startswith("curves")]
    failed = frame[frame["status"] == "failed"]
    assert failed["reason"].tolist() == ["no luck"]
    assert failed["metrics.test.last.accuracy_pct"].isna().all()


def test_the_cache_holds_the_same(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    first = load(store)
    stamp = cache_of(store).stat().st_mtime_ns
    second = load(store)
    pandas.testing.assert_frame_equal(first, second)
    assert cache_of(store).stat().st_mtime_ns == stamp  # nothing new: not written again
    pandas.testing.assert_frame_equal(load(store, cache=False), second, check_dtype=False)


def test_the_last_record_is_gone_as_well(tmp_path: Path) -> None:
    store = filled(tmp_path, make_plan(), [make_record("hff", seed=0)])
    assert len(load(store)) == 1
    (path,) = store.records_dir.glob("*.json")
    path.write_text(path.read_text()[:100])
    assert len(load(store)) == 0
    path.unlink()
    assert len(load(store)) == len(load(store)) == 0


def test_new_changed_and_removed_records_are_noticed(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    load(store)
    store.publish(make_record("hff", seed=2, accuracy=99.0))
    removed, changed = sorted(store.records_dir.glob("*.json"))[:2]
    removed.unlink()
    document = json.loads(changed.read_text())
    document["reason"] = "edited"
    changed.write_text(json.dumps(document))
    os.utime(changed, ns=(1, 1))
    frame = load(store)
    assert len(frame) == 3 and removed.name not in set(frame["file"])
    assert frame.set_index("file")["reason"][changed.name] == "edited"
    pandas.testing.assert_frame_equal(frame, load(store, cache=False), check_dtype=False,
                                      check_like=True)  # fmt: skip


@pytest.mark.parametrize("damage", [b"", b"PAR1 and then nothing"])
def test_a_broken_cache_is_made_anew(damage: bytes, tmp_path: Path) -> None:
    store = store_of(tmp_path)
    whole = load(store)
    cache_of(store).write_bytes(damage)
    pandas.testing.assert_frame_equal(load(store), whole)
    assert cache_of(store).stat().st_size > 1000


def test_a_store_that_may_only_be_read(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    (tmp_path / "cache").write_text("a file in the way")
    assert len(load(store)) == 3


def test_unreadable_files_are_left_out_and_stay(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    torn = store.records_dir / "0123456789abcdef.json"
    torn.write_text('{"schema": 1, "key"')
    for _ in range(2):
        assert len(load(store)) == 3
    assert torn.exists()


def test_settings_of_several_types_share_a_column(tmp_path: Path) -> None:
    """One method's `steps` is a number, another's a word: the file format knows one type each."""
    from results.record import cell_key

    store = store_of(tmp_path)
    for value in ("ten", 10, True):
        record = make_record("hff", seed=7)
        record["cell"] = record["cell"] | {"config": {"steps": value}}
        store.publish(record | {"key": cell_key(record["cell"])})
    for _ in range(2):  # read, and from the cache
        values = load(store)["cell.config.steps"].dropna().tolist()
        assert sorted(values) == ["10", "True", "ten"]


def test_an_empty_store(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    assert load(store).empty and load(store).empty
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere")


def test_lines_of_unlike_columns() -> None:
    lines = iter([{"a": 1}, {"b": 2}, {"a": 3, "c": 4}])
    assert by_column(lines) == {"a": [1, None, 3], "b": [None, 2, None], "c": [None, None, 4]}
    assert by_column([]) == {}
