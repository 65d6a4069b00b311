"""All records of a store as one pandas frame, from a cache where nothing has changed.

    from results.frame import load
    frame = load("results/runs")
    frame[frame.status == "ok"].groupby("cell.method")["metrics.test.last.accuracy_pct"].mean()

The cache is `<results>/cache/records.parquet`, which other programs may read as well. It is not
the truth: records are, and the cache may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.files import replacing
from results.record import RecordError, parse
from results.store import Store, is_record, without_collector

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT = "1"  # of the cache: raised whenever other columns come of the same records
STAMPS = ["file", "mtime_ns", "size"]  # what tells whether a file is the one that was read


def load(store: Store | Path | str, cache: bool = True) -> DataFrame:
    """A line per record, accidents and superseded records included; unreadable files left out.

    Columns are named by the path in the record, "metrics.test.last.accuracy_pct"; lists, such as
    curves, are left out. `file` is the name of the record's file.

    Args:
        store: a store or its folder.
        cache: False reads every file, and writes no cache.

    Raises:
        FileNotFoundError: there is no such store.
    """
    import pandas

    store = store if isinstance(store, Store) else Store(store)
    with os.scandir(store.records_dir) as entries:
        stats = [(e.name, e.stat()) for e in entries if is_record(e.name)]
    stamps = {(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats}
    known = _cached(store) if cache else None
    if known is None:
        known = pandas.DataFrame({name: [] for name in STAMPS})
    read_before = list(known[STAMPS].itertuples(index=False, name=None))
    new = stamps.difference(read_before)
    kept = known[[stamp in stamps for stamp in read_before]] if read_before else known
    if not new and len(kept) == len(known):
        return _tidied(known)
    with without_collector():
        fresh = pandas.DataFrame(by_column(_lines(store, sorted(new))))
    frames = [f for f in (kept, fresh) if not f.empty]
    frame = pandas.concat(frames, ignore_index=True) if frames else kept
    frame = _of_one_type(frame.sort_values("file", ignore_index=True))
    if cache:
        with contextlib.suppress(OSError):  # a store that may only be read
            _write(store, frame)
    return _tidied(frame)


def _tidied(frame: DataFrame) -> DataFrame:
    return frame.drop(columns=STAMPS[1:], errors="ignore")


def _lines(store: Store, files: Iterable[tuple[str, int, int]]) -> Iterator[dict[str, Any]]:
    for name, mtime_ns, size in files:
        line = {"file": name, "mtime_ns": mtime_ns, "size": size}
        try:
            with open(os.path.join(store.records_dir, name), "rb") as file:
                line |= parse(file.read())
        except (RecordError, OSError):
            continue
        yield line


class _Path:
    """A path in nested lines: its column, and the paths that go on from it."""

    __slots__ = ("below", "column", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.column: list[Any] = []
        self.below: dict[str, _Path] = {}

    def add(self, values: Mapping[str, Any], n: int) -> None:
        """Adds the values of line n, counted from 0."""
        below = self.below
        for name, value in values.items():
            kind = type(value)
            if kind is list:
                continue
            path = below.get(name)
            if path is None:
                path = below[name] = _Path(f"{self.name}.{name}" if self.name else name)
            if kind is dict:
                path.add(value, n)
                continue
            column = path.column
            if len(column) < n:
                column += [None] * (n - len(column))
            column.append(value)

    def columns(self, n: int) -> Iterator[tuple[str, list[Any]]]:
        """All columns from here, filled up to n lines."""
        if self.column:
            yield self.name, self.column + [None] * (n - len(self.column))
        for path in self.below.values():
            yield from path.columns(n)


def by_column(lines: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column -> values, None where a line has none.

    Nested values are named by the path to them, "a.b.c"; lists are left out. Lines are taken one
    after the other and need not all be there at once: pandas, given them, would take longer.
    """
    root, n = _Path(""), 0
    for n, line in enumerate(lines, start=1):
        root.add(line, n - 1)
    return dict(root.columns(n))


# ------------------------------------------------------------------------------- the cache


def _path(store: Store) -> Path:
    return store.root / "cache" / "records.parquet"


def _cached(store: Store) -> DataFrame | None:
    """What was read last time; None where there is no cache of this format."""
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(_path(store))
        if (table.schema.metadata or {}).get(b"bpfree") != FORMAT.encode():
            return None
        return table.to_pandas()
    except (OSError, pyarrow.ArrowException):
        return None


def _write(store: Store, frame: DataFrame) -> None:
    """Replaces the cache in one step."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"bpfree": FORMAT})
    with replacing(_path(store)) as part:
        parquet.write_table(table, part, compression="zstd")


def _of_one_type(frame: DataFrame) -> DataFrame:
    """Columns of several types as text, as the cache has them: the second load gives the same."""
    mixed = {
        name: column.map(str, na_action="ignore") for name, column in frame.items()
        if column.dtype == object and _is_mixed(column)
    }  # fmt: skip
    return frame.assign(**mixed)


def _is_mixed(column: Any) -> bool:
    """Whether values of several types share a column: the settings of unlike methods may."""
    return len({type(value) for value in column if value is not None and value == value}) > 1
