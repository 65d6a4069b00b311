"""NoProp's Table 1 (arXiv 2503.24322): DT, CT and FM with three kinds of class embedding.

python -m suites.run noprop-table1                    quick: digits, a few minutes on 2 CPU cores
python -m suites.run noprop-table1 --profile paper    MNIST, CIFAR-10 and CIFAR-100: GPU, days
"""

from __future__ import annotations

from typing import Any

from suites.engine.cell import Protocol
from suites.suite import Profile, Row, Suite, digits

FAMILIES = (
    ("noprop-backprop", "Backprop, the same blocks"),
    ("noprop", "NoProp-DT"),
    ("noprop-ct", "NoProp-CT"),
    ("noprop-fm", "NoProp-FM"),
)
EMBEDDINGS = {"": "one-hot", "-learned": "learned", "-prototype": "prototype"}


def rows() -> tuple[Row, ...]:
    """Four families times three embeddings, and NoProp-DT with a single block."""
    found = [
        Row(f"{name}{suffix}", f"{label}, {embedding}", name, {"embedding": embedding})
        for name, label in FAMILIES
        for suffix, embedding in EMBEDDINGS.items()
    ]
    # if one block does as well, denoising adds nothing
    found.append(Row("noprop-t1", "NoProp-DT, T = 1", "noprop", {"steps": 1}))
    return tuple(found)


def standard(dataset: str, architecture: str) -> Protocol:
    """A tenth of the epochs that the paper gives NoProp-DT, and a validation split."""
    return Protocol(epochs=10 if dataset == "mnist" else 15)


def paper(dataset: str, architecture: str) -> Protocol:
    """Table 3 of the paper; no augmentation and no validation split are mentioned."""
    return Protocol(epochs=100 if dataset == "mnist" else 150, val_fraction=0.0)


def paper_budget(row: str, dataset: str, architecture: str) -> dict[str, Any]:
    """CT and FM are trained longer on colour images (Table 3)."""
    if row.startswith(("noprop-ct", "noprop-fm")) and dataset != "mnist":
        return {"epochs": {"cifar10": 500, "cifar100": 1000}.get(dataset, 500)}
    return {}


SUITE = Suite(
    name="noprop-table1",
    title="NoProp: discrete time, continuous time and flow matching, by class embedding",
    methods=rows(),
    profiles={
        "quick": digits(("cnn-small",), seeds=1, epochs=(5, 5)),
        "standard": Profile(
            note="A tenth of the epochs published for NoProp-DT, every method alike.",
            datasets=("mnist", "cifar10"),
            architectures=("cnn-small",),
            seeds=3,
            protocol=standard,
        ),
        "paper": Profile(
            note="The published protocol: 3 seeds, 5 predictions of each.",
            datasets=("mnist", "cifar10", "cifar100"),
            architectures=("cnn-small",),
            seeds=3,
            protocol=paper,
            budget=paper_budget,
        ),
    },
)
