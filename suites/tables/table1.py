"""Table 1: test accuracy of every method, by dataset and architecture.

python -m suites.run table1                       quick: digits, 2 CPU cores, about 5 minutes
python -m suites.run table1 --profile small       MNIST and Fashion-MNIST, 2 CPU cores, hours
python -m suites.run table1 --profile standard    MNIST to CIFAR-100, one GPU, hours
python -m suites.run table1 --profile paper       100 and 400 epochs, days

`small` and `standard` take the settings that suites.tune chose, where results/tuned/ has some.
"""

from __future__ import annotations

from typing import Any

from suites.engine.cell import Protocol
from suites.suite import Profile, Suite, digits

# Only what may be mirrored is: a mirrored digit or letter is another one, or none.
AUGMENTATION = {"cifar10": "crop4+flip", "cifar100": "crop4+flip", "svhn": "crop4"}

# What the profile `small` can afford on two CPU cores: of a method with variants, one.
SMALL_EPOCHS = 2
ONE_OF_EACH = (
    *("backprop", "deep-supervision"),
    *("hff", "mono-forward", "mono-forward-cosine", "greedy-predsim", "layerwise-k1", "decoupled"),
    *("ff", "ff-conv-fourier", "cwcomp", "pepita", "cafo"),
    *("noprop", "noprop-ct", "noprop-fm", "noprop-backprop"),
    *("fa", "usf", "dfa", "ccl", "softhebb"),
)


def fewer_steps(row: str, dataset: str, architecture: str) -> dict[str, Any]:
    """A thousand steps a prediction, in five draws, would take longer than all of the training."""
    return {"sampling_steps": 100} if row in ("noprop-ct", "noprop-fm") else {}


def standard(dataset: str, architecture: str) -> Protocol:
    """30 epochs on grey images, 60 on coloured, augmented ones."""
    if dataset not in AUGMENTATION:
        return Protocol(epochs=30)
    return Protocol(epochs=60, augmentation=AUGMENTATION[dataset])


def paper(dataset: str, architecture: str) -> Protocol:
    """As long as most of the compared papers train on this kind of data."""
    epochs = 100 if dataset not in AUGMENTATION or dataset == "svhn" else 400
    return Protocol(epochs=epochs, augmentation=AUGMENTATION.get(dataset, "none"))


SUITE = Suite(
    name="table1",
    title="Test accuracy by method, dataset and architecture",
    methods=(
        *("backprop", "deep-supervision"),
        *("hff", "mono-forward", "mono-forward-cosine", "greedy", "layerwise", "decoupled"),
        *("ff", "ff-conv", "cwcomp", "pepita", "cafo"),
        *("noprop", "noprop-ct", "noprop-fm", "noprop-backprop"),
        *("fa", "usf", "dfa", "ccl", "softhebb"),
    ),
    profiles={
        "quick": digits(
            ("mlp-2x500", "cnn-small"),
            note="it shows that everything works, not which method is best",
            methods=(
                *("backprop", "deep-supervision", "hff", "mono-forward", "greedy"),
                *("ff", "noprop", "dfa"),
            ),
        ),
        "small": Profile(
            note="Grey images and small networks under one short budget; NoProp-CT and -FM "
            "predict in 100 steps, not in 1000.",
            datasets=("mnist", "fashion-mnist"),
            architectures=("mlp-2x500", "cnn-tiny"),
            seeds=5,
            protocol=lambda dataset, architecture: Protocol(epochs=SMALL_EPOCHS),
            settings=fewer_steps,
            methods=ONE_OF_EACH,
            tuned=True,
        ),
        "standard": Profile(
            note="Four datasets under one budget.",
            datasets=("mnist", "fashion-mnist", "cifar10", "cifar100"),
            architectures=("mlp-3x1000", "cnn-small", "vgg8b", "resnet18"),
            seeds=3,
            protocol=standard,
            tuned=True,
        ),
        "paper": Profile(
            note="100 epochs, 400 on augmented CIFAR images, for every method: as long as most of "
            "the compared papers train.",
            datasets=("mnist", "fashion-mnist", "cifar10", "cifar100"),
            architectures=("mlp-4x2000", "cnn-small", "vgg8b", "resnet18"),
            seeds=5,
            protocol=paper,
        ),
    },
)
