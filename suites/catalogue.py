"""All suites, in the order of help texts. A new one is imported and listed here.

A suite can also come with a file of the user's, as a method can, and with them what was published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from methods import METHODS, PluginError, plugin
from reports.plan import TUNING
from results.published import lines_of
from suites.engine.architectures import ARCHITECTURES
from suites.engine.augmentation import AUGMENTATIONS
from suites.engine.datasets import DATASETS
from suites.images.names import CLASSES
from suites.suite import RequestError, Suite, choose, rows_of
from suites.tables import (
    ablation_hff,
    audit,
    ff_mnist,
    hff_table,
    layercnn_cifar,
    local_loss,
    noprop_table1,
    table1,
    table2,
    table3,
    table4,
)

SUITES: dict[str, Suite] = {
    module.SUITE.name: module.SUITE
    for module in (
        table1,
        table2,
        table3,
        table4,
        audit,
        ff_mnist,
        noprop_table1,
        local_loss,
        layercnn_cifar,
        hff_table,
        ablation_hff,
    )
}


def add_from(plugins: Sequence[Path | str]) -> None:
    """Adds the suites that files define as `SUITE`; most files define none.

    Raises:
        PluginError: a file that does not import, a SUITE that is none, or a name that is taken.
    """
    for path in plugins:
        suite = getattr(plugin(path), "SUITE", None)
        if suite is None:
            continue
        if not isinstance(suite, Suite):
            raise PluginError(f"plugin {path}: SUITE is no suites.suite.Suite")
        # files of results and pages are named so
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", suite.name) or suite.name.endswith(TUNING):
            raise PluginError(
                f"plugin {path}: {suite.name!r} is no name for a suite: small letters, digits and "
                f"hyphens, and not ending in {TUNING}"
            )
        if SUITES.setdefault(suite.name, suite) is not suite:
            raise PluginError(f"plugin {path}: there is a suite {suite.name!r} already")


def published_by(plugins: Sequence[Path | str]) -> list[dict[str, str]]:
    """The numbers that files define as `PUBLISHED`, in the form of results/published/accuracy.csv.

    To be called when all methods and suites are loaded.

    Raises:
        PluginError: a line that is none, or with a name that is not known here, which would
            silently stand beside nothing.
    """
    found = []
    for path in plugins:
        text = getattr(plugin(path), "PUBLISHED", "")
        if not isinstance(text, str):
            raise PluginError(f"plugin {path}: PUBLISHED is no text of lines")
        try:
            lines = lines_of(text)
            _check_names(lines)
        except (ValueError, RequestError) as error:
            raise PluginError(f"plugin {path}, PUBLISHED: {error}") from error
        found += lines
    return found


def _check_names(lines: Sequence[Mapping[str, str]]) -> None:
    """Raises RequestError for a published number with a name that is not known here."""
    if not lines:  # then other suites need not name known methods only
        return
    known = rows_of([*METHODS, *(m for suite in SUITES.values() for m in suite.methods)])
    traits = {row.id: METHODS[row.method].traits for row in known}
    for line in lines:
        choose("row", [line["row"]], sorted(traits))
        if line["architecture"] and not ARCHITECTURES.knows(line["architecture"]):
            choose("architecture", [line["architecture"]], list(ARCHITECTURES))
        if not DATASETS.knows(line["dataset"]) and line["dataset"] not in CLASSES:
            choose("dataset", [line["dataset"]], [*DATASETS, *CLASSES])
        for name, names in (
            ("readout", traits[line["row"]].readouts), ("augmentation", AUGMENTATIONS),
            ("suite", SUITES),
        ):  # fmt: skip
            if line[name]:
                choose(name, [line[name]], list(names))
        if line["suite"] and "paper" not in SUITES[line["suite"]].profiles:
            raise RequestError(
                f"suite {line['suite']!r} has no profile 'paper', whose runs would be held against "
                "its numbers: leave the suite out"
            )
