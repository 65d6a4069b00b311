"""Greedy layerwise learning: what stands still, what is counted, and what the engine may cache."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from methods.layerwise import Layerwise
from suites.auditing import locality
from suites.auditing.subject import Subject
from suites.case import Case
from suites.suite import rows_of
from tests.methods.toy import batch, make

CONV = "layercnn-128"


def method(k: int = 3, architecture: str = CONV, **settings: object) -> Layerwise:
    made = make("layerwise", architecture=architecture, k=k, aux_width=16, **settings)
    assert isinstance(made, Layerwise)
    return made.train()


def steps(made: Layerwise, phase: int, n: int = 3) -> None:
    """Training steps of a phase, as the engine makes them."""
    made.train()
    for _ in range(n):
        x, y = batch(8)
        made.train_step(made.frozen(x, f"block_{phase}"), y, f"block_{phase}", phase / 4)


def state_of(made: Layerwise, j: int) -> dict[str, Tensor]:
    return copy.deepcopy({**made.blocks[j].state_dict(), **made._auxiliary(j).state_dict()})


def test_only_the_block_of_the_phase_moves() -> None:
    """Neither weights nor batch-norm statistics, to the bit, after `train()` is called again."""
    made = method()
    for phase in range(4):
        before = [state_of(made, j) for j in range(4)]
        steps(made, phase)
        for j in range(4):
            after = state_of(made, j)
            if j != phase:
                assert all(torch.equal(before[j][name], after[name]) for name in after)
            else:
                assert not torch.equal(before[j]["weights.weight"], after["weights.weight"])
                assert not torch.equal(before[j]["norm.running_mean"], after["norm.running_mean"])


def test_frozen_is_the_finished_blocks_in_evaluation_mode() -> None:
    made = method()
    x, _ = batch(8)
    assert made.frozen(x, "block_0") is x
    for phase in range(3):
        steps(made, phase)
    by_hand = copy.deepcopy(made).eval()
    h = x
    for block in list(by_hand.blocks)[:3]:
        h = block(h)
    made.train()
    found = made.frozen(x, "block_3")
    assert torch.equal(found, h.detach())
    assert not found.requires_grad


def test_a_cached_prefix_trains_the_same_network() -> None:
    """What `frozen` gives for all images at once, cut into batches, changes no number."""
    plain, cached = method(), method()
    images, labels = batch(24)
    for phase in range(4):
        name = f"block_{phase}"
        cached.train()
        store = cached.frozen(images, name)
        for i in range(6):
            part = slice(i % 3 * 8, i % 3 * 8 + 8)
            plain.train()
            cached.train()
            plain.train_step(plain.frozen(images[part], name), labels[part], name, phase / 4)
            cached.train_step(store[part], labels[part], name, phase / 4)
    for (name, one), two in zip(plain.named_parameters(), cached.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5), name


@pytest.mark.parametrize(("k", "hidden"), [(1, 0), (2, 1), (3, 2)])
def test_the_block_is_one_of_the_k_hidden_layers(k: int, hidden: int) -> None:
    for architecture, kind in ((CONV, nn.Conv2d), ("mlp-2x500", nn.Linear)):
        made = method(k, architecture)
        for j in range(len(made.blocks)):
            layers = [m for m in made._auxiliary(j).modules() if isinstance(m, kind)]
            assert len(layers) == hidden + (kind is nn.Linear)  # and the linear map at the end


def test_auxiliary_nets_double_where_the_blocks_do() -> None:
    """As in the released code, whose commands name the first width only."""
    widths = [
        [m.out_channels for m in method()._auxiliary(j).modules() if isinstance(m, nn.Conv2d)]
        for j in range(4)
    ]
    assert widths == [[16, 16], [16, 16], [32, 32], [32, 32]]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_gradients_go_through_k_layers_and_a_linear_map(k: int) -> None:
    subject = Subject(lambda: method(k), lambda i: batch(8))
    assert locality.chains(subject).longest == k + 1


def test_batch_norm_comes_with_k() -> None:
    """None for k = 1, in blocks and auxiliary networks for k > 1."""
    for k in (1, 2):
        made = method(k)
        for part in [*made.blocks, *made.aux.values(), made.head]:
            assert any(isinstance(m, nn.BatchNorm2d) for m in part.modules()) == (k > 1)


def test_auxiliary_of_k1_is_linear_on_2x2_averages() -> None:
    made = method(1)
    h = torch.randn(3, 16, 8, 8)
    pooled = h.view(3, 16, 2, 4, 2, 4).mean(dim=(3, 5)).flatten(1)
    linear = made.aux["net_0"][-1]
    assert torch.allclose(made.aux["net_0"](h), linear(pooled), atol=1e-5)


def test_predictions_come_from_the_deepest_trained_block() -> None:
    made, (x, _) = method(), batch(8)
    for phase in range(4):
        steps(made, phase)
        made.eval()
        h, scores = x, []
        for j in range(phase + 1):
            h = made.blocks[j](h)
            scores.append(made._auxiliary(j)(h))
        assert torch.equal(made.logits(x), scores[-1])
        total = sum(2**j * z for j, z in enumerate(scores))
        expected = total / sum(2**j for j in range(phase + 1))
        assert torch.allclose(made.logits(x, "ensemble"), expected, atol=1e-5)
        restored = method().eval()
        restored.load_state_dict(copy.deepcopy(made.state_dict()))
        assert torch.equal(restored.logits(x), scores[-1])


def test_the_budget_is_split_equally_and_progress_tells_the_phase() -> None:
    made = method()
    for total in (1, 3, 7, 60, 61):
        phases = made.phases(total)
        assert sum(n for _, n in phases) == total
        assert max(n for _, n in phases) - min(n for _, n in phases) <= 1
        names = [name for name, n in phases for _ in range(n)]
        assert names == [f"block_{int(4 * i / total + 1e-9)}" for i in range(total)]


def test_the_learning_rate_steps_down_in_every_phase() -> None:
    made, (x, y) = method(), batch(8)
    for phase in range(4):
        name = f"block_{phase}"
        rates = []
        for share in (0.0, 0.29, 0.31, 0.61, 0.91):
            made.train_step(made.frozen(x, name), y, name, (phase + share) / 4)
            rates.append(made.optimizers[phase].param_groups[0]["lr"])
        assert rates == pytest.approx([0.1, 0.1, 0.02, 0.004, 0.0008])


def test_a_milestone_that_a_step_falls_on_is_reached_whatever_the_rounding() -> None:
    made, (x, y) = method(), batch(8)
    steps_each = 10 * 391  # shares of it times four are no round numbers in binary
    for phase in range(4):
        name = f"block_{phase}"
        for tenths, rate in ((3, 0.02), (6, 0.004), (9, 0.0008)):
            step = phase * steps_each + tenths * 391
            made.train_step(made.frozen(x, name), y, name, step / (4 * steps_each))
            assert made.optimizers[phase].param_groups[0]["lr"] == pytest.approx(rate)


@pytest.mark.parametrize("lr", [0.01, 0.1, 1.0])
def test_dense_blocks_behind_convolutions_have_a_fifth_of_any_rate(lr: float) -> None:
    made = make("layerwise", architecture="cnn-small", k=1, lr=lr)
    assert made.rates == pytest.approx([lr, lr, lr, 0.2 * lr])
    assert make("layerwise", architecture="cnn-small", k=2, lr=lr).rates == [lr] * 4
    assert make("layerwise", k=1, lr=lr).rates == [lr] * 2


def test_each_block_starts_with_an_optimizer_of_its_own() -> None:
    made = method()
    steps(made, 0)
    assert made.optimizers[0].state and not made.optimizers[1].state


def test_rows() -> None:
    assert [row.id for row in rows_of(["layerwise"])] == [f"layerwise-k{k}" for k in (1, 2, 3)]
    for row, k in zip(rows_of(["layerwise"]), (1, 2, 3), strict=True):
        assert Case(row, CONV).make().config.k == k
