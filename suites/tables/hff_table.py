"""HFF beside its controls (arXiv 2605.00082).

python -m suites.run hff-table                      quick: digits, two minutes on 2 CPU cores
python -m suites.run hff-table --profile paper      MNIST to CIFAR-100: GPU, days

The paper's networks and budgets are not public in readable form: its numbers stand on the page as
targets of unknown protocol, and the networks here are those of table 1.
"""

from __future__ import annotations

from suites.engine.cell import Protocol
from suites.suite import Profile, Suite, digits
from suites.tables.table1 import AUGMENTATION as COLOUR

AUGMENTATION = {**COLOUR, "mnist": "crop2"}  # without, the networks overfit within 10 epochs


def standard(dataset: str, architecture: str) -> Protocol:
    """30 epochs."""
    return Protocol(epochs=30, augmentation=AUGMENTATION.get(dataset, "none"))


def paper(dataset: str, architecture: str) -> Protocol:
    """150 epochs, the budget of its nearest published relatives."""
    return Protocol(epochs=150, augmentation=AUGMENTATION.get(dataset, "none"))


SUITE = Suite(
    name="hff-table",
    title="HFF and its controls",
    methods=(
        "backprop",
        "deep-supervision",
        "mono-forward",
        "mono-forward-cosine",
        "ff",
        "ff-conv",
        "hff",
    ),
    profiles={
        "quick": digits(("mlp-2x500", "cnn-small")),
        "standard": Profile(
            note="30 epochs of MNIST and CIFAR-10.",
            datasets=("mnist", "cifar10"),
            architectures=("mlp-3x1000", "vgg8b"),
            seeds=3,
            protocol=standard,
        ),
        "paper": Profile(
            note="The paper's data sets but ImageNet; its networks and budgets are not public.",
            datasets=("mnist", "fashion-mnist", "cifar10", "cifar100"),
            architectures=("mlp-3x1000", "vgg8b"),
            seeds=3,
            protocol=paper,
        ),
    },
)
