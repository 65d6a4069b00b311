"""Table 4: ImageNet-1k, and smaller sets of photographs on the way to it.

python -m suites.run table4 --data-dir DIR        quick: 10 classes of any class folder, minutes
python -m suites.run table4 --profile standard    ImageNet-100 at 64 pixels, one GPU, days
python -m suites.run table4 --profile paper       ImageNet-1k at 224 pixels, as jobs of a cluster

docs/imagenet.md tells how to lay out and pack the photographs, and what each profile takes.
"""

from __future__ import annotations

from suites.engine.cell import Protocol
from suites.suite import Profile, Row, Suite

# Forward-Forward's labels stand in pixels of fully connected networks, and NoProp-DT has an encoder
# of the image for each block, too much for large networks: both have a column of a dense one, with
# what they are compared with.
DENSE = "mlp-3x1000"
OF_DENSE = ("backprop", "hff", "mono-forward", "ff", "noprop")
# the best of the three in its paper
PREDSIM = Row("greedy-predsim", "Greedy local (predsim)", "greedy", {"loss": "predsim"})


def has(row: str, dataset: str, architecture: str) -> bool:
    """Convolutional networks for the rules that are made for them, a dense one for the others."""
    return row in OF_DENSE if architecture == DENSE else row != "noprop"


def few(dataset: str, architecture: str) -> Protocol:
    """A few passes over a few photographs."""
    return Protocol(epochs=5, batch_size=32, augmentation="resized-crop+flip")


def imagenet100(dataset: str, architecture: str) -> Protocol:
    """Sixty epochs; 2 % of the training images, 2,500, choose nothing but show the course."""
    return Protocol(
        epochs=60, batch_size=256, augmentation="resized-crop+flip", val_fraction=0.02,
        precision="bf16",
    )  # fmt: skip


def imagenet(dataset: str, architecture: str) -> Protocol:
    """The usual ninety epochs; 1 % of the training images are kept for validation."""
    return Protocol(
        epochs=90, batch_size=256, augmentation="resized-crop+flip", val_fraction=0.01,
        precision="bf16",
    )  # fmt: skip


SUITE = Suite(
    name="table4",
    title="Photographs: ImageNet-1k, a part of it, or a class folder",
    methods=(
        *("backprop", "deep-supervision"),
        *("layerwise", "decoupled", PREDSIM, "hff", "mono-forward"),
        *("ff", "ff-conv", "noprop", "noprop-ct", "usf"),
    ),
    top5=True,
    profiles={
        "quick": Profile(
            note="At most ten classes of a class folder, 20 photographs of each at 64x64 pixels: "
            "it shows that everything works, not which method is best.",
            datasets=(),
            folder="64px-jpeg",
            architectures=("cnn-small", "mobilenet-v3-small", DENSE),
            seeds=1,
            protocol=few,
            wanted=has,
            methods=(
                *("backprop", "deep-supervision"),
                Row("layerwise-k1", "Layerwise (k1)", "layerwise", {"k": 1}),
                *("decoupled", PREDSIM, "hff", "mono-forward", "ff", "noprop", "noprop-ct", "usf"),
            ),
        ),
        "standard": Profile(
            note="ImageNet-100 at 64x64 pixels; default settings.",
            datasets=("imagenet100-64px",),
            architectures=("alexnet", "layercnn-8x128", "resnet18", DENSE),
            seeds=3,
            protocol=imagenet100,
            wanted=has,
        ),
        "paper": Profile(
            note="ImageNet-1k at 224x224 pixels, every method with its default settings.",
            # without planes: a thousand channels for labels are 100 GB for one mini-batch
            methods=(
                *("backprop", "deep-supervision"),
                *("layerwise", "decoupled", PREDSIM, "hff", "mono-forward"),
                *("ff", "ff-conv-fourier", "ff-conv-morphological", "noprop-ct", "usf"),
            ),
            datasets=("imagenet-224px-jpeg",),
            architectures=("alexnet", "vgg11-bn", "layercnn-8x128", "resnet18-imagenet"),
            seeds=1,
            protocol=imagenet,
            wanted=has,
        ),
    },
)
