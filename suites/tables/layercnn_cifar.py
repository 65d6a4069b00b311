"""Greedy layer-wise CNNs on CIFAR-10 (Belilovsky et al. 2019, arXiv 1812.11446), k = 1, 2, 3.

python -m suites.run layercnn-cifar                     quick: digits, two minutes on 2 CPU cores
python -m suites.run layercnn-cifar --profile paper     CIFAR-10, 50 epochs a layer: GPU, hours
"""

from __future__ import annotations

from typing import Any

from suites.engine.cell import Protocol
from suites.suite import Profile, Suite, digits

LAYERS = {"layercnn-256": 5, "layercnn-128": 4}


def standard(dataset: str, architecture: str) -> Protocol:
    """15 epochs a layer."""
    return Protocol(epochs=15 * LAYERS.get(architecture, 4), augmentation="crop4+flip")


def paper(dataset: str, architecture: str) -> Protocol:
    """50 epochs for each layer, all training images."""
    epochs = 50 * LAYERS.get(architecture, 4)
    return Protocol(epochs=epochs, augmentation="crop4+flip", val_fraction=0.0)


def settings(row: str, dataset: str, architecture: str) -> dict[str, Any]:
    """Backprop gets the batch norm of the layer-wise networks that have it."""
    if row == "backprop":
        return {"norm": "none" if architecture == "layercnn-256" else "batch"}
    return {}


def wanted(row: str, dataset: str, architecture: str) -> bool:
    """k = 1 has five layers from 256 channels on, k = 2 and 3 have four from 128 on."""
    if row == "layerwise-k1":
        return architecture == "layercnn-256"
    if row.startswith("layerwise"):
        return architecture == "layercnn-128"
    return True


SUITE = Suite(
    name="layercnn-cifar",
    title="Greedy learning layer by layer",
    methods=("backprop", "deep-supervision", "layerwise", "decoupled"),
    profiles={
        "quick": digits(
            ("layercnn-128", "layercnn-256"),
            seeds=1,
            epochs=(12, 12),  # the sequential rules share them out among their layers
            settings=settings,
            wanted=wanted,
        ),
        "standard": Profile(
            note="15 epochs a layer.",
            datasets=("cifar10",),
            architectures=("layercnn-256", "layercnn-128"),
            seeds=3,
            protocol=standard,
            settings=settings,
            wanted=wanted,
        ),
        "paper": Profile(
            note="50 epochs a layer, as published; rules that train all at once get the sum.",
            datasets=("cifar10",),
            architectures=("layercnn-256", "layercnn-128"),
            seeds=3,
            protocol=paper,
            settings=settings,
            wanted=wanted,
        ),
    },
)
