"""What two sides have in common and what not: every pair of cells with its verdict and causes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from reports.caption import metric_text
from reports.comparing.alignment import Side, flat
from reports.differences import STUDENT, WELCH, Difference, difference, holm_adjusted, pooled
from reports.formatting import (
    MINUS,
    first_line,
    number,
    plural,
    setting_text,
    signed,
    when,
)
from reports.statistics import CONFIDENCE, MIN_SEEDS_FOR_INTERVAL, Estimate, estimate
from reports.table import Cell, Column, Row, Run, Table, rounding_step

DIFFERS = "differs"
UNSEEN = "no difference seen"
SAME = "same bits"
FEW = "too few seeds to say"
CHANGED = "status changed"
NO_VALUE = "no result in either"
RESULT_IN = {"A": "result in A only", "B": "result in B only"}  # of other seeds, or a rest of them
ONLY = {"A": "only in A", "B": "only in B"}
VERDICTS = (
    DIFFERS, CHANGED, *RESULT_IN.values(), UNSEEN, SAME, FEW, NO_VALUE, *ONLY.values(),
)  # fmt: skip
COMPARED = (DIFFERS, UNSEEN, SAME, FEW)  # both sides have a value

RATE = "train_images_per_s"
# of the environment: told in this order, then all others; what is different in every run is not
ENVIRONMENT = ("host", "os", "cpu", "cores", "gpu", "driver", "cuda", "device", "threads",
               "processes", "deterministic", "python", "git_commit", "git_dirty")  # fmt: skip
MOST_VALUES = 4


@dataclass(frozen=True)
class Change:
    """One seed whose run ended otherwise."""

    seed: int
    before: str  # status in A
    after: str  # status in B
    reason: str  # of the one that is not ok


@dataclass(frozen=True)
class Setting:
    """One field that is not the same on both sides."""

    name: str
    a: str
    b: str


@dataclass(frozen=True)
class Pair:
    """One place of the table on both sides.

    Attributes:
        row, column: of A, or of B where A has none.
        a, b: the cells; None where no run of a side is on record.
        p_value: corrected for the number of tested cells; None where nothing is tested.
        changes: seeds that are on record on both sides, with unlike ends.
        settings: fields of the cells that differ, versions included.
        other_sources: whether records were made by sources that differ; None where it is not known.
        rate: training rate of B over that of A, in images per second.
        unpaired: seeds that have a value on one side only, as (side, seeds).
    """

    row: Row
    column: Column
    a: Cell | None
    b: Cell | None
    verdict: str
    difference: Difference | None = None
    p_value: float | None = None
    changes: tuple[Change, ...] = ()
    settings: tuple[Setting, ...] = ()
    other_sources: bool | None = None
    rate: float | None = None
    unpaired: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.row.label} on {self.column.id}"

    @property
    def shift(self) -> float | None:
        """Mean of B minus mean of A, tested or not."""
        one, other = (cell.estimate if cell else None for cell in (self.a, self.b))
        return other.mean - one.mean if one and other else None


@dataclass(frozen=True)
class Comparison:
    """Everything that is told of two sides.

    Attributes:
        environment: fields that differ, over the records of cells that both sides have.
        settings: (field, the places where it differs).
    """

    a: Side
    b: Side
    pairs: tuple[Pair, ...]
    environment: tuple[Setting, ...]
    settings: tuple[tuple[Setting, tuple[str, ...]], ...]

    @property
    def shared(self) -> list[Pair]:
        """Places that both sides have runs of."""
        return [pair for pair in self.pairs if pair.a and pair.b]

    @property
    def counts(self) -> dict[str, int]:
        """verdict -> how many cells, those that occur."""
        found = {v: sum(pair.verdict == v for pair in self.pairs) for v in VERDICTS}
        return {verdict: n for verdict, n in found.items() if n}

    @property
    def changed(self) -> list[tuple[Pair, Change]]:
        return [(pair, change) for pair in self.pairs for change in pair.changes]

    @property
    def exit_status(self) -> int:
        """1 where some cell differs, ended otherwise, or has a result on one side only, else 0."""
        bad = (DIFFERS, *RESULT_IN.values())
        return int(any(pair.verdict in bad or pair.changes for pair in self.pairs))

    @property
    def metric(self) -> str:
        return metric_text(self.a.table)

    def groups(self) -> list[tuple[Column, list[Pair]]]:
        """(column, its pairs), in the order of the tables."""
        found: dict[str, tuple[Column, list[Pair]]] = {}
        for pair in self.pairs:
            found.setdefault(pair.column.id, (pair.column, []))[1].append(pair)
        return list(found.values())


def compare(a: Side, b: Side) -> Comparison:
    """Compares two sides that are laid out alike."""
    pairs = [pair for pair in _pairs(a.table, b.table) if pair is not None]
    # what is the same to the last bit is known, and no test
    tested = [i for i, pair in enumerate(pairs) if pair.difference and pair.verdict != SAME]
    p_values = [d.p_value for i in tested if (d := pairs[i].difference)]
    for i, p_value in zip(tested, holm_adjusted(p_values), strict=True):
        verdict = DIFFERS if p_value <= 1 - CONFIDENCE else UNSEEN
        pairs[i] = replace(pairs[i], p_value=p_value, verdict=verdict)
    shared = [pair for pair in pairs if pair.a and pair.b]
    settings: dict[Setting, list[str]] = {}
    for pair in shared:
        for setting in pair.settings:
            settings.setdefault(setting, []).append(pair.name)
    return Comparison(
        a, b, tuple(pairs), _environment(shared), tuple((s, tuple(n)) for s, n in settings.items())
    )


def _pairs(a: Table, b: Table) -> Iterable[Pair | None]:
    rows = {row.id: row for table in (b, a) for row in table.rows}
    columns = {column.id: column for table in (b, a) for column in table.columns}
    order_rows = dict.fromkeys([row.id for table in (a, b) for row in table.rows])
    order_columns = dict.fromkeys([column.id for table in (a, b) for column in table.columns])
    for column in order_columns:
        for row in order_rows:
            cells = [_on_record(table.cells.get((row, column))) for table in (a, b)]
            yield _pair(rows[row], columns[column], cells[0], cells[1], a)


def _on_record(cell: Cell | None) -> Cell | None:
    return cell if cell and any(run.record for run in cell.runs) else None


def _pair(row: Row, column: Column, a: Cell | None, b: Cell | None, table: Table) -> Pair | None:
    if a is None or b is None:
        if a is None and b is None:
            return None
        return Pair(row, column, a, b, ONLY["A" if a else "B"])
    one, other = a.by_seed, b.by_seed
    lone = (("A", one.keys() - other.keys()), ("B", other.keys() - one.keys()))
    changes = tuple(_changes(a, b))
    shared = one.keys() & other.keys()
    # where one side ran a part of the other's seeds, that part is looked at
    same = shared in (one.keys(), other.keys()) and _same_bits(a, b, shared)
    if same and one.keys() != other.keys():
        a, b = _only(a, shared), _only(b, shared)
        one, other = a.by_seed, b.by_seed
    step = rounding_step(table.plan, row, (*a.runs, *b.runs))
    tested = difference(one, other, step)
    if tested is None and one and other and max(len(one), len(other)) >= MIN_SEEDS_FOR_INTERVAL:
        tested = pooled(list(one.values()), list(other.values()), step)
    if one and other:
        verdict = SAME if same else FEW  # of what is tested, the p value decides
    else:
        lacking = RESULT_IN["A" if one else "B"] if one or other else NO_VALUE
        verdict = CHANGED if changes else lacking
    records = [[run.record for run in cell.runs if run.record] for cell in (a, b)]
    sources = [{record["code_sha"] for record in found} for found in records]
    rates = [cell.cost.get(RATE) for cell in (a, b)]
    return Pair(
        row, column, a, b, verdict, tested, None, changes,
        tuple(_settings(records[0][0]["cell"], records[1][0]["cell"])),
        sources[0] != sources[1] if all(sources) else None,
        rates[1] / rates[0] if rates[0] and rates[1] else None,
        tuple((side, tuple(sorted(seeds))) for side, seeds in lone if seeds),
    )  # fmt: skip


def _only(cell: Cell, seeds: Set[int]) -> Cell:
    """The cell with the values of these seeds alone."""
    runs = tuple(run for run in cell.runs if run.seed in seeds)
    values = [value for seed, value in cell.by_seed.items() if seed in seeds]
    return replace(cell, runs=runs, estimate=estimate(values))


def _same_bits(a: Cell, b: Cell, seeds: Set[int]) -> bool:
    """Whether there are runs of these seeds with a value, and all are equal to the last bit."""
    one, other = ({run.seed: run for run in cell.runs if run.seed in seeds} for cell in (a, b))
    return bool(seeds) and all(
        one[seed].value == other[seed].value and _learned(one[seed]) == _learned(other[seed])
        for seed in seeds
    )


def _learned(run: Run) -> Any:
    """All numbers of a run that its clock has no part in."""
    record = run.record or {}
    curves = {k: v for k, v in (record.get("curves") or {}).items() if not k.endswith("_s")}
    return record.get("metrics"), curves, record.get("audit") or {}


def _changes(a: Cell, b: Cell) -> Iterable[Change]:
    others = {run.seed: run for run in b.runs if run.record}
    for run in a.runs:
        other = others.get(run.seed)
        if run.record and other and run.status != other.status:
            bad = other if other.status != "ok" else run
            yield Change(run.seed, run.status, other.status, first_line(bad.reason))


def _settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterable[Setting]:
    one, other = flat(a), flat(b)
    for name in dict.fromkeys([*one, *other]):
        if name != "seed" and (name in one, one.get(name)) != (name in other, other.get(name)):
            texts = [setting_text(s[name]) if name in s else "not there" for s in (one, other)]
            yield Setting(name, *texts)


def _environment(pairs: Sequence[Pair]) -> tuple[Setting, ...]:
    """Fields of the environment whose values differ between the records of both sides."""
    values: list[dict[str, dict[str, None]]] = [{}, {}]
    for pair in pairs:
        for side, cell in zip(values, (pair.a, pair.b), strict=True):
            for run in cell.runs if cell else ():
                facts = flat((run.record or {}).get("environment") or {})
                for name, value in facts.items():
                    if not name.startswith("slurm"):
                        side.setdefault(name, {})[setting_text(value)] = None
    names = {*values[0], *values[1]}
    ordered = [name for name in ENVIRONMENT if name in names]
    ordered += sorted(names - {*ordered})
    found = []
    for name in ordered:
        one, other = (sorted(side.get(name, {"not recorded": None})) for side in values)
        if one != other:
            label = name.removeprefix("packages.").replace("git_commit", "commit")
            label = label.replace("git_dirty", "uncommitted changes")
            found.append(Setting(label, _listed(one, name), _listed(other, name)))
    return tuple(found)


def _listed(values: Sequence[str], name: str) -> str:
    texts = [value[:12] if name == "git_commit" else value for value in values]
    more = f" and {len(texts) - MOST_VALUES} more" if len(texts) > MOST_VALUES else ""
    return "; ".join(texts[:MOST_VALUES]) + more


# ------------------------------------------------------------------------ in words, for any output


def summary(comparison: Comparison) -> str:
    """'38 cells compared: 2 differ, 36 with no difference seen; 1 seed ended otherwise.'"""
    n = comparison.counts
    words = {
        DIFFERS: "{} {differ}", UNSEEN: "{} with no difference seen", SAME: "{} with the same bits",
        FEW: "{} with too few seeds to say",
    }  # fmt: skip
    parts = [
        words[v].format(n[v], differ="differs" if n[v] == 1 else "differ")
        for v in COMPARED if v in n
    ]  # fmt: skip
    compared = sum(n.get(v, 0) for v in COMPARED)
    text = f"{plural(compared, 'cell')} compared" + (f": {', '.join(parts)}" if parts else "")
    if comparison.changed:
        text += f"; {plural(len(comparison.changed), 'run')} ended otherwise"
    rest = [f"{n[v]} {v}" for v in (*RESULT_IN.values(), NO_VALUE, *ONLY.values()) if v in n]
    return text + (f"; {', '.join(rest)}" if rest else "") + "."


def about(side: Side) -> str:
    """'results/runs, profile quick, 57 records, the newest of 2026-03-01 10:02 UTC'."""
    n = sum(run.record is not None for _, _, run in side.table.runs)
    profile = side.table.plan["profile"]
    parts = [side.source.text] + [f"profile {profile}"] * bool(profile) + [plural(n, "record")]
    if side.table.newest:
        parts.append(f"the newest of {when(side.table.newest)}")
    return ", ".join(parts)


def notes(comparison: Comparison) -> list[str]:
    """What else a reader has to know, in sentences."""
    shared = comparison.shared
    found = []
    for test, why in (
        (WELCH, "the seeds with a value are not the same"),
        (STUDENT, "one side has fewer than three seeds"),
    ):
        pairs = [pair for pair in shared if pair.difference and pair.difference.test == test]
        if pairs:
            n = plural(len(pairs), "cell")
            found.append(f"{n} by {test}'s test, since {why}: {_names(pairs)}.")
    sources = [pair for pair in shared if pair.other_sources]
    if sources:
        found.append(
            f"{len(sources)} of {plural(len(shared), 'cell')} made by sources that differ: "
            f"{_names(sources)}."
        )
    for side in (comparison.a, comparison.b):
        if side.ignored:
            found.append(
                f"{plural(side.ignored, 'record')} of audits or costs left out of "
                f"{side.source.name}: those need the plan of their suite."
            )
        if side.also:
            other = "B" if side.source.name == "A" else "A"
            found.append(
                f"{side.source.name} also holds {plural(side.also, 'cell')} of {other}'s request, "
                f"which its own latest one is not about: --cells-of {other} compares those."
            )
    rates = sorted(pair.rate for pair in shared if pair.rate)
    if rates:
        middle = (rates[(len(rates) - 1) // 2] + rates[len(rates) // 2]) / 2
        found.append(
            f"Training rate of B over that of A: {middle:.2f} in the median cell, {rates[0]:.2f} "
            f"to {rates[-1]:.2f}; not tested, and cells may have run side by side."
        )
    return found


def _names(pairs: Sequence[Pair], most: int = 6) -> str:
    names = [pair.name for pair in pairs]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def places_text(places: Sequence[str], n_shared: int) -> str:
    """Where a setting differs: 'all cells', or the first of them."""
    if len(places) == n_shared and n_shared > 1:
        return f"all {n_shared} cells"
    most = 4
    more = f" and {len(places) - most} more" if len(places) > most else ""
    return ", ".join(places[:most]) + more


def mean_text(value: Estimate | None, metric: str) -> str:
    """A mean: two decimals of a percentage, three digits of anything else."""
    if value is None:
        return number(None)
    return f"{value.mean:.2f}" if metric.endswith("_pct") else number(value.mean)


def shift_text(pair: Pair, metric: str) -> str:
    """'+0.33 ± 0.20'; the difference alone where there is no interval, or nothing to doubt."""
    if pair.shift is None:
        return number(None)
    tested = pair.difference if pair.verdict != SAME else None
    half = tested.half_width if tested else None
    if metric.endswith("_pct"):
        return signed(pair.shift, 2) + ("" if half is None else f" ± {half:.2f}")
    sign = "+" if pair.shift > 0 else MINUS if pair.shift < 0 else ""
    text = sign + number(abs(pair.shift))
    return text if half is None else f"{text} ± {number(half)}"


def p_text(value: float | None) -> str:
    if value is None:
        return number(None)
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def effect_text(pair: Pair) -> str:
    """Hedges' g; an effect without any spread has no size."""
    if pair.difference is None:
        return number(None)
    return "∞" if pair.difference.effect is None else signed(pair.difference.effect, 1)
