"""Local error signals (Nøkland & Eidnes 2019, arXiv 1901.06656): its main table.

python -m suites.run local-loss                      quick: digits, two minutes on 2 CPU cores
python -m suites.run local-loss --profile paper      six data sets, three networks: GPU, days

Budgets, dropout, augmentation and learning rates are those of the released code
(run_experiments.sh). The paper has one seed and no validation split.
"""

from __future__ import annotations

from typing import Any

from suites.engine.cell import Protocol
from suites.suite import Profile, Suite, digits

EPOCHS = {"mnist": 100, "kmnist": 100, "svhn": 100, "fashion-mnist": 200}  # the others: 400
AUGMENTATION = {
    "mnist": "crop2", "fashion-mnist": "crop2+flip", "cifar10": "crop4+flip",
    "cifar100": "crop4+flip",
}  # fmt: skip
DROPOUT = {
    ("mnist", "mlp"): 0.1, ("mnist", "vgg"): 0.2,
    ("fashion-mnist", "mlp"): 0.025, ("fashion-mnist", "vgg"): 0.1,
    ("kmnist", "mlp"): 0.2, ("kmnist", "vgg"): 0.3,
    ("cifar10", "mlp"): 0.1, ("cifar10", "vgg"): 0.2,
    ("cifar100", "mlp"): 0.025, ("cifar100", "vgg"): 0.05,
    ("svhn", "vgg"): 0.3,
}  # fmt: skip
# shares of the budget after which the rate is quartered; the others: the methods' default
MILESTONES = {
    "fashion-mnist": (0.5, 0.75, 0.875, 0.94),
    "cifar10": (0.5, 0.75, 0.875, 0.9375), "cifar100": (0.5, 0.75, 0.875, 0.9375),
}  # fmt: skip
GREY = ("mnist", "fashion-mnist", "kmnist")


def standard(dataset: str, architecture: str) -> Protocol:
    """30 epochs, with a validation split."""
    return Protocol(epochs=30, augmentation=AUGMENTATION.get(dataset, "none"))


def paper(dataset: str, architecture: str) -> Protocol:
    """The released budgets; all training images are trained on."""
    return Protocol(
        epochs=EPOCHS.get(dataset, 400),
        augmentation=AUGMENTATION.get(dataset, "none"),
        val_fraction=0.0,
    )


def settings(row: str, dataset: str, architecture: str) -> dict[str, Any]:
    """Dropout, learning rate and decoder size by data set and network."""
    net = "mlp" if architecture.startswith("mlp") else "vgg"
    shared: dict[str, Any] = {
        "dropout": DROPOUT.get((dataset, net), 0.1),
        "lr": 3e-4 if dataset == "svhn" else 5e-4,
    }
    if dataset in MILESTONES:
        shared["milestones"] = MILESTONES[dataset]
    if row == "backprop":  # the paper's own: the same network, batch norm and schedule
        return {**shared, "norm": "batch", "schedule": "steps", "weight_decay": 0.0}
    if not row.startswith("greedy"):
        return {}
    narrow = 1024 if architecture == "vgg8b" and dataset in GREY else None
    wide = 2048 if dataset in ("cifar10", "svhn") else 4096
    return {**shared, "decoder_features": narrow or wide}


def wanted(row: str, dataset: str, architecture: str) -> bool:
    """MLPs of 1024 on grey images and of 3000 on coloured ones; VGG11B on CIFAR only."""
    if architecture == "mlp-3x1024":
        return dataset in GREY
    if architecture == "mlp-3x3000":
        return dataset.startswith("cifar")
    return architecture != "vgg11b" or dataset.startswith("cifar")


SUITE = Suite(
    name="local-loss",
    title="Local error signals: prediction, similarity and both",
    methods=("backprop", "greedy"),
    profiles={
        "quick": digits(("mlp-2x500", "cnn-small"), settings=settings),
        "standard": Profile(
            note="30 epochs of MNIST and CIFAR-10.",
            datasets=("mnist", "cifar10"),
            architectures=("mlp-3x1024", "mlp-3x3000", "vgg8b"),
            seeds=3,
            protocol=standard,
            settings=settings,
            wanted=wanted,
        ),
        "paper": Profile(
            note="The published budgets; one seed, as published.",
            datasets=("mnist", "fashion-mnist", "kmnist", "cifar10", "cifar100", "svhn"),
            architectures=("mlp-3x1024", "mlp-3x3000", "vgg8b", "vgg11b"),
            seeds=1,
            protocol=paper,
            settings=settings,
            wanted=wanted,
        ),
    },
)
