"""Published claims beside our numbers: reached or not, by a rule that the page states."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from scipy.special import stdtrit

from reports.formatting import plural
from reports.statistics import Estimate
from reports.table import Cell, Claim, Column, Published, Row

NOT_RUN = "not run as published"
UNTOLD = "cannot be told"
VERDICTS = ("reached", "not reached", UNTOLD, "protocol unknown", NOT_RUN)
MOST_ALLOWED = 1.0  # percentage points: who may lack more by chance has shown nothing
RULE = (
    "reached: the mean of our seeds, in at most the published epochs, is at least the published "
    "value less half a unit of its last printed digit and less what chance allows: the 97.5 % "
    "quantile of Student's t for the difference, times √(s²/n + p²). s is the standard deviation "
    "over our n seeds, at least that of rounding to whole images, or that of the share of right "
    "answers on a test set of this size while there are fewer than three seeds; p is the "
    "published spread, or s where none is printed.",
    "not reached: our mean is lower, or a run of ours diverged, on the same network, under the "
    "published protocol (profile paper of the suite named after the source, untuned) and with the "
    "published epochs.",
    f"cannot be told: our mean is lower, and chance allows it to be lower by more than "
    f"{MOST_ALLOWED:g} percentage point: seeds, ours or the published ones, differ too much.",
    "protocol unknown: the source, as far as it could be read, does not say on which network, for "
    "how many epochs or, where ours were augmented, with which augmentation; the difference is "
    "shown, but says little.",
    "not run as published: not all seeds of this method on this data and network are finished "
    "here by today's sources, or its network is matched with none of ours, or there is only a run "
    "with another augmentation, in bfloat16, a longer one, or one under another protocol that did "
    "not reach the value.",
)


def claim_of(
    number: Published,
    row: Row,
    dataset: str,
    column: Column | None,
    cell: Cell | None,
    suite: str = "",
    profile: str = "",
    tuned: bool = False,
) -> Claim:
    """A published number with our verdict.

    Args:
        column, cell: the place in the table of the same network; None where the table has none.
        suite, profile: what the table is of; they decide whether a shortfall says anything.
        tuned: whether the settings are tuned ones, and not the source's.
    """
    ours = None if cell is None else _ours(number, cell)
    published_protocol = (suite, profile, tuned) == (number.suite, "paper", False)
    verdict, why = _verdict(number, column, cell, ours, published_protocol)
    difference = None if ours is None else ours.mean - number.accuracy_pct
    return Claim(
        number.accuracy_pct, number.decimals, number.std, number.std_kind, number.epochs,
        number.source, difference, row=row.id, dataset=dataset,
        column=column.id if column else None, readout=number.readout, network=number.network,
        note=number.note, verdict=verdict, why=why,
    )  # fmt: skip


def _ours(number: Published, cell: Cell) -> Estimate | None:
    """Our result by the readout that the claim is about."""
    if not number.readout:
        return cell.estimate
    return cell.readouts.get("test", {}).get(number.readout)


def _verdict(
    number: Published,
    column: Column | None,
    cell: Cell | None,
    ours: Estimate | None,
    published_protocol: bool,
) -> tuple[str, str]:
    if not number.architecture:
        if "not stated" in number.network or "unknown" in number.network:
            return "protocol unknown", "network not stated"
        return NOT_RUN, "its network is matched with none of ours"
    if column is None or cell is None:
        return NOT_RUN, f"{number.architecture} is not in this table"
    # divergence is an end: a rule that loses some of its seeds has not reached what none lost
    ended = bool(cell.runs) and all(run.status in ("ok", "diverged") for run in cell.runs)
    diverged = ended and any(run.status == "diverged" for run in cell.runs)
    if not diverged and (ours is None or cell.state != "ok"):  # some seeds of several are no result
        return NOT_RUN, cell.reason or cell.state
    if cell.n_stale:
        return NOT_RUN, "the records were made by older sources"
    budget = re.fullmatch(r"(\d+)(?: \(.*\))?", number.epochs)  # "200 (50 per layer)"
    if budget is None:
        return "protocol unknown", f"epochs: {number.epochs or 'not stated'}"
    augmentation = str(column.protocol.get("augmentation", "none"))
    if not number.augmentation and augmentation != "none":
        return "protocol unknown", f"augmentation {augmentation} here, not stated there"
    if number.augmentation and number.augmentation != augmentation:
        return NOT_RUN, f"augmentation {augmentation} here, {number.augmentation} published"
    precision = str(column.protocol.get("precision", "float32"))
    if precision != "float32":
        return NOT_RUN, f"in {precision}; papers that name no precision are taken to mean float32"
    epochs, published = epochs_run(cell, column), int(budget[1])
    allowed = lacking = math.nan
    if ours is not None and not diverged:
        allowed = tolerance(number, ours, test_images(cell))
        lacking = number.accuracy_pct - half_digit(number) - ours.mean
        by_chance = lacking <= allowed <= MOST_ALLOWED
        if (lacking <= 0 or by_chance) and epochs <= published:
            return "reached", f"allowed difference {allowed + half_digit(number):.2f}"
    if epochs != published:
        return NOT_RUN, f"{plural(epochs, 'epoch')} here, {published} published"
    if not published_protocol:
        where = f"suite {number.suite}, profile paper" if number.suite else "no suite here has it"
        return NOT_RUN, f"another protocol; the published one: {where}"
    if diverged:
        return "not reached", cell.reason or cell.state
    told = f"allowed difference {allowed + half_digit(number):.2f}"
    return (UNTOLD if lacking <= allowed else "not reached"), told


def epochs_run(cell: Cell, column: Column) -> int:
    """Epochs that the cell's records were trained for."""
    found = [
        (run.record or {})["cell"].get("protocol", {}).get("epochs") for run in cell.runs
        if run.record
    ]  # fmt: skip
    known = [e for e in found if isinstance(e, int)]
    return max(known, default=int(column.protocol.get("epochs") or 0))


def half_digit(number: Published) -> float:
    """What rounding may have added to the published value: half a unit of its last digit."""
    return 0.5 * 10**-number.decimals


def tolerance(number: Published, ours: Estimate, n_test: int) -> float:
    """What chance allows ours to lack of the published value, in percentage points.

    Degrees of freedom are those of our spread's share in the variance (Welch-Satterthwaite), the
    published spread being taken as known.
    """
    over_seeds = ours.std if ours.n >= 3 else None
    if over_seeds is not None:
        spread = max(over_seeds, 100 / n_test / math.sqrt(12))
    else:
        share = min(max(ours.mean / 100, 0.0), 1.0)
        spread = 100 * math.sqrt(share * (1 - share) / n_test)
    if number.std is None:
        variance = own = spread**2 * (1 / ours.n + 1)
    else:
        own = spread**2 / ours.n
        variance = own + number.std**2
    if not variance:
        return 0.0
    df = (ours.n - 1) * (variance / own) ** 2 if over_seeds is not None and own else math.inf
    return float(stdtrit(df, 0.975)) * math.sqrt(variance)


def test_images(cell: Cell) -> int:
    """Size of the test set behind the cell's headline."""
    for run in cell.runs:
        for readout in ((run.record or {}).get("metrics") or {}).get("test", {}).values():
            if readout.get("n"):
                return int(readout["n"])
    return 10_000


def summary(claims: Sequence[Claim]) -> list[tuple[str, int]]:
    """(verdict, how many claims), in the order of the verdicts."""
    return [(v, sum(c.verdict == v for c in claims)) for v in VERDICTS]
