"""What methods cost, as it is read: rates beside backprop's, ratios in words, growth with size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reports.formatting import NOTHING, count, number
from reports.table import Cell, Column, Row, Table

NOISY = 1.25  # a factor between the same work in different cells
QUIET_PCT = 90.0  # of the cores' time that a process must have been given
EPOCH = 50_000  # images: the training set of CIFAR-10
TRAINING = ("images/s", "× backprop", f"{count(EPOCH)} images, s", "% of peak", "data, %",
            "J per image")  # fmt: skip
PREDICTION = ("predicts by", "images/s", "× backprop", "one image, ms", "99th percentile, ms",
              "MFLOPs per image")  # fmt: skip
TERMS = (
    (
        "× backprop",
        "times the rate of end-to-end backprop on the same network and batch, timed in turns with "
        "it in the same process: the median of the repeats, and their range in parentheses.",
    ),
    (
        f"{count(EPOCH)} images",
        "seconds of one epoch on as many, those of CIFAR-10's training set.",
    ),
    (
        "images/s in training",
        "what a phase leaves as it is (finished blocks, random features) is computed once, ahead "
        "of the phase, and is not in this figure: rules that train on kept features look fast.",
    ),
    (
        "MFLOPs",
        "of matrix products and convolutions as they are run, two per multiply-add; element-wise "
        "work counts as none, so a way that does more of it instead may show fewer and be slower.",
    ),
    ("one image", "time of a prediction at batch size 1: median, and the 99th percentile."),
    (
        "% of peak",
        "floating-point operations of the matrix products and convolutions in a training step, "
        "per second, against the rate that this machine reached in the same run in one "
        "large matrix product (networks without convolutions) or convolution.",
    ),
    (
        "data",
        "time it takes to cut a mini-batch out of the images on the device and to standardise it.",
    ),
    (
        "how it is timed",
        "After a warm-up, at least five repeats in turns, training from the weights of the start, "
        "on a clock that waits for the device; one cell at a time. Of several seeds the median is "
        "shown, and the widest range.",
    ),
)


@dataclass(frozen=True)
class Section:
    """One table about speed.

    Attributes:
        groups: per column of the report's table the lines of each method that was timed, texts as
            in `headings`.
    """

    title: str
    headings: tuple[str, ...]
    groups: tuple[tuple[Column, tuple[tuple[Row, list[list[str]]], ...]], ...]


def sections(table: Table) -> list[Section]:
    """Training, and prediction with a line per way to predict; nothing where nothing was timed."""
    found = []
    for title, headings, lines in (
        ("Training", TRAINING, _training), ("Prediction", PREDICTION, _prediction),
    ):  # fmt: skip
        groups = []
        for column in table.columns:
            timed = [(row, table.cell(row, column)) for row in table.rows]
            entries = tuple((row, lines(cell)) for row, cell in timed if cell.speed)
            if entries:
                groups.append((column, entries))
        if groups:
            found.append(_with_what_is_known(Section(title, headings, tuple(groups))))
    return found


def _with_what_is_known(section: Section) -> Section:
    """Without headings that no line has anything for, such as energy where no counter is."""
    lines = [line for _, entries in section.groups for _, of_row in entries for line in of_row]
    known = [i for i in range(len(section.headings)) if any(line[i] != NOTHING for line in lines)]
    return Section(
        section.title,
        tuple(section.headings[i] for i in known),
        tuple(
            (
                column,
                tuple((row, [[line[i] for i in known] for line in of_row])
                      for row, of_row in entries),
            )
            for column, entries in section.groups
        ),
    )  # fmt: skip


def _training(cell: Cell) -> list[list[str]]:
    train = cell.speed["train"]
    names = ("peak_share_pct", "data_share_pct", "joules_per_image")
    return [
        [
            _rate(train), ratio_text(train["ratio"]),
            number(EPOCH / train["images_per_s"]["median"]), *(number(train[n]) for n in names),
        ]
    ]  # fmt: skip


def _prediction(cell: Cell) -> list[list[str]]:
    found = []
    for way, predict in cell.speed["predict"].items():
        latency = cell.speed["latency_ms"].get(way, {})
        found.append(
            [
                way, _rate(predict), ratio_text(predict["ratio"]),
                number(latency.get("p50")), number(latency.get("p99")),
                number(predict["flops_per_image"] / 1e6),
            ]
        )  # fmt: skip
    return found


def _rate(figures: Mapping[str, Any]) -> str:
    return number(figures["images_per_s"]["median"])


def ratio_text(found: Mapping[str, float]) -> str:
    """Median and range to two digits: '0.94 (0.86–0.99)'."""
    return f"{_two(found['median'])} ({_two(found['low'])}\u2013{_two(found['high'])})"


def _two(value: float) -> str:
    if not math.isfinite(value) or value <= 0:
        return NOTHING
    places = max(0, 1 - math.floor(math.log10(value)))
    return f"{value:.{places}f}" if places else count(value)


def quiet(table: Table) -> str:
    """How far the machine's own best rate varied from cell to cell, as a sentence; "" if unknown.

    It is the same piece of work each time, so all of that is the machine, or what else it did.
    """
    rates: dict[tuple[str, str], list[float]] = {}
    shares: list[float] = []
    for _, _, run in table.runs:
        peak = ((run.record or {}).get("speed") or {}).get("peak")
        if peak:
            environment = (run.record or {})["environment"]
            where = (str(peak["operation"]), str(environment.get("gpu") or environment.get("cpu")))
            rates.setdefault(where, []).append(peak["flops_per_s"]["median"])
            if peak.get("cores_pct") is not None:
                shares.append(peak["cores_pct"])
    worst = max(map(_spread, rates.values()), default=0.0)
    if not worst:
        return ""
    given = sorted(shares)[len(shares) // 20] if shares else 100.0  # one cell in 20 may be hit
    verdict = "it was quiet." if worst <= NOISY and given >= QUIET_PCT else (
        "it was busy with something else. Do not cite these figures, not even ratios: measure "
        "again with --fresh when it is idle."
    )  # fmt: skip
    cores = f", and its process got {given:.0f} % of the cores or more" if shares else ""
    return (
        "The machine's best rate, timed anew in every cell, varied by a factor of "
        f"{worst:.2f} between cells{cores}: {verdict}"
    )


def _spread(rates: list[float]) -> float:
    """Largest over smallest, when one in 20 is left out at both ends."""
    found, out = sorted(rates), len(rates) // 20
    return found[-1 - out] / found[out]


# ----------------------------------------------------------------------- one against another


@dataclass(frozen=True)
class Comparison:
    """How many times as many predictions a second one method makes as another.

    Attributes:
        ways: of the other to predict.
        entries: per column of the table, with what it holds in words, a text per way.
    """

    one: Row
    other: Row
    ways: tuple[str, ...]
    entries: tuple[tuple[Column, str, tuple[str, ...]], ...]


def comparisons(table: Table) -> list[Comparison]:
    """Those that the plan asks for, where both were timed."""
    rows = {row.id: row for row in table.rows}
    found = []
    for one_id, other_id in table.plan.get("comparisons") or ():
        one, other = rows[one_id], rows[other_id]
        ways: dict[str, None] = {}
        lines = []
        for column in table.columns:
            mine, theirs = table.cell(one, column).speed, table.cell(other, column).speed
            if mine and theirs:
                first = next(iter(mine["predict"].values()))["ratio"]
                ratios = {
                    way: _over(first, figures["ratio"])
                    for way, figures in theirs["predict"].items()
                }
                ways |= dict.fromkeys(ratios)
                lines.append((column, ratios))
        if lines:
            entries = tuple(
                (
                    column,
                    sizes_text(column.axes),
                    tuple(ratio_text(of[w]) if w in of else NOTHING for w in ways),
                )
                for column, of in lines
            )
            found.append(Comparison(one, other, tuple(ways), entries))
    return found


def _over(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Ratio of two multiples of what backprop did meanwhile; the range is at its widest."""
    return {
        "median": one["median"] / other["median"],
        "low": one["low"] / other["high"],
        "high": one["high"] / other["low"],
    }


def sizes_text(axes: Mapping[str, float]) -> str:
    """'100 classes, 3 blocks, width 500, batch size 64'."""
    return ", ".join(
        f"{count(v)} {k}" if k in ("blocks", "classes") else f"{k} {count(v)}"
        for k, v in axes.items()
    )


# ------------------------------------------------------------------------------ with size


@dataclass(frozen=True)
class Line:
    """Time per image of one method, or of one of its ways to predict, against a size."""

    row: str  # id, which gives its look
    label: str
    sizes: tuple[float, ...]
    ms: tuple[float, ...]

    @property
    def slope(self) -> float:
        """Exponent of the power law through the points, by least squares on logarithms."""
        x, y = [math.log(v) for v in self.sizes], [math.log(v) for v in self.ms]
        return statistics.linear_regression(x, y).slope


@dataclass(frozen=True)
class Scaling:
    """One figure: time per image against one size, all others held."""

    axis: str  # "classes"
    what: str  # "training" or "prediction"
    held: str  # "3 blocks, width 500, batch size 64"
    lines: tuple[Line, ...]


def scalings(table: Table) -> list[Scaling]:
    """Every size that at least three columns differ in, and in nothing else."""
    found = []
    kinds: dict[tuple[Any, ...], dict[float, Column]] = {}
    for column in table.columns:
        shape = (column.dataset.partition("-c")[0], column.architecture.partition("-")[0])
        for axis, size in column.axes.items():
            held = tuple((k, v) for k, v in column.axes.items() if k != axis)
            kinds.setdefault((axis, shape, held), {})[size] = column
    for (axis, _, held), by_size in kinds.items():
        if len(by_size) < 3:
            continue
        columns = dict(sorted(by_size.items()))
        text = sizes_text(dict(held))
        for what in ("training", "prediction"):
            lines = _lines(table, columns, what)
            if lines:
                found.append(Scaling(axis, what, text, lines))
    return found


def _lines(table: Table, columns: Mapping[float, Column], what: str) -> tuple[Line, ...]:
    found = []
    compared = {other for _, other in table.plan.get("comparisons") or ()}
    for row in table.rows:
        points: dict[str, list[tuple[float, float]]] = {}
        for size, column in columns.items():
            speed = table.cell(row, column).speed
            if not speed:
                continue
            ways = {"": speed["train"]} if what == "training" else speed["predict"]
            if what == "prediction" and row.id not in compared:
                ways = dict([next(iter(ways.items()))])
            for way, figures in _unlike(ways).items():
                per_image = 1e3 / figures["images_per_s"]["median"]
                points.setdefault(way, []).append((size, per_image))
        for way, of_way in points.items():
            if len(of_way) >= 3:
                label = row.label + (f", {way}" if len(points) > 1 else "")
                sizes, ms = zip(*of_way, strict=True)
                found.append(Line(row.id, label, sizes, ms))
    return tuple(found)


def _unlike(ways: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Ways to predict that differ in what they run: the first of those with equal FLOPs."""
    found: dict[Any, tuple[str, Mapping[str, Any]]] = {}
    for way, figures in ways.items():
        found.setdefault(figures.get("flops_per_image"), (way, figures))
    return dict(found.values())
