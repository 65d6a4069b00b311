"""The options of `suites.run` and `suites.submit`, and the request that they stand for."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from methods import METHODS, PluginError
from methods.base import resolve_config
from results import tuned
from results.tuned import Tuned, TunedError
from slurm.queue import SlurmError
from slurm.site import SiteError
from suites.catalogue import SUITES, add_from, published_by
from suites.command import add_results_dir
from suites.engine.architectures import ARCHITECTURES
from suites.engine.datasets import DatasetError
from suites.engine.execution import CHOICES
from suites.engine.plugins import load_methods
from suites.images import folders, sample
from suites.request import Request, expand
from suites.suite import RequestError, Suite, check, check_types, choose, rows_of
from suites.transfer import weights
from suites.transfer.weights import WeightsError

MOST_CLASSES, MOST_IMAGES = 10, 20  # of an open class folder, and of each class
# what a request may be refused by, in one line and before any work
REFUSALS = (
    RequestError, PluginError, DatasetError, WeightsError, SiteError, SlurmError, TunedError,
)  # fmt: skip
SAMPLE = "class-folder"  # in the results, of photographs that stand in for others
UNTUNED = "none"  # in place of a file of tuned values
# from options, their text, methods of the user's own and a device to what is asked for
Resolve = Callable[[argparse.Namespace, str, Sequence[str], str], Request]


def add_what(p: argparse.ArgumentParser) -> None:
    """Adds the suite, and what of it is wanted."""
    what = add_places(p)
    what.add_argument(
        "--sources", nargs="+", metavar="NAME",
        help="of transfer: the datasets that are learned on, instead of the profile's",
    )  # fmt: skip
    what.add_argument(
        "--finetune", nargs="+", choices=("none", "itself", "backprop"), metavar="HOW",
        help="of transfer: none (the network stands still and is read by probes), or fine-tuned on "
        "the target, by its own method (itself) or by backprop; instead of the profile's",
    )  # fmt: skip
    what.add_argument(
        "--weights", metavar="FILE",
        help="of transfer: a state dict of torchvision for the architecture, in place of training "
        "on the source; `torchvision` for the one in torch's cache",
    )  # fmt: skip
    what.add_argument("--seeds", type=int, metavar="N", help="how many, from 0 (default: profile)")
    what.add_argument(
        "--tuned", metavar="FILE",
        help="hyper-parameters that suites.tune chose, for the places that FILE has; `none`: "
        "default settings, where the profile has tuned ones",
    )  # fmt: skip
    what.add_argument(
        "--audit",
        action="store_true",
        help="also measure how far each method's training signals travel, and show it",
    )


def add_places(p: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds the suite, and which places of its table are wanted; returns the group for more."""
    p.add_argument("suite", nargs="?", help=f"what to compare: {', '.join(SUITES)}")
    p.add_argument(
        "--list",
        action="store_true",
        help="show suites, profiles, methods, datasets and architectures, and stop",
    )
    what = p.add_argument_group("what is compared")
    what.add_argument(
        "--profile",
        metavar="NAME",
        help="budget: quick (minutes, laptop, embedded data; the default, where a suite has it); "
        "most suites have standard (one GPU) and paper (the published budgets), table1 has small "
        "(2 cores): --list tells what each is",
    )
    what.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="rows of the table: a method, or one variant of it (greedy-sim)",
    )
    what.add_argument("--datasets", nargs="+", metavar="NAME", help="instead of the profile's")
    what.add_argument("--architectures", nargs="+", metavar="NAME", help="likewise")
    what.add_argument(
        "--only", nargs="+", default=[], metavar="KEY",
        help="of all these cells those whose keys begin so, as --dry-run and the page show them",
    )  # fmt: skip
    what.add_argument("--epochs", type=int, metavar="N", help="instead of the profile's")
    what.add_argument(
        "--precision",
        metavar="NAME",
        help="of products: float32, or bf16 (automatic mixed precision), instead of the profile's",
    )
    what.add_argument(
        "--execution",
        nargs="+",
        metavar="NAME",
        help="choices that change speed, memory and rounding: "
        + "; ".join(f"{name} ({meaning})" for name, meaning in CHOICES.items()),
    )
    what.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.py",
        help="a file that registers methods of your own, or defines a SUITE; may be repeated",
    )
    return what


def add_how(p: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds how it is run, as far as that is the same everywhere; returns the group for more."""
    how = p.add_argument_group(
        "how it is run", "Not part of a result's key; threads may change the last digits."
    )
    how.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="where datasets lie, in torchvision's layout"
    )
    how.add_argument(
        "--download", action="store_true", help="fetch missing datasets into --data-dir first"
    )
    how.add_argument(
        "--checkpoint-every",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="training time between two checkpoints of a cell (default: 30)",
    )
    how.add_argument(
        "--ranks",
        type=int,
        default=1,
        metavar="N",
        help="processes that train a cell together, each on its part of every mini-batch and on a "
        "GPU of its own where there are GPUs (default: 1)",
    )
    how.add_argument("--dry-run", action="store_true", help="show what would be trained, and stop")
    how.add_argument(
        "--fresh",
        action="store_true",
        help="train again what is on record; old records are kept as superseded",
    )
    return how


def add_where(p: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds where results and pages go; returns the group for more."""
    out = p.add_argument_group("where results go")
    add_results_dir(out)
    out.add_argument(
        "--report-dir",
        type=Path,
        default=Path("reports/out"),
        metavar="DIR",
        help="pages and tables (default: reports/out)",
    )
    return out


# ------------------------------------------------------------------- from options to a request


def resolve(
    args: argparse.Namespace, command: str, extra_methods: Sequence[str], device: str
) -> Request:
    """The request that the arguments stand for. Raises RequestError, TunedError, PluginError."""
    suite = suite_of(args)
    if args.weights is not None:
        if suite.kind != "transfer" or len(args.architectures or ()) != 1:
            raise RequestError(
                "--weights is for transfer, and for one network: table3 --architectures NAME"
            )
        choose("architecture", args.architectures, list(ARCHITECTURES))
        args.weights = weights.find(args.weights, args.architectures[0])
        weights.read(args.weights, args.architectures[0])
    values = tuned_values(args.tuned, suite, args.profile, args.methods)
    request = expanded(args, suite, command, extra_methods, device, values)
    if values and args.tuned and not request.plan["tuned"]:
        raise RequestError(
            f"--tuned {args.tuned} has nothing for these rows on these datasets and architectures; "
            f"it has {', '.join(dict.fromkeys(' on '.join(e.place[:2]) for e in values.entries))}"
        )
    rows = {row["id"] for row in request.plan["rows"]}
    request.plan["published"] = [n for n in published_by(args.plugin) if n["row"] in rows]
    return request


def expanded(
    args: argparse.Namespace,
    suite: Suite,
    command: str,
    extra_methods: Sequence[str],
    device: str,
    values: Tuned | None = None,
) -> Request:
    """What a suite and the arguments expand to, with these tuned values. Raises RequestError."""
    return expand(
        suite,
        args.profile,
        command,
        methods=args.methods,
        datasets=args.datasets,
        sources=args.sources,
        tunings=args.finetune,
        weights="" if args.weights is None else weights.digest(args.weights),
        architectures=args.architectures,
        seeds=args.seeds,
        epochs=args.epochs,
        precision=args.precision,
        execution=args.execution,
        extra_methods=extra_methods,
        audit=args.audit,
        device=device,
        tuned=values,
    )


def narrowed(request: Request, keys: Sequence[str]) -> Request:
    """The request with the same plan, of which only cells whose keys begin so are run.

    Raises:
        RequestError: no cell has such a key.
    """
    if not keys:
        return request
    for key in keys:
        if not key or not any(w.cell.key.startswith(key) for w in request.wanted):
            raise RequestError(
                f"--only {key or repr(key)}: no cell of this request has a key that begins so; "
                "--dry-run without --only lists them"
            )
    wanted = tuple(w for w in request.wanted if w.cell.key.startswith(tuple(keys)))
    return dataclasses.replace(request, wanted=wanted)


def load(args: argparse.Namespace) -> list[str]:
    """Loads all methods and suites, the user's too; the names of methods that are not ours.

    Raises:
        PluginError: a file that cannot be used.
    """
    extra = load_methods(args.plugin)
    add_from(args.plugin)
    return extra


def suite_of(args: argparse.Namespace) -> Suite:
    """The suite that is asked for. Raises RequestError, also for rows that it does not have."""
    if args.suite is None:
        raise RequestError("say which suite to run, e.g. table1, or --list")
    suite = SUITES[choose("suite", [args.suite], list(SUITES))[0]]
    check(suite)
    if args.profile is None:
        args.profile = "quick" if "quick" in suite.profiles else next(iter(suite.profiles))
    if args.datasets is None:
        suite = of_class_folder(suite, args)
    check_rows(args.methods or (), suite)
    return suite


def tuned_values(
    wanted: str | None, suite: Suite, profile_name: str, methods: Sequence[str] | None
) -> Tuned | None:
    """The tuned values that go over a profile's settings: the user's, its own, or none.

    Args:
        wanted: a file, or UNTUNED; None for what the profile has.
        methods: rows and methods that were asked for; None for all.

    Raises:
        TunedError: the file is none of this suite's.
        RequestError: it has values for what is not known here, or budgets that are not equal, or
            the suite trains nothing.
    """
    if wanted is None:
        profile = suite.profiles.get(profile_name)
        found = tuned.committed(suite.name, profile_name) if profile and profile.tuned else None
    else:
        if suite.kind != "train":
            raise RequestError(f"--tuned is for training, which {suite.name!r} is not about")
        found = None if wanted == UNTUNED else tuned.for_suite(Path(wanted), suite.name)
    if found is not None:
        if methods is not None:  # what nobody asks for may be of a file that is not here
            kept = (e for e in found.entries
                    if e.method in METHODS or {e.row, e.method} & {*methods})  # fmt: skip
            found = dataclasses.replace(found, entries=tuple(kept))
        for entry in found.entries:
            _check_values(entry, found.path)
        _check_budgets(found)
    return found


def _check_budgets(values: Tuned) -> None:
    """Raises RequestError where one method was tuned with more points than another."""
    first: dict[tuple[str, str], tuned.Chosen] = {}
    for entry in values.entries:
        other = first.setdefault((entry.dataset, entry.architecture), entry)
        if other.points != entry.points:
            raise RequestError(
                f"{values.path}: on {entry.dataset}, {entry.architecture}, {other.row} was tuned "
                f"with {other.points} points and {entry.row} with {entry.points}: tune all methods "
                "with equal --points, or keep apart by --write what is not to be compared"
            )


def _check_values(entry: tuned.Chosen, path: Path) -> None:
    """Raises RequestError for a method that is not known, or for settings that it does not have."""
    if entry.method not in METHODS:
        raise RequestError(
            f"{path} has values for method {entry.method!r}, which is not known here: a method of "
            "your own needs --plugin FILE.py"
        )
    try:
        resolve_config(METHODS[entry.method], entry.settings)
        check_types(entry.settings, dataclasses.asdict(METHODS[entry.method].Config()))
    except (TypeError, ValueError) as error:
        raise RequestError(f"{path}, values of {entry.row!r}: {error}") from None


def of_class_folder(suite: Suite, args: argparse.Namespace) -> Suite:
    """The suite with the photographs that --data-dir names, where its profile leaves them open.

    Where none is named, `args.data_dir` becomes a folder for a few, see `make_sample`.

    Raises:
        RequestError: there is not one class folder.
    """
    profile = suite.profiles.get(args.profile)
    if profile is None or not profile.folder:
        return suite
    if args.data_dir is None:
        args.data_dir = args.results_dir / SAMPLE
        folder, n_classes = sample.NAME, sample.CLASSES
    else:
        folder, n_classes = folders.only_one(args.data_dir)
    name = f"{folder}-{profile.folder}-c{min(n_classes, MOST_CLASSES)}-n{MOST_IMAGES}"
    profile = dataclasses.replace(profile, datasets=(name,))
    return dataclasses.replace(suite, profiles={**suite.profiles, args.profile: profile})


def make_sample(args: argparse.Namespace) -> None:
    """Says where photographs come from that nobody named, and makes them unless in a dry run.

    Raises:
        RequestError: they cannot be made.
    """
    if args.data_dir is None or args.data_dir != args.results_dir / SAMPLE:
        return
    sys.stdout.write(
        "no --data-dir: handwritten digits, enlarged, saved as JPEG files in "
        f"{args.data_dir / sample.NAME}, stand in for photographs\n"
    )
    if not args.dry_run:
        try:
            sample.make(args.data_dir)
        except OSError as error:
            raise RequestError(f"{args.data_dir} cannot be made: {error.strerror}") from None


def check_rows(names: Sequence[str], suite: Suite) -> None:
    """Raises RequestError for a row that only another suite has, with its settings."""
    here = {name for row in rows_of([*suite.methods, *METHODS]) for name in (row.id, row.method)}
    for name in names:
        for other in SUITES.values():
            if name not in here and name in {row.id for row in rows_of(other.methods)}:
                raise RequestError(
                    f"{name!r} is a row of suite {other.name!r}, not of {suite.name!r}: "
                    f"python -m suites.run {other.name} --methods {name}"
                )
