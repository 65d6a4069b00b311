"""The locality audit: what reaches an update, measured and not declared.

python -m suites.run audit                        every method, about five minutes on 2 CPU cores
python -m suites.run table1 --audit               the same columns beside a table of accuracies
"""

from __future__ import annotations

from suites.engine.cell import Protocol
from suites.suite import Profile, Suite
from suites.tables.table1 import SUITE as TABLE1

QUICK = Profile(
    note="Narrow networks and synthetic images of 16x16 pixels: what is measured belongs to the "
    "learning rule, not to the size of the network.",
    datasets=("synthetic",),
    architectures=("mlp-3x1000", "cnn-small", "resnet18"),
    seeds=1,
    protocol=lambda dataset, architecture: Protocol(epochs=1),
)

SUITE = Suite(
    name="audit",
    title="Locality audit",
    methods=TABLE1.methods,
    kind="audit",
    headline={"split": "audit", "metric": "chain_longest"},
    profiles={"quick": QUICK},
)
