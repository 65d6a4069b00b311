"""Search spaces, and the points that are tried of them."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from methods import METHODS, PluginError, load_builtin, load_file
from methods.base import resolve_config
from methods.space import Choice, LogUniform, Range, Uniform
from suites import points, tune
from suites.catalogue import SUITES
from suites.engine import sources
from suites.refusals import why_not
from suites.suite import rows_of
from tests.methods import toy
from tests.test_sources import MEMBERS, plugin_sha
from tests.test_tune import refused

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
    return points.settings(cls.space, n, fixed, {"lr": 1e-3, "margin": 0.1, "k": 1})


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
    "make",
    [
        lambda: Uniform(1.0, 1.0),
        lambda: LogUniform(0.0, 1.0),
        lambda: LogUniform("1e-4", "1e-2"),  # type: ignore[arg-type]
        lambda: Choice(1),
    ],
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
        ('{"rate": LogUniform(1e-4, 1e-2)}', ["'rate'", "no setting", "lr"]),
        ('{"lr": Choice(0.1, 0.2)}', ["'lr'", "lacks the default, 0.001"]),
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
from methods.space import Choice, LogUniform

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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (('"mine", "Mine"', '"my rule", "Mine"'), "'my rule' is no name for a method"),
        (("Traits(True)", 'Traits(True, readouts="last")'), "readouts must be a tuple"),
        (("    {space}", "    space = {'lr': Choice((1e-3, 1e-2))}"), "each an argument"),
    ],
)
def test_declarations_that_would_mean_something_else(
    change: tuple[str, str], words: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.replace(*change).replace("{space}", ""))
    with pytest.raises(PluginError, match=words):
        load_file(tmp_path / "mine.py")


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


def test_a_table_and_published_numbers_beside_a_method_make_no_record_stale(
    tmp_path: Path,
) -> None:
    before = plugin_sha(tmp_path / "a.py", MEMBERS)
    for n, more in enumerate(('PUBLISHED = "98.7"', 'PUBLISHED = "98.8"', "SUITE = print()")):
        assert plugin_sha(tmp_path / f"{n}" / "a.py", f"{MEMBERS}\n{more}\n") == before
    assert plugin_sha(tmp_path / "b" / "a.py", f"{MEMBERS}\nRATE = 2\n") != before


def test_what_stands_beside_a_search_space_counts(tmp_path: Path) -> None:
    text = MEMBERS.replace("    rate = 0.1\n", '    rate = 0.1\n    space = {"a": 1}\n')
    before = plugin_sha(tmp_path / "a.py", text)
    for n, change in enumerate((("0.1", "0.2"), ("2 * x", "3 * x"), ("Traits(True)", "Traits(1)"))):
        assert plugin_sha(tmp_path / f"{n}" / "a.py", text.replace(*change)) != before


def test_a_class_of_a_search_space_alone() -> None:
    part = sources.parse("class A:\n    space = {}\n").definitions["A"]
    assert part.text == "class A:\n    pass"
    used = sources.used("train", METHODS["hff"]).values()
    assert "def as_dict" not in "\n".join(itertools.chain.from_iterable(used))
