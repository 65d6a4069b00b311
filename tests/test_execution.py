"""Choices of how a step is carried out: other speed and memory, the same learning."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from methods import METHODS, Method, Task
from results.store import Store
from suites.auditing.sharing import double_precision
from suites.engine.architectures import ARCHITECTURES
from suites.engine.cell import Cell, Protocol
from suites.engine.execution import CHOICES, carry_out
from suites.engine.plugins import load_methods
from suites.engine.precision import computing
from suites.engine.trial import Job
from suites.launching import attempt
from suites.suite import rows_of

TASK = Task("t", (1, 8, 8), 5)
WIDTH = 0.25
load_methods([])
ROWS = rows_of(sorted(METHODS))
SLOW = ("layerwise-k3", "resnet18")


def pairs() -> list[Any]:
    """Every row on the small dense, convolutional and residual networks that it trains."""
    found = []
    for row in ROWS:
        cls = METHODS[row.method]
        config = cls.Config(**row.settings)
        for name in ("mlp-2x500", "cnn-small", "resnet18"):
            blocks = ARCHITECTURES[name].blocks(TASK, cls.style(config), WIDTH)
            # k2 there and k3 elsewhere run the same lines, and take seconds, not minutes
            if cls.refuse(blocks, TASK, config) is None and (row.id, name) != SLOW:
                found.append(pytest.param(row, name, id=f"{row.id}-{name}"))
    return found


def steps(row: Any, architecture: str, way: str) -> tuple[Method, list[Any], list[Any]]:
    """The method after two steps of each phase, its losses, and what all readouts say."""
    cls = METHODS[row.method]
    config = cls.Config(**row.settings)
    torch.manual_seed(0)
    blocks = ARCHITECTURES[architecture].blocks(TASK, cls.style(config), WIDTH)
    method = cls(blocks, TASK, config, torch.Generator().manual_seed(0))
    images, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 5
    method.train().start(images, y)
    if way in CHOICES:
        method = carry_out(method, [way])
    losses = []
    with computing("bf16" if way == "bf16" else "float32", torch.device("cpu")):
        for phase, n in method.train().phases(100):
            for _ in range(2 if n else 0):
                with torch.no_grad():
                    x = method.frozen(images, phase)
                losses.append(method.train_step(x, y, phase, 0.0)["loss"])
        with torch.no_grad():
            scores = [
                method.eval().logits(images, readout, torch.Generator().manual_seed(1))
                for readout in method.traits.readouts
            ]
    return method, losses, scores


@pytest.mark.parametrize(("row", "architecture"), pairs())
def test_other_ways_make_the_same_steps(row: Any, architecture: str) -> None:
    with double_precision():
        plain = steps(row, architecture, "plain")
        for way, most in (("summed_backward", 0.0), ("channels_last", 1e-7)):
            if way == "summed_backward" and not plain[0].traits.local_updates:
                continue
            for one, two in zip(seen(plain), seen(steps(row, architecture, way)), strict=True):
                difference = float((one - two).norm())
                assert difference <= most * float(one.norm()), f"{way}: {difference}"


@pytest.mark.parametrize(("row", "architecture"), pairs())
def test_bf16_leaves_weights_and_losses_in_float32(row: Any, architecture: str) -> None:
    _, losses, _ = steps(row, architecture, "plain")
    method, own, scores = steps(row, architecture, "bf16")
    assert float(own[0]) == pytest.approx(float(losses[0]), rel=0.05)
    assert all(torch.isfinite(value).all() for value in [*own, *scores])
    assert {loss.dtype for loss in own} == {torch.float32}
    assert {p.dtype for p in method.parameters()} == {torch.float32}


def seen(outcome: tuple[Method, list[Any], list[Any]]) -> list[torch.Tensor]:
    method, losses, scores = outcome
    return [*losses, *scores, *(p.detach() for p in method.parameters())]


def test_an_error_in_a_step_leaves_nothing_behind() -> None:
    """Neither in torch, nor losses that the next step would sweep."""
    method = METHODS["hff"]
    blocks = ARCHITECTURES["mlp-2x500"].blocks(TASK)
    made = method(blocks, TASK, method.Config(), torch.Generator()).train()
    other = carry_out(copy.deepcopy(made), ["summed_backward"])
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 5
    backward, step = torch.Tensor.backward, other.optimizer.step

    def broken() -> None:
        raise RuntimeError("broken")

    other.optimizer.step = broken  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="broken"):
        other.train_step(x, y, "all", 0.0)
    assert torch.Tensor.backward is backward
    other.optimizer.step = step  # type: ignore[method-assign]
    for m in (made, other):
        m.train_step(x, y, "all", 0.0)
    for one, two in zip(made.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


class Scaled(METHODS["hff"]):  # type: ignore[name-defined, misc]
    """Changes its gradients ahead of the optimizer's step."""

    def train_step(self, x: Any, y: Any, phase: str, progress: float) -> dict[str, Any]:
        self.optimizer.zero_grad()
        loss = self.aux["head_0"](self.blocks[0](x)).square().mean()
        loss.backward()
        for p in self.blocks.parameters():
            if p.grad is not None:
                p.grad *= 0.5
        self.optimizer.step()
        return {"loss": loss.detach()}


class Manual(METHODS["hff"]):  # type: ignore[name-defined, misc]
    """Makes no step of an optimizer."""

    def train_step(self, x: Any, y: Any, phase: str, progress: float) -> dict[str, Any]:
        loss = self.aux["head_0"](self.blocks[0](x)).square().mean()
        loss.backward()
        return {"loss": loss.detach()}


@pytest.mark.parametrize(
    ("cls", "words"), [(Scaled, "changes the update of"), (Manual, "1 losses were left behind")]
)
@pytest.mark.parametrize("kind", ["train", "cost"])
def test_a_choice_that_a_method_does_not_bear_is_refused(
    kind: Any, cls: type[Method], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "hff", cls)
    protocol = Protocol(1, batch_size=64, execution=("summed_backward",))
    data = "digits" if kind == "train" else "noise-1x8x8-c10"
    cell = Cell.of("hff", {}, "mlp-2x500", data, protocol, 0, kind, "cpu")
    outcome = attempt.run(Job(cell, "a cell", "table1", "quick", "command", tmp_path))
    assert outcome.status == "failed" and words in str(outcome.reason)
    assert "--execution summed_backward" in str(outcome.reason)


def test_a_protocol_without_choices_has_the_key_of_before() -> None:
    """Records of before there were any keep theirs."""
    plain = Cell.of("hff", {}, "mlp-2x500", "digits", Protocol(2), 0)
    assert "execution" not in plain.identity()["protocol"]
    chosen = Cell.of("hff", {}, "mlp-2x500", "digits", Protocol(2, execution=("compile",)), 0)
    assert chosen.key != plain.key
    with pytest.raises(ValueError, match="channels_last, compile"):
        Protocol(2, execution=("fast",))


@pytest.mark.parametrize("kind", ["train", "cost"])
def test_cells_run_in_every_way(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And say so in their records. The compiler proper takes a minute, so none is used here."""
    monkeypatch.setattr(
        nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager")
    )
    accuracies = []
    for execution in ((), ("channels_last", "compile", "summed_backward")):
        protocol = Protocol(2, batch_size=64, execution=execution)
        data = "digits" if kind == "train" else "noise-1x8x8-c10"
        cell = Cell.of("hff", {}, "cnn-small", data, protocol, 0, kind, "cpu")
        job = Job(cell, "a cell", "table1", "quick", "command", tmp_path)
        assert attempt.run(job).status == "ok"
        record = Store(tmp_path).read([cell.key]).records[cell.key]
        assert record["cell"]["protocol"].get("execution", []) == list(execution)
        if kind == "train":
            accuracies.append(record["metrics"]["test"]["last"]["accuracy_pct"])
        else:
            assert record["speed"]["predict"]["last"]["passes"] == 1
            accuracies.append(record["speed"]["predict"]["last"]["flops_per_image"])
    assert accuracies[0] == pytest.approx(accuracies[1], abs=2.0 if kind == "train" else 0)
