"""All suites, in the order of help texts. A new one is imported and listed here."""

from __future__ import annotations

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
