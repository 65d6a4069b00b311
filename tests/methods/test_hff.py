"""HFF: closed forms, finite differences and second implementations."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods import METHODS, Task, hff
from methods.base import resolve_config
from suites import contract
from suites.case import Case
from suites.engine.architectures import ARCHITECTURES
from suites.request import expand
from suites.suite import Row
from suites.tables.ablation_hff import CHOICES, ON_FEATURE_MAPS, SUITE
from tests.methods.toy import batch, make

LOSSES = ("ce", "smooth", "pairwise")


def config(**settings: Any) -> hff.HFFConfig:
    return resolve_config(METHODS["hff"], settings)


def head(n_classes: int = 5, dim: int = 12, **settings: Any) -> hff.PrototypeHead:
    blocks = ARCHITECTURES["mlp-2x500"].blocks(Task("t", (1, 2, 2), 5), width=dim / 500)
    return hff.PrototypeHead(blocks[0], n_classes, config(**settings))


def scores(n: int = 7, n_classes: int = 5) -> tuple[Tensor, Tensor]:
    """Cosines and labels."""
    rng = torch.Generator().manual_seed(0)
    s = 2 * torch.rand(n, n_classes, dtype=torch.float64, generator=rng) - 1
    return s, torch.randint(n_classes, (n,), generator=rng)


# ----------------------------------------------------------------------------- the losses


def by_hand(s: Any, y: Any, scale: float, c: hff.HFFConfig) -> float:
    """The losses as their equations, sample by sample and class by class."""
    losses = []
    for cosines, true in zip(s, y, strict=True):
        wrong = [v for j, v in enumerate(cosines) if j != true]
        right = cosines[true]
        if c.loss == "ce":
            top = np.exp(scale * (right - c.margin))
            losses.append(-np.log(top / (top + sum(np.exp(scale * v) for v in wrong))))
        elif c.loss == "smooth":
            highest = c.temperature * np.log(sum(np.exp(v / c.temperature) for v in wrong))
            losses.append(np.log1p(np.exp(scale * (c.margin + highest - right))))
        else:
            each = [np.log1p(np.exp(scale * (c.margin + v - right))) for v in wrong]
            losses.append(sum(each) / len(each))
    return float(np.mean(losses))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_hff_losses_against_numpy(loss: str, margin: float) -> None:
    s, y = scores()
    c = config(loss=loss, margin=margin, temperature=0.3)
    found = hff.margin_loss(s, y, 6.0, c)
    assert float(found) == pytest.approx(by_hand(s.numpy(), y.numpy(), 6.0, c), rel=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_hff_gradients_of_losses_against_finite_differences(loss: str) -> None:
    s, y = scores()
    c = config(loss=loss, margin=0.2, temperature=0.3)
    scale = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s, scale: hff.margin_loss(s, y, scale, c), (s.requires_grad_(), scale)
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("k", [1, 3])
def test_hff_gradients_of_prototypes_against_finite_differences(loss: str, k: int) -> None:
    c = config(loss=loss, prototypes=k, learn_scale=True)
    one = head(prototypes=k, learn_scale=True).double()
    h = torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 4, 1])

    def value(h: Tensor, *parameters: Tensor) -> Tensor:
        return hff.margin_loss(one(h), y, one.scale, c)

    assert torch.autograd.gradcheck(value, (h, *one.parameters()))


def test_hff_ce_is_the_softplus_of_the_log_sum_exp() -> None:
    """Without a margin, CE(s, y) = softplus(LSE over wrong classes − s_y)."""
    s, y = scores()
    wrong = (8 * s).masked_fill(F.one_hot(y, 5).bool(), -math.inf).logsumexp(1)
    right = 8 * s[torch.arange(7), y]
    found = hff.margin_loss(s, y, 8.0, config(margin=0.0))
    assert torch.allclose(found, F.softplus(wrong - right).mean(), atol=1e-12)


def test_hff_smooth_at_the_temperature_of_the_scale_is_ce() -> None:
    s, y = scores()
    smooth = config(loss="smooth", margin=0.3, temperature=1 / 8)
    ce = hff.margin_loss(s, y, 8.0, config(margin=0.3))
    assert torch.allclose(hff.margin_loss(s, y, 8.0, smooth), ce, atol=1e-12)


def test_hff_floor_of_the_loss() -> None:
    """With unit vectors the loss cannot fall below log(1 + (C−1) exp(−s C/(C−1)))."""
    c, scale = 5, 4.0
    # vertices of a simplex: the best possible prototypes, with every sample on its own
    p = F.normalize(torch.eye(c, dtype=torch.float64) - 1 / c, dim=1)
    loss = hff.margin_loss(p @ p.T, torch.arange(c), scale, config(margin=0.0))
    floor = math.log1p((c - 1) * math.exp(-scale * c / (c - 1)))
    assert float(loss) == pytest.approx(floor, rel=1e-9)
    q = F.normalize(torch.randn(c, c, dtype=torch.float64), dim=1)
    assert hff.margin_loss(q @ q.T, torch.arange(c), scale, config(margin=0.0)) > floor


# ------------------------------------------------------------------------------- the head


def test_hff_scores_are_cosines_against_numpy() -> None:
    one = head(prototypes=1)
    with torch.no_grad():  # of all lengths, as they are after some training
        one.prototypes.mul_(torch.rand(5, 1, 1) + 0.5)
    h = torch.randn(6, 12)
    p, z = one.prototypes.detach().numpy()[:, 0], h.numpy()
    expected = (z @ p.T) / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(p, axis=1)[None]
    assert np.allclose(one(h).detach().numpy(), expected, atol=1e-6)
    assert torch.allclose(one(3.7 * h), one(h), atol=1e-6)  # length carries no information


def test_hff_several_prototypes_against_numpy() -> None:
    several = head(prototypes=3, beta=5.0).double()
    h = torch.randn(4, 12, dtype=torch.float64)
    p, z = several.prototypes.detach().numpy(), h.numpy()
    expected = np.empty((4, 5))
    for b in range(4):
        for c in range(5):
            cosines = [z[b] @ q / np.linalg.norm(z[b]) / np.linalg.norm(q) for q in p[c]]
            expected[b, c] = np.log(np.mean(np.exp(5 * np.array(cosines)))) / 5
    assert np.allclose(several(h).detach().numpy(), expected, atol=1e-12)


def test_hff_equal_prototypes_score_like_one() -> None:
    several, one = head(prototypes=4), head(prototypes=1)
    with torch.no_grad():
        several.prototypes.copy_(one.prototypes.expand(-1, 4, -1))
    h = torch.randn(6, 12)
    assert torch.allclose(several(h), one(h), atol=1e-6)


@pytest.mark.parametrize(("n", "dim"), [(4, 3), (10, 62), (20, 19), (50, 200)])
def test_hff_separated_start_is_a_simplex_where_one_fits(n: int, dim: int) -> None:
    torch.manual_seed(0)
    points = hff.separated(F.normalize(torch.randn(n, dim), dim=1))
    assert torch.allclose(points.norm(dim=1), torch.ones(n), atol=1e-6)
    assert largest_cosines(points).max() == pytest.approx(-1 / (n - 1), abs=0.005)


@pytest.mark.parametrize(("n", "dim"), [(20, 8), (50, 10), (100, 62)])
def test_hff_separated_start_is_wider_than_chance(n: int, dim: int) -> None:
    torch.manual_seed(0)
    points = F.normalize(torch.randn(n, dim), dim=1)
    before, after = largest_cosines(points), largest_cosines(hff.separated(points))
    assert after.max() < 0.5 * before.max() and after.mean() < 0.6 * before.mean()


def largest_cosines(points: Tensor) -> Tensor:
    return (points @ points.T).fill_diagonal_(-2).max(1).values


def test_hff_separated_start_follows_the_gradient() -> None:
    """One step without momentum, against autograd on the mean of the largest cosines."""
    points = F.normalize(torch.randn(6, 4, dtype=torch.float64), dim=1)
    free = points.clone().requires_grad_()
    mask = torch.eye(6, dtype=torch.bool)
    (free @ free.T).masked_fill(mask, -2.0).max(1).values.mean().backward()
    expected = F.normalize(points - 0.1 * free.grad, dim=1)
    assert torch.allclose(hff.separated(points, steps=1), expected, atol=1e-12)


def test_hff_separated_start_is_used_and_repeats() -> None:
    torch.manual_seed(0)
    one = head(start="separated")
    torch.manual_seed(0)
    two = head(start="separated")
    assert torch.equal(one.prototypes, two.prototypes)
    assert largest_cosines(one.prototypes.detach().flatten(0, 1)).max() == pytest.approx(
        -1 / 9, abs=0.01
    )


@pytest.mark.parametrize(
    ("settings", "dim", "kernel"),
    [
        ({}, 128 * 16, (1, 1)),
        ({"aux_positions": 4}, 128 * 4, (1, 1)),
        ({"aux_positions": 1, "aux_channels": 7}, 7, (1, 1)),
        ({"aux": "3x3", "aux_channels": 7}, 7 * 16, (3, 3)),
        ({"aux": "3x3", "aux_channels": 7, "aux_positions": 1}, 7, (3, 3)),
        ({"aux": "none"}, 8 * 16, None),
        ({"aux": "none", "aux_positions": 4}, 8 * 4, None),
    ],
)
def test_hff_shapes_of_auxconv(
    settings: dict[str, Any], dim: int, kernel: tuple[int, int] | None
) -> None:
    method = make("hff", architecture="cnn-small", prototypes=3, **settings)
    first = method.aux["head_0"]  # of a block of 8 channels on 8x8 pixels
    h = torch.randn(2, *method.blocks[0].out_shape)
    assert getattr(first.aux_conv, "kernel_size", None) == kernel
    assert first.embed(h).shape == (2, dim)
    assert first.prototypes.shape == (5, 3, dim)
    assert first(h).shape == (2, 5)


@pytest.mark.parametrize("aux", ["1x1", "3x3"])
def test_hff_embedding_is_auxconv_then_pooling(aux: str) -> None:
    """Whatever the order in which the two are computed."""
    first = make("hff", architecture="cnn-small", aux=aux).aux["head_0"]
    h = torch.randn(3, 8, 8, 8)
    expected = F.avg_pool2d(first.aux_conv(h), 2).flatten(1)
    assert torch.allclose(first.embed(h), expected, atol=1e-5)


# ------------------------------------------------------------------------------- the rule


def test_hff_learned_scale_moves_and_stays_positive() -> None:
    method = make("hff", learn_scale=True, scale=2.0, lr=0.5)  # large steps, both ways
    x, y = batch(32)
    seen = []
    for i in range(30):
        method.train_step(x, y, "all", i / 30)
        seen.append(float(method.head.scale.detach()))
    assert min(seen) > 0 and len(set(seen)) == 30
    assert not hasattr(make("hff").head, "log_scale")
    assert make("hff", scale=3.0).head.scale == 3.0


def test_hff_logits_of_sum_use_the_scale_of_each_block() -> None:
    method = make("hff", learn_scale=True)
    x, _ = batch()
    with torch.no_grad():
        method.head.log_scale.fill_(math.log(3.0))
        last = method.logits(x)
        h = method.blocks[0](x)
        first = 16 * method.aux["head_0"](h)
        assert torch.allclose(method.logits(x, "sum"), first + last, atol=1e-5)
        inside = method.head(method.blocks[1](hff.rms_norm(h)))
        assert torch.allclose(last, 3 * inside, atol=1e-5)


@pytest.mark.parametrize("learned", [True, False])
def test_hff_prototypes_move_only_when_learned(learned: bool) -> None:
    method = make("hff", learn_prototypes=learned)
    heads = [method.aux["head_0"], method.head]
    before = [one.prototypes.detach().clone() for one in heads]
    method.train_step(*batch(), "all", 0.0)
    for one, start in zip(heads, before, strict=True):
        assert torch.equal(one.prototypes, start) is not learned


@pytest.mark.parametrize("shape", [(9,), (4, 3, 3)])
def test_hff_between_against_numpy(shape: tuple[int, ...]) -> None:
    h = torch.randn(5, *shape) + 0.7
    flat = h.flatten(1).numpy()
    centred = flat - flat.mean(1, keepdims=True)
    expected = {
        "rms": flat / np.sqrt((flat**2).mean(1, keepdims=True)),
        "layer": centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5),
        "l2": flat / np.sqrt((flat**2).sum(1, keepdims=True)),
        "none": flat,
    }
    for between, values in expected.items():
        found = make("hff", between=between)._between(h)
        assert found.shape == h.shape
        assert np.allclose(found.flatten(1).numpy(), values, atol=1e-5), between


@pytest.mark.parametrize("architecture", ["mlp-2x500", "cnn-small"])
def test_hff_matches_before_or_behind_the_relu(architecture: str) -> None:
    x, y = batch(32)
    lowest = {}
    for match in ("before", "after"):
        method = make("hff", architecture=architecture, match=match)
        read: list[Tensor] = []
        for one in [*method.aux.values(), method.head]:
            one.register_forward_pre_hook(lambda module, args, read=read: read.append(args[0]))
        method.train_step(x, y, "all", 0.0)
        assert len(read) == len(method.blocks)
        method.logits(x)
        assert len(read) == len(method.blocks) + 1
        lowest[match] = [float(h.detach().min()) for h in read]
        assert all(bool((h >= 0).all()) for h in method.features(x))
    assert max(lowest["before"]) < 0
    assert min(lowest["after"]) >= 0


def test_hff_refuses_to_match_inside_residual_units() -> None:
    task = Task("t", (1, 16, 16), 5)
    blocks = ARCHITECTURES["resnet18"].blocks(task, width=1 / 8)
    assert METHODS["hff"].refuse(blocks, task, config(match="before"))
    assert METHODS["hff"].refuse(blocks, task, config()) is None


# ------------------------------------------------------- planted bugs, and the tests for them


def plant(monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str) -> None:
    """Replaces a class or function of methods.hff by one with an edited source."""
    source = inspect.getsource(getattr(hff, name))
    assert source.count(old) == 1
    namespace = dict(vars(hff))
    exec(source.replace(old, new), namespace)
    monkeypatch.setattr(hff, name, namespace[name])


@pytest.mark.parametrize(
    ("name", "old", "new", "test"),
    [
        (
            "PrototypeHead",
            "F.normalize(self.prototypes, dim=2)",
            "self.prototypes",
            test_hff_scores_are_cosines_against_numpy,
        ),
        (
            "PrototypeHead",
            "- math.log(k)",
            "",
            test_hff_equal_prototypes_score_like_one,
        ),
        (
            "margin_loss",
            "config.margin * true",
            "config.margin * (1 - true)",
            lambda: test_hff_losses_against_numpy("ce", 0.2),
        ),
        (
            "margin_loss",
            "config.margin + wrong - right",
            "wrong - right - config.margin",
            lambda: test_hff_losses_against_numpy("smooth", 0.2),
        ),
        (
            "margin_loss",
            "(1 - true) * pairs",
            "pairs",
            lambda: test_hff_losses_against_numpy("pairwise", 0.2),
        ),
    ],
    ids=["unnormalised", "no log K", "margin on wrong", "margin's sign", "pair with itself"],
)
def test_hff_planted_bugs_are_caught(
    monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str, test: Callable[[], None]
) -> None:
    test()
    plant(monkeypatch, name, old, new)
    with pytest.raises(AssertionError):
        test()


# ------------------------------------------------------------------- settings, in combination

COMBINED = (
    ("mlp-2x500", {"loss": "smooth", "match": "before", "between": "layer", "prototypes": 1}),
    ("mlp-2x500", {"loss": "pairwise", "learn_scale": True, "between": "l2", "lr": 5e-3}),
    ("cnn-small", {"learn_prototypes": False, "start": "separated", "aux": "none"}),
    ("cnn-small", {"aux": "3x3", "aux_positions": 1, "learn_scale": True, "match": "before"}),
)
QUICK_CHECKS = (
    "train_step", "shapes", "every_unit_is_trained", "learns", "resume", "locality",
    "auxiliary_parameters", "passes",
)  # fmt: skip


@pytest.mark.parametrize("check", QUICK_CHECKS)
@pytest.mark.parametrize(("architecture", "settings"), COMBINED, ids=["a", "b", "c", "d"])
def test_hff_keeps_the_contract_with_other_settings(
    architecture: str, settings: dict[str, Any], check: str
) -> None:
    case = Case(Row("hff-other", "HFF, other", "hff", settings), architecture)
    assert case.refusal() is None
    contract.CHECKS[check](case)


def test_hff_ablation_varies_something_in_every_row() -> None:
    rows = [*CHOICES, *ON_FEATURE_MAPS]
    configs = {config(**row.settings) for row in rows}
    assert config() not in configs
    assert len(configs) == len({row.id for row in rows}) == len(rows)


def test_hff_ablation_has_a_place_for_every_row_where_it_matters() -> None:
    plan = expand(SUITE, "quick", "")
    places = {(cell["row"], cell["column"]) for cell in plan.plan["cells"]}
    assert {row for row, column in places if "cnn" in column} == {
        row["id"] for row in plan.plan["rows"]
    }
    assert ("hff-k1", "digits/mlp-2x500") in places
    assert ("hff-aux-none", "digits/mlp-2x500") not in places
    assert len({wanted.cell.key for wanted in plan.wanted}) == len(plan.wanted)
