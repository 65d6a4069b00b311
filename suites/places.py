"""The columns of a table: data, network and protocol, and the rows that stand in each."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from suites.engine.architectures import ARCHITECTURES
from suites.engine.cell import Kind, Protocol
from suites.engine.datasets import DATASETS, bare_task, is_noise, shared_classes, whole_folder
from suites.images import names
from suites.suite import Profile, RequestError, Row, Suite
from suites.transfer.tuning import READOUT as TUNED_READOUT

WEIGHTS_OF = "imagenet-224px"  # what torchvision's weights were trained on
TUNED = {"": "", "itself": ", fine-tuned", "backprop": ", fine-tuned by backprop"}
# class folders whose images are those of another
PARTS_OF = dict.fromkeys(("imagenet100", "imagenette2", "tiny-imagenet-200"), "imagenet")


@dataclass(frozen=True)
class Place:
    """A column of the table, with the rows that stand in it.

    Attributes:
        column: what the plan says of it.
    """

    dataset: str
    architecture: str
    protocol: Protocol
    column: dict[str, Any]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class OfTransfer:
    """Wishes about transfer; empty ones leave the protocols of a profile as they are."""

    sources: tuple[str, ...]
    tunings: tuple[str, ...]
    weights: str

    def changed(self, protocols: Sequence[Protocol]) -> list[Protocol]:
        """The protocols of one place, one for each source and way of tuning."""
        found = list(protocols)
        if self.weights:
            found = [dataclasses.replace(found[0], source=WEIGHTS_OF, weights=self.weights)]
        if self.sources:
            found = [dataclasses.replace(found[0], source=name) for name in self.sources]
        for protocol in found if self.weights else ():
            if DATASETS[protocol.source].statistics is None:
                raise RequestError(
                    f"--weights with --sources {protocol.source}: weights of others go with images "
                    "as they were trained on, such as imagenet-224px"
                )
        if self.tunings:
            plain = dict.fromkeys(dataclasses.replace(p, tuning="", tuning_epochs=0) for p in found)
            found = [
                p if how == "none" else dataclasses.replace(p, tuning=how, tuning_epochs=p.epochs)
                for p in plain for how in self.tunings
            ]  # fmt: skip
        return found


def protocols(profile: Profile, dataset: str, architecture: str) -> list[Protocol]:
    """Those of one place of a profile; several where it compares them."""
    given = profile.protocol(dataset, architecture)
    return [given] if isinstance(given, Protocol) else list(given)


def places(
    suite: Suite,
    profile: Profile,
    rows: Sequence[Row],
    data_names: Sequence[str],
    arch_names: Sequence[str],
    of_transfer: OfTransfer,
    changed: Mapping[str, Any],
) -> Iterator[Place]:
    """The columns that a profile has for these rows; `changed` are fields of all protocols.

    Args:
        of_transfer: what the user asks for in place of the profile's own.
    """
    for dataset, architecture in itertools.product(data_names, arch_names):
        present = tuple(row for row in rows if profile.wanted(row.id, dataset, architecture))
        if not present:
            continue
        found = of_transfer.changed(protocols(profile, dataset, architecture))
        for protocol in found:
            tuned = {"tuning_epochs": changed["epochs"]} if "epochs" in changed else {}
            protocol = dataclasses.replace(
                protocol, **changed, **(tuned if protocol.tuning else {})
            )
            _check_meaning(suite.kind, dataset, protocol)
            column: dict[str, Any] = {
                "id": f"{dataset}/{architecture}", "dataset": dataset,
                "architecture": architecture, "protocol": {},
                "n_classes": DATASETS[dataset].n_classes,
            }  # fmt: skip
            if (folder := whole_folder(dataset)) is not None:
                column["published_as"] = folder
            if protocol.source:
                column["id"] += f", from {protocol.source}{' weights' * bool(protocol.weights)}"
                column["id"] += TUNED[protocol.tuning]
                if protocol.tuning:
                    column["readout"] = TUNED_READOUT
            elif len(found) > 1:
                column["id"] += f", batch {protocol.batch_size}"
            if suite.kind in ("train", "transfer"):
                column["protocol"] = protocol.as_dict()
            elif suite.kind == "cost":
                column["protocol"] = protocol.cost()
                column["axes"] = _axes(dataset, architecture, protocol)
            yield Place(dataset, architecture, protocol, column, present)


def _check_meaning(kind: Kind, dataset: str, protocol: Protocol) -> None:
    """Raises RequestError for data on which an accuracy would not mean what it says."""
    if kind not in ("train", "transfer"):
        return
    for name in filter(None, (dataset, protocol.source)):
        if is_noise(name):
            raise RequestError(
                f"dataset {name!r} has random labels, and is tested by what it is trained on: it "
                "is for costs (table2)"
            )
    if protocol.weights or protocol.source == dataset:
        return  # made with images that nobody here can know, which the table says
    if shared_classes(protocol.source, dataset) or _of_one_folder(protocol.source, dataset):
        raise RequestError(
            f"{dataset} from {protocol.source}: one is part of the other, so that validation "
            "images of the target were trained on; take parts with other classes"
        )


def _of_one_folder(*datasets: str) -> bool:
    """Whether all are photographs from one collection, in any size or part."""
    folders = {photos.folder if photos else None for photos in map(names.parse, datasets)}
    return len({PARTS_OF.get(str(f), f) for f in folders}) == 1 and None not in folders


def _axes(dataset: str, architecture: str, protocol: Protocol) -> dict[str, int]:
    """What a cost may be drawn against."""
    task = bare_task(dataset)
    with torch.device("meta"):
        blocks = ARCHITECTURES[architecture].blocks(task)
    return {
        "classes": task.n_classes,
        "blocks": len(blocks),
        "width": blocks[0].out_shape[0],
        "batch size": protocol.batch_size,
    }
