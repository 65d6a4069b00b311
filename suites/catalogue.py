"""All suites, in the order of help texts. A new one is imported and listed here.

A suite can also come with a file of the user's, as a method can.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from methods import PluginError, plugin
from reports.plan import TUNING
from suites import (
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
from suites.suite import Suite

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
