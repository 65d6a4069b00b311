"""Forward-Forward on MNIST, as its paper and its reference implementations run it.

python -m suites.run ff-mnist                     quick: digits, a minute on 2 CPU cores
python -m suites.run ff-mnist --profile paper     MNIST: 3x1000 for 100 epochs, 4x2000 for 60
"""

from __future__ import annotations

from typing import Any

from methods.space import LogUniform
from suites.engine.cell import Protocol
from suites.suite import Profile, Row, Suite, digits


def standard(dataset: str, architecture: str) -> Protocol:
    """30 epochs, one tenth of the training images for validation."""
    return Protocol(epochs=30, batch_size=100)


def paper(dataset: str, architecture: str) -> Protocol:
    """3x1000: loeweX/Forward-Forward, 50,000 images and 10,000 for validation. 4x2000: the paper,
    60 epochs; a validation split is not mentioned.
    """
    if architecture == "mlp-3x1000":
        return Protocol(epochs=100, batch_size=100, val_fraction=1 / 6)
    return Protocol(epochs=60, batch_size=100, val_fraction=0.0)


WIDTHS = {"mlp-2x500": 500, "mlp-3x1000": 1000, "mlp-4x2000": 2000}


def settings(row: str, dataset: str, architecture: str) -> dict[str, Any]:
    """The mean of squares has a gradient n times smaller: n times the rate, decay as it was."""
    if row == "ff-mean" and architecture in WIDTHS:
        n = WIDTHS[architecture]
        return {"lr": 5e-4 * n, "weight_decay": 6e-4 / n}
    return {}


# the method's ranges at a width of 1000
MEAN_SPACE = {"lr": LogUniform(0.05, 5.0), "weight_decay": LogUniform(6e-8, 6e-6)}


def paper_budget(row: str, dataset: str, architecture: str) -> dict[str, Any]:
    """The paper gives its backprop reference about 20 epochs."""
    return {"epochs": 20} if row == "backprop" else {}


SUITE = Suite(
    name="ff-mnist",
    title="Forward-Forward on MNIST",
    methods=(
        "backprop",
        "ff",
        Row("ff-uniform", "Forward-Forward, uniform negatives", "ff", {"negatives": "uniform"}),
        Row("ff-no-peer", "Forward-Forward, no peer normalisation", "ff", {"peer": 0.0}),
        Row("ff-mean", "Forward-Forward, mean goodness", "ff", {"goodness": "mean"}, MEAN_SPACE),
    ),
    profiles={
        "quick": digits(("mlp-2x500",), settings=settings),
        "standard": Profile(
            note="30 epochs of MNIST.",
            datasets=("mnist",),
            architectures=("mlp-3x1000",),
            seeds=3,
            protocol=standard,
            settings=settings,
        ),
        "paper": Profile(
            note="arXiv 2212.13345 (4x2000, 60 epochs) and github.com/loeweX/Forward-Forward "
            "(3x1000, 100 epochs, uniform negatives).",
            datasets=("mnist",),
            architectures=("mlp-3x1000", "mlp-4x2000"),
            seeds=3,
            protocol=paper,
            settings=settings,
            budget=paper_budget,
        ),
    },
)
