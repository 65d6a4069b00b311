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
from suites.engine import engine, local
from suites.engine.architectures import ARCHITECTURES
from suites.engine.cell import Cell, Protocol
from suites.engine.execution import carry_out
from suites.engine.trial import Job
from suites.suite import rows_of

TASK = Task("t", (1, 8, 8), 5)
local.load_methods([])
LOCAL = [row for row in rows_of(sorted(METHODS)) if METHODS[row.method].traits.local_updates]


@pytest.mark.parametrize("row", LOCAL, ids=lambda row: row.id)
def test_one_sweep_gives_the_same_bits(row: Any) -> None:
    cls = METHODS[row.method]
    config = cls.Config(**row.settings)
    name = next(
        name for name in ("mlp-2x500", "cnn-small")
        if cls.refuse(ARCHITECTURES[name].blocks(TASK, cls.style(config)), TASK, config) is None
    )  # fmt: skip
    torch.manual_seed(0)
    blocks = ARCHITECTURES[name].blocks(TASK, cls.style(config))
    streaming = cls(blocks, TASK, config, torch.Generator().manual_seed(0)).train()
    summed = carry_out(copy.deepcopy(streaming), ["summed_backward"])
    images, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 5
    phase = streaming.phases(100)[0][0]
    backward = torch.Tensor.backward
    for _ in range(2):
        losses = [m.train_step(m.frozen(images, phase), y, phase, 0.0) for m in (streaming, summed)]
        assert losses[0]["loss"] == losses[1]["loss"]
    assert torch.Tensor.backward is backward
    for one, two in zip(streaming.parameters(), summed.parameters(), strict=True):
        assert torch.equal(one, two)


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
    outcome = engine.run(Job(cell, "a cell", "table1", "quick", "command", tmp_path))
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
        assert engine.run(job).status == "ok"
        record = Store(tmp_path).read([cell.key]).records[cell.key]
        assert record["cell"]["protocol"].get("execution", []) == list(execution)
        if kind == "train":
            accuracies.append(record["metrics"]["test"]["last"]["accuracy_pct"])
        else:
            assert record["speed"]["predict"]["last"]["passes"] == 1
            accuracies.append(record["speed"]["predict"]["last"]["flops_per_image"])
    assert accuracies[0] == pytest.approx(accuracies[1], abs=2.0 if kind == "train" else 0)
