"""Decoupled greedy learning: where gradients go, how modules are cut, what auxiliary nets see."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from methods.decoupled import Decoupled, auxiliary_net
from suites.auditing import locality
from suites.auditing.subject import Subject
from tests.methods.toy import batch, make

CONV = "cnn-small"


def method(architecture: str = CONV, **settings: object) -> Decoupled:
    made = make("decoupled", architecture=architecture, **settings)
    assert isinstance(made, Decoupled)
    return made.train()


@pytest.mark.parametrize("modules", [0, 2])
def test_a_modules_loss_reaches_no_other_module(modules: int) -> None:
    """Its gradients after one step are those of its own loss, computed by hand."""
    made, by_hand = method(modules=modules), method(modules=modules)
    x, y = batch(8)
    made.train_step(x, y, "all", 0.0)
    nets = [*by_hand.aux.values(), by_hand.head]
    for j, (unit, net) in enumerate(zip(by_hand.units(), nets, strict=True)):
        by_hand.zero_grad()
        h = unit(x)
        F.cross_entropy(net(h), y).backward()
        for i, other in enumerate(by_hand.units()):
            for mine, theirs in zip(other.parameters(), made.units()[i].parameters(), strict=True):
                if i != j:
                    assert mine.grad is None
                else:
                    assert torch.allclose(mine.grad, theirs.grad, atol=1e-6)
        x = h.detach()


@pytest.mark.parametrize(
    ("modules", "sizes"), [(0, [1, 1, 1, 1]), (1, [4]), (2, [2, 2]), (3, [1, 1, 2])]
)
def test_blocks_are_grouped_into_consecutive_modules(modules: int, sizes: list[int]) -> None:
    made = method(modules=modules)
    units = made.units()
    assert [len(unit) for unit in units] == sizes
    assert [block for unit in units for block in unit] == list(made.blocks)
    assert len(made.aux) == len(units) - 1


def test_gradients_flow_inside_a_module_only() -> None:
    """A module of 2 blocks, then 3 convolutions, 3 dense layers and the linear map."""
    for modules, layers in ((0, 1), (2, 2)):
        subject = Subject(lambda modules=modules: method(modules=modules), lambda i: batch(8))
        assert locality.chains(subject).longest == layers + 7
        assert not locality.crossings(subject, trained=1)


def test_more_modules_than_blocks_are_refused() -> None:
    made = method()
    assert Decoupled.refuse(made.blocks, made.task, made.config) is None
    config = Decoupled.Config(modules=5)
    assert "5 modules" in str(Decoupled.refuse(made.blocks, made.task, config))


def shapes_seen(net: nn.Sequential, h: torch.Tensor) -> list[tuple[type, tuple[int, ...]]]:
    """Kind and input shape of every layer with weights, batch norm aside."""
    seen = []
    for layer in net:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            seen.append((type(layer), tuple(h.shape[1:])))
        h = layer(h)
    return seen


def test_auxiliary_nets_work_at_a_quarter_of_the_resolution() -> None:
    block = method().blocks[0]
    block.out_shape = (8, 32, 32)
    h = torch.randn(2, 8, 32, 32)
    linear = [(nn.Linear, (32,))]
    net = auxiliary_net(block, 5, "mlp-sr", last=False)
    assert shapes_seen(net, h) == [(nn.Conv2d, (8, 8, 8))] * 3 + linear * 4
    assert net[0](h).allclose(h.view(2, 8, 8, 4, 8, 4).mean(dim=(3, 5)), atol=1e-5)
    assert {m.kernel_size for m in net if isinstance(m, nn.Conv2d)} == {(1, 1)}
    net = auxiliary_net(block, 5, "cnn", last=False)
    assert shapes_seen(net, h) == [(nn.Conv2d, (8, 32, 32))] * 2 + linear
    assert shapes_seen(auxiliary_net(block, 5, "mlp", last=False), h) == linear * 4
    for kind in ("mlp-sr", "mlp", "cnn"):
        assert shapes_seen(auxiliary_net(block, 5, kind, last=True), h) == linear * 3


def test_dense_blocks_get_a_multilayer_perceptron() -> None:
    made = method("mlp-2x500")
    assert sum(isinstance(m, nn.Linear) for m in made.aux["net_0"]) == 4
    assert not any(isinstance(m, nn.Conv2d) for m in made.modules())


@pytest.mark.parametrize("kind", ["mlp-sr", "mlp", "cnn"])
def test_every_kind_of_auxiliary_net_learns(kind: str) -> None:
    made = method("dgl-6x128", aux=kind)
    x, y = batch(16)
    losses = [float(made.train_step(x, y, "all", i / 30)["loss"]) for i in range(30)]
    assert losses[-1] < 0.5 * losses[0]
