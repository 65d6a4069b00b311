"""Registries with a family: names that are registered, and names that say all there is to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar


class Named(Protocol):
    """What is registered under its own name."""

    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


class Registry(dict[str, T]):
    """Registered things by name; a name that is not makes one of the family, if it fits.

    Args:
        family: name -> the thing it describes, or None.
    """

    def __init__(self, things: Iterable[T], family: Callable[[str], T | None]) -> None:
        super().__init__()
        for thing in things:
            if self.setdefault(thing.name, thing) is not thing:
                raise ValueError(f"the name {thing.name!r} is registered twice")
        self._family = family

    def __missing__(self, name: str) -> T:
        found = self._family(name)
        if found is None:
            raise KeyError(name)
        return found

    def knows(self, name: str) -> bool:
        """Whether a thing of that name is registered, or one of the family."""
        return name in self or self._family(name) is not None
