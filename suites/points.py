"""The points that are tried of a search space: the same of one sequence for every method.

A point is a corner of a unit cube; a method's n-th field takes its n-th coordinate. The sequence is
Sobol's, with Owen's nested scrambling, whose coins are hashes of what they decide over: so no point
depends on how many are asked for, on how many coordinates are used, or on a library's generator of
random numbers. A method, a hyper-parameter at the end of a space, or more points shift nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from methods.space import Range
from suites.engine.seeds import derive_seed

BITS = 30  # of a coordinate, as scipy's Sobol has them
COLUMNS = 32  # the most fields that a space may have


@functools.cache
def coordinates(n: int) -> tuple[tuple[float, ...], ...]:
    """The first n points of the sequence, COLUMNS coordinates in [0, 1) each."""
    # half a second that a look at --help need not wait for
    from scipy.stats.qmc import Sobol

    power = max(1, n - 1).bit_length()
    plain = Sobol(COLUMNS, scramble=False).random_base2(power)[:n]
    return tuple(
        tuple(_scrambled(round(u * 2**BITS), column) / 2**BITS for column, u in enumerate(point))
        for point in plain.tolist()
    )


def _scrambled(bits: int, column: int) -> int:
    """Owen's scrambling: each bit is turned by a coin that the column and the bits above it name.

    Source: Owen 1995, "Randomly permuted (t, m, s)-nets and (t, s)-sequences".
    """
    found = 0
    for left in reversed(range(BITS)):
        above, bit = bits >> (left + 1), bits >> left & 1
        found = found << 1 | bit ^ _coin(column, left, above)
    return found


def _coin(column: int, left: int, above: int) -> int:
    return derive_seed("tuning", column, left, above) & 1


def settings(
    space: Mapping[str, Range], n: int, fixed: Mapping[str, Any], start: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What each of n points sets, the row's own settings first.

    They stand in place of the first point: so what is chosen is never worse, on the validation
    split, than what was not tuned.

    Args:
        space: field -> range, in the order of the method, which gives each field its coordinate.
        fixed: settings that make the row what it is; they keep their coordinate, and are not tuned.
        start: the whole configuration that the row has untuned.

    Returns:
        Field -> value, of the fields that are tuned; n of them.
    """
    fields = [(i, name) for i, name in enumerate(space) if name not in fixed]
    found = [{name: start[name] for _, name in fields}]
    for point in coordinates(n)[1:]:
        found.append({name: space[name].at(point[i]) for i, name in fields})
    return found
