"""Search spaces: from where to where a hyper-parameter is tuned, declared by the method.

    space: ClassVar = {"lr": LogUniform(1e-4, 1e-2), "margin": Uniform(0.0, 0.35)}

Keys are fields of the method's Config. Ranges turn a coordinate of [0, 1) into a value, so that all
methods can be given the same points of one sequence, whatever they tune. A field that is added goes
to the end: then the others keep their coordinates.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class Range(ABC):
    """The values that one hyper-parameter may take."""

    @abstractmethod
    def at(self, u: float) -> Any:
        """The value at a coordinate u in [0, 1); the values of all u are spread as the range says.

        Numbers have three significant digits: they are legible, and the same whatever the last
        bit of a machine's exponential, which would give another key.
        """

    @abstractmethod
    def holds(self, value: Any) -> bool:
        """Whether this value is one of the range."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """The range as data: its scale ("log", "linear", "choice"), and its ends or values."""


@dataclass(frozen=True, slots=True)
class Uniform(Range):
    """Evenly between two ends."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_ends(self)
        if not self.low < self.high or not math.isfinite(self.high - self.low):
            raise ValueError(
                f"Uniform({self.low}, {self.high}) is no range: the lower end is first"
            )

    def at(self, u: float) -> float:
        return _rounded(self.low + u * (self.high - self.low))

    def holds(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def as_dict(self) -> dict[str, Any]:
        return {"scale": "linear", "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True)
class LogUniform(Range):
    """Evenly on a logarithmic scale between two ends above 0."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_ends(self)
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(
                f"LogUniform({self.low}, {self.high}) is no range: the lower end, above 0, is first"
            )

    def at(self, u: float) -> float:
        return _rounded(self.low * (self.high / self.low) ** u)

    def holds(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def as_dict(self) -> dict[str, Any]:
        return {"scale": "log", "low": self.low, "high": self.high}


class Choice(Range):
    """One of several values, all alike; numbers in their order: Choice(0.0, 1e-5, 1e-4)."""

    def __init__(self, *values: Any) -> None:
        if len(values) < 2:
            raise ValueError(
                "a choice is between two values or more, each an argument: Choice(16, 32)"
            )
        self.values = values

    def at(self, u: float) -> Any:
        return self.values[int(u * len(self.values))]

    def holds(self, value: Any) -> bool:
        return value in self.values

    def as_dict(self) -> dict[str, Any]:
        return {"scale": "choice", "values": list(self.values)}


def check_space(of: str, space: object, defaults: Mapping[str, Any]) -> None:
    """Proves that a search space is ranges of some fields.

    Args:
        defaults: of all fields.

    Raises:
        ValueError: it is none; the message begins with what it is `of`.
    """
    if not isinstance(space, Mapping):
        raise ValueError(f"{of} must be a dictionary: field -> range")
    for name, values in space.items():
        if name not in defaults:
            raise ValueError(
                f"{of} has {name!r}, which is no setting; it has {', '.join(defaults)}"
            )
        if not isinstance(values, Range):
            raise ValueError(
                f"{of}[{name!r}] must be a LogUniform, Uniform or Choice of methods.space"
            )
        if type(defaults[name]) in (int, bool) and not isinstance(values, Choice):
            raise ValueError(
                f"{of}[{name!r}] gives fractions, and the default is {defaults[name]!r}: take a "
                "Choice of whole numbers"
            )


def _check_ends(span: Uniform | LogUniform) -> None:
    for end in (span.low, span.high):
        if not isinstance(end, int | float) or isinstance(end, bool):
            raise ValueError(f"{type(span).__name__}: a range has numbers as ends, not {end!r}")


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
