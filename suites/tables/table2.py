"""Table 2: what each method costs, timed against backprop on the same network.

python -m suites.run table2                       four minutes on 2 CPU cores
python -m suites.run table2 --profile standard    one GPU, an hour

Images are noise, so it runs anywhere; what is timed, and how, stands in suites/costs/measure.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from suites.engine.cell import Protocol
from suites.suite import Profile, Suite

CLASSES = (10, 100, 1000)
# rows that quick has in one place; it scales all others, those that users add, too
AT_ONE_PLACE = ("dfa", "greedy-pred", "greedy-sim", "greedy-predsim", "noprop")


def batches(
    most: int, scaled: str, sizes: Sequence[int]
) -> Callable[[str, str], Sequence[Protocol]]:
    """A batch size for all places, and several for the network `scaled` at 10 classes."""

    def protocols(dataset: str, architecture: str) -> Sequence[Protocol]:
        several = architecture == scaled and dataset.endswith("-c10")
        return [
            Protocol(epochs=1, batch_size=size, val_fraction=0.0)
            for size in (sizes if several else (most,))
        ]

    return protocols


def quick_has(row: str, dataset: str, architecture: str) -> bool:
    """Every row at 10 classes on one network; few of its own on stacks of other sizes."""
    scaled = row not in AT_ONE_PLACE
    if architecture == "mlp-3x500":
        return dataset.endswith("-c10") or scaled
    return dataset.endswith("-c10") and scaled


def standard_has(row: str, dataset: str, architecture: str) -> bool:
    """The number of classes varies on two networks, all else at 10 of them."""
    return dataset.endswith("-c10") or architecture in ("mlp-3x1000", "vgg8b")


SUITE = Suite(
    name="table2",
    title="What it costs",
    methods=(
        "backprop",
        "dfa",
        "mono-forward",
        "hff",
        "greedy",
        "layerwise",
        "softhebb",
        "ff",
        "noprop",
        "noprop-ct",
    ),
    kind="cost",
    headline={"split": "timings", "metric": "train_images_per_s"},
    comparisons=(("hff", "ff"),),
    profiles={
        "quick": Profile(
            note="Networks of a laptop's size on noise of 3x32x32 pixels.",
            datasets=tuple(f"noise-3x32x32-c{n}" for n in CLASSES),
            architectures=(
                "mlp-3x500", "mlp-3x125", "mlp-3x250", "mlp-3x1000",
                "mlp-4x250", "mlp-8x250", "mlp-16x250",
            ),
            seeds=1,
            protocol=batches(64, "mlp-3x250", (16, 64, 256, 1024)),
            wanted=quick_has,
            methods=("backprop", "dfa", "mono-forward", "hff", "greedy", "ff", "noprop"),
        ),
        "standard": Profile(
            note="Networks of the papers' size on noise of 3x32x32 pixels.",
            datasets=tuple(f"noise-3x32x32-c{n}" for n in CLASSES),
            architectures=(
                "mlp-3x1000", "mlp-3x2000", "mlp-3x4000",
                "mlp-4x1024", "mlp-8x1024", "mlp-16x1024", "mlp-32x1024",
                "cnn-small", "vgg8b", "resnet18",
            ),
            seeds=1,
            protocol=batches(128, "mlp-3x1000", (16, 128, 1024)),
            wanted=standard_has,
        ),
    },
)  # fmt: skip
