"""Suites: named sets of cells, and the profiles that scale them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from methods import METHODS
from methods.base import resolve_config
from methods.space import Range, check_space
from results.command import closest
from suites.engine.architectures import ARCHITECTURES
from suites.engine.cell import Kind, Protocol
from suites.engine.datasets import DATASETS

MOST_NAMED = 12  # in a message of one line


class RequestError(Exception):
    """A request that cannot be met: one line that says what, where, and how to mend it."""


@dataclass(frozen=True)
class Row:
    """One row of a table: a method, one variant of it, or one with settings of the suite's own."""

    id: str
    label: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    # ranges to tune in, in place of the method's, where the settings make others right
    space: Mapping[str, Range] = field(default_factory=dict, hash=False)

    def spaces(self) -> dict[str, Range]:
        """Every range of the method, in its order, as this row has it."""
        return {**METHODS[self.method].space, **self.space}


ByPlace = Callable[[str, str, str], Any]  # of row id, dataset, architecture


def _nothing(row: str, dataset: str, architecture: str) -> dict[str, Any]:
    return {}


def everywhere(row: str, dataset: str, architecture: str) -> bool:
    """A table without gaps."""
    return True


@dataclass(frozen=True)
class Profile:
    """A budget of a suite.

    Attributes:
        note: one sentence for the page.
        protocol: (dataset, architecture) -> what is held equal between methods there; where it is
            more than one protocol, each has a column of its own.
        settings: (row id, dataset, architecture) -> hyper-parameters of that row there, over
            those of the row itself; all else is the method's default.
        budget: (row id, dataset, architecture) -> fields of the protocol that this row has of its
            own, as papers do that train one method longer than another. The page lists them.
        wanted: (row id, dataset, architecture) -> whether the table has this place; a column
            without any is left out.
        methods: the part of the suite's rows that this budget is for; None for all of them.
        folder: "64px-jpeg" for the class folder that --data-dir names, at this size, in place of
            datasets; where none is named, one of handwritten digits is made.
        tuned: whether the values that `suites.tune` chose, and that come with this version
            (results/tuned/<suite>-<profile>.json), go over the settings where there are some.
    """

    note: str
    datasets: tuple[str, ...]
    architectures: tuple[str, ...]
    seeds: int
    protocol: Callable[[str, str], Protocol | Sequence[Protocol]]
    settings: ByPlace = _nothing
    budget: ByPlace = _nothing
    wanted: ByPlace = everywhere
    methods: tuple[str | Row, ...] | None = None
    folder: str = ""
    tuned: bool = False


@dataclass(frozen=True)
class Suite:
    """A named set of cells, with the table it is read by.

    Attributes:
        methods: in the order of the table's rows: names of methods (one with variants gives one
            row each) and rows with settings of their own. Methods that the user brings are added
            below them.
        kind: what is done with a cell: "train" it, "audit" the locality of its method, or measure
            what it "cost"s, or what its features are worth elsewhere ("transfer").
        headline: the number that the table shows.
        comparisons: pairs of rows whose speeds the page compares in words.
        top5: whether the page shows how often the right class is among the best five.
    """

    name: str
    title: str
    methods: tuple[str | Row, ...]
    profiles: Mapping[str, Profile]
    kind: Kind = "train"
    headline: Mapping[str, str] = field(
        default_factory=lambda: {"split": "test", "metric": "accuracy_pct"}
    )
    comparisons: tuple[tuple[str, str], ...] = ()
    top5: bool = False


def check(suite: Suite) -> None:
    """Proves that a suite's own names and settings are right, in all its profiles.

    Raises:
        RequestError: what its author has to mend.
    """
    for name, profile in suite.profiles.items():
        for kind, names, known in (
            ("dataset", profile.datasets, DATASETS),
            ("architecture", profile.architectures, ARCHITECTURES),
        ):  # fmt: skip
            if isinstance(names, str):
                raise RequestError(
                    f"suite {suite.name!r}, profile {name!r}: {kind}s must be a tuple of names, "
                    f"as in ({names!r},)"
                )
            choose(kind, [n for n in names if not known.knows(n)], list(known))
    listed = [suite.methods, *(p.methods for p in suite.profiles.values() if p.methods)]
    for rows in map(rows_of, listed):
        for row in rows:
            where = f"suite {suite.name!r}, row {row.id!r}"
            choose("method", [row.method], list(METHODS))
            if sum(other.id == row.id for other in rows) > 1:
                raise RequestError(f"{where}: two rows have this id")
            if sum(other.label == row.label for other in rows) > 1:
                raise RequestError(f"{where}: two rows have the label {row.label!r}")
            try:
                resolve_config(METHODS[row.method], row.settings)
                defaults = dataclasses.asdict(METHODS[row.method].Config())
                check_types(row.settings, defaults)
                check_space("its space", row.space, defaults)
            except (TypeError, ValueError) as error:
                raise RequestError(f"{where}: {error}") from error
            if fixed := [field for field in row.space if field in row.settings]:
                raise RequestError(f"{where}: its settings fix {fixed[0]!r}, which its space tunes")


def check_types(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raises TypeError for a number, word or yes-or-no in place of another of these."""
    for name, value in settings.items():
        kind = type(defaults[name])
        allowed = (int, float) if kind is float else (kind,)
        if kind in (int, float, str, bool) and type(value) not in allowed:
            raise TypeError(
                f"{name!r} is {value!r}, and must be of the type of its default, {defaults[name]!r}"
            )


def rows_of(methods: Iterable[str | Row]) -> list[Row]:
    """The rows that methods give: one, or one per variant. The id of a variant's row gives that.

    Raises:
        RequestError: a method that is not known, as where a suite names one of a plugin.
    """
    rows: list[Row] = []
    for name in methods:
        if isinstance(name, Row):
            rows.append(name)
        elif name in METHODS:
            rows += _rows_of_method(name)
        elif one := [row for m in METHODS for row in _rows_of_method(m) if row.id == name]:
            rows += one
        else:
            close = closest(str(name).lower(), [row.id for m in METHODS for row in rows_of([m])])
            hint = f"did you mean {close!r}? " if close else ""
            raise RequestError(
                f"method {name!r} of this suite is not known: {hint}a method of your own needs "
                "--plugin FILE.py"
            )
    return rows


def _rows_of_method(name: str) -> list[Row]:
    cls = METHODS[name]
    if not cls.variants:
        return [Row(name, cls.label, name, {})]
    return [
        Row(f"{name}-{suffix}", f"{cls.label} ({suffix})", name, settings)
        for suffix, settings in cls.variants.items()
    ]


def choose(kind: str, wanted: Sequence[str] | None, known: Sequence[str]) -> list[str]:
    """The wanted names, each once, in their own order; all known ones when none are named.

    Raises:
        RequestError: an unknown name, with the closest known one.
    """
    if wanted is None:
        return list(known)
    for name in wanted:
        if name not in known:
            close = closest(name.lower(), known, 0.5)
            hint = f"did you mean {close!r}? " if close else ""
            if kind in ("method", "suite"):
                hint += f"a {kind} of your own needs --plugin FILE.py; "
            listed = ", ".join(known) if len(known) <= MOST_NAMED else "see --list"
            raise RequestError(f"unknown {kind} {name!r}: {hint}known: {listed}")
    return list(dict.fromkeys(wanted))


def digits(
    architectures: tuple[str, ...],
    seeds: int = 3,
    epochs: tuple[int, int] = (30, 10),
    note: str = "it shows that everything works",
    **more: Any,
) -> Profile:
    """The profile `quick`: handwritten digits of 8x8 pixels, which come with the packages.

    Args:
        epochs: of fully connected networks, and of all others.
        more: further fields of the profile.
    """

    def protocol(dataset: str, architecture: str) -> Protocol:
        return Protocol(epochs=epochs[not architecture.startswith("mlp")], batch_size=64)

    return Profile(
        note=f"Handwritten digits of 8x8 pixels, minutes on a laptop: {note}.",
        datasets=("digits",),
        architectures=architectures,
        seeds=seeds,
        protocol=protocol,
        **more,
    )
