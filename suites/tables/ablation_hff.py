"""Ablation of HFF: each choice that the paper leaves open is varied alone, around our defaults.

python -m suites.run ablation-hff                       quick: digits, CPU
python -m suites.run ablation-hff --profile standard    MNIST and CIFAR-10, one GPU, hours

The controls have HFF's loop without its parts: back-propagation has no local losses, Mono-Forward
no sphere, cosine Mono-Forward neither several prototypes nor a margin nor AuxConv.
"""

from __future__ import annotations

from suites.suite import Profile, Row, Suite, digits
from suites.tables.table1 import standard


def _row(suffix: str, label: str, **settings: object) -> Row:
    return Row(f"hff-{suffix}", f"HFF, {label}", "hff", settings)


CONTROLS = ("backprop", "mono-forward", "mono-forward-cosine")

CHOICES = (
    # T = 1 would be a sum over all wrong classes that no cosine can get below: no margin, no end
    _row("smooth", "smooth loss, T = 0.2", loss="smooth", temperature=0.2),
    _row("pairwise", "pairwise loss", loss="pairwise"),
    _row("margin-0", "margin 0", margin=0.0),
    _row("margin-0.2", "margin 0.2", margin=0.2),
    _row("margin-0.35", "margin 0.35", margin=0.35),
    _row("scale-4", "scale 4", scale=4.0),
    _row("scale-8", "scale 8", scale=8.0),
    _row("scale-32", "scale 32", scale=32.0),
    _row("scale-learned", "scale learned", learn_scale=True),
    _row("k1", "K = 1", prototypes=1),
    _row("k5", "K = 5", prototypes=5),
    _row("k10", "K = 10", prototypes=10),
    _row("separated", "separated start", start="separated"),
    _row("fixed", "fixed prototypes", learn_prototypes=False),
    _row(
        "fixed-separated",
        "fixed separated prototypes",
        learn_prototypes=False,
        start="separated",
    ),
    _row("between-none", "no normalisation", between="none"),
    _row("between-layer", "LayerNorm", between="layer"),
    _row("between-l2", "L2 norm", between="l2"),
    _row("before", "matched before ReLU", match="before"),
)

ON_FEATURE_MAPS = (  # fully connected blocks have no AuxConv
    _row("aux-3x3", "AuxConv 3x3", aux="3x3"),
    _row("aux-none", "no AuxConv", aux="none"),
    _row("aux-32", "AuxConv of 32 channels", aux_channels=32),
    _row("aux-512", "AuxConv of 512 channels", aux_channels=512),
    _row("positions-1", "1 position", aux_positions=1),
    _row("positions-4", "4 positions", aux_positions=4),
)


_NEEDS_MAPS = {row.id for row in ON_FEATURE_MAPS}


def wanted(row: str, dataset: str, architecture: str) -> bool:
    """Whether the choice makes a difference on this architecture."""
    return row not in _NEEDS_MAPS or not architecture.startswith("mlp")


SUITE = Suite(
    name="ablation-hff",
    title="HFF: every open choice varied alone",
    methods=(*CONTROLS, "hff", *CHOICES, *ON_FEATURE_MAPS),
    profiles={
        "quick": digits(
            ("mlp-2x500", "cnn-small"),
            note="it shows that every choice can be made, not which is best",
            wanted=wanted,
        ),
        "standard": Profile(
            note="A grey and a coloured dataset, under the standard budget of table 1.",
            datasets=("mnist", "cifar10"),
            architectures=("mlp-3x1000", "cnn-small"),
            seeds=3,
            protocol=standard,
            wanted=wanted,
        ),
    },
)
