"""Table 3: what features that were learned on one dataset are worth on another.

python -m suites.run table3                       quick: halves of the digits, minutes on a laptop
python -m suites.run table3 --profile standard    MNIST, Fashion-MNIST, KMNIST; CIFAR; one GPU

How features are read, and what is chosen on what, stands in suites/transfer/measure.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from suites.engine.cell import Protocol
from suites.suite import Profile, Row, Suite

GREY = ("mnist", "fashion-mnist", "kmnist")
COLOURED = ("cifar10", "cifar100")
# random weights: the control of all others
RANDOM = Row("random", "Random initialisation", "backprop")


def untrained(row: str, dataset: str, architecture: str) -> dict[str, Any]:
    """The control is looked at as it starts."""
    return {"epochs": 0} if row == RANDOM.id else {}


def other_half(dataset: str, architecture: str) -> Protocol:
    """From the other five digits."""
    epochs = 30 if architecture.startswith("mlp") else 10
    source = {"digits-0to4": "digits-5to9"}.get(dataset, "digits-0to4")
    return Protocol(epochs=epochs, batch_size=64, source=source)


# to ask for by --datasets, with --weights or --sources
PHOTOGRAPHS = Protocol(
    epochs=30, augmentation="resized-crop+flip", source="imagenet-224px", val_fraction=0.1
)


def others(dataset: str, architecture: str) -> Protocol | Sequence[Protocol]:
    """From each dataset of the same kind, the target itself too: what transfer loses."""
    if dataset not in GREY + COLOURED:
        return PHOTOGRAPHS
    family = GREY if dataset in GREY else COLOURED
    epochs, augmentation = (30, "none") if dataset in GREY else (60, "crop4+flip")
    return [Protocol(epochs=epochs, augmentation=augmentation, source=name) for name in family]


def standard_has(row: str, dataset: str, architecture: str) -> bool:
    """Fully connected networks for grey images, convolutional ones for coloured."""
    return (dataset in GREY) == architecture.startswith("mlp")


SUITE = Suite(
    name="table3",
    title="Transfer: what was learned on one dataset, on another",
    methods=(
        *(RANDOM, "backprop", "deep-supervision"),
        *("hff", "mono-forward", "greedy", "decoupled", "ff", "cwcomp", "pepita", "cafo"),
        *("noprop", "noprop-backprop", "fa", "dfa", "ccl", "softhebb"),
    ),
    kind="transfer",
    profiles={
        "quick": Profile(
            note="Handwritten digits of 8x8 pixels, from five classes to the other five: "
            "it shows that everything works, not which method is best.",
            datasets=("digits-0to4", "digits-5to9"),
            architectures=("mlp-2x500",),
            seeds=3,
            protocol=other_half,
            budget=untrained,
            methods=(RANDOM, "backprop", "hff", "mono-forward", "greedy", "ff", "noprop"),
        ),
        "standard": Profile(
            note="Grey images among each other, and coloured ones; default settings.",
            datasets=(*GREY, *COLOURED),
            architectures=("mlp-3x1000", "vgg8b"),
            seeds=3,
            protocol=others,
            budget=untrained,
            wanted=standard_has,
        ),
    },
)
