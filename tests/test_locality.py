"""The audit: measurements that would miss a leak would certify it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.autograd import grad

from methods import Blocks, Method, Task, Traits, load_builtin
from methods.base import trainable
from suites.auditing import locality, measure
from suites.auditing.subject import Subject
from suites.case import toy

load_builtin()


@dataclass(frozen=True)
class Config:
    pass


class Bench(Method):
    """A rule whose losses are given by a function of all activities, for the tests below."""

    name, label, version, source = "bench", "Bench", 1, "here"
    traits = Traits(local_updates=True)
    Config = Config
    losses: Callable[[Bench, Tensor, Tensor], list[Tensor]]

    def __init__(self, blocks: Blocks, task: Task, config: Any, rng: Generator) -> None:
        super().__init__(blocks, task, config, rng)
        self.heads = nn.ModuleList(nn.Linear(b.out_features, task.n_classes) for b in blocks)
        self.optimizer = torch.optim.SGD(trainable(self), 0.1)

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        losses = type(self).losses(self, x, y)
        for loss in losses:
            loss.backward()
        self.optimizer.step()
        return {"loss": losses[-1].detach()}

    def logits(self, x: Tensor, readout: str = "last", rng: Generator | None = None) -> Tensor:
        return self.heads[-1](self.blocks(x).flatten(1))


Losses = Callable[["Bench", Tensor, Tensor], list[Tensor]]


def subject(losses: Losses | None = None, depth: int = 4, cls: type[Bench] = Bench) -> Any:
    if losses is not None:
        cls = type("Planted", (cls,), {"losses": losses})
    task = Task("toy", (1, 16, 16), 4)

    def make() -> Method:
        torch.manual_seed(0)
        blocks = Blocks(measure.mlp(depth, 12)(task, cls.style(None), 1.0))
        return cls(blocks, task, Config(), Generator().manual_seed(0)).train()

    return Subject(make, lambda i: toy(16, seed=i))


def global_loss(m: Bench, x: Tensor, y: Tensor) -> list[Tensor]:
    return [F.cross_entropy(m.logits(x), y)]


def local_losses(m: Bench, x: Tensor, y: Tensor) -> list[Tensor]:
    found = []
    for block, head in zip(m.blocks, m.heads, strict=True):
        h = block(x)
        found.append(F.cross_entropy(head(h), y))
        x = h.detach()
    return found


def paired_losses(m: Bench, x: Tensor, y: Tensor) -> list[Tensor]:
    """Blocks in pairs: the detach stands behind every second one only."""
    found = []
    for l, (block, head) in enumerate(zip(m.blocks, m.heads, strict=True)):
        x = block(x)
        if l % 2:
            found.append(F.cross_entropy(head(x), y))
            x = x.detach()
    return found


def scale_of_later(m: Bench, x: Tensor, y: Tensor) -> list[Tensor]:
    """No graph joins the blocks, but the size of the next block scales each loss."""
    losses = local_losses(m, x, y)
    sizes = [float(block.weights.weight.detach().norm()) for block in m.blocks]
    return [
        loss * size for loss, size in zip(losses, [*sizes[1:], 1.0], strict=True)
    ]  # fmt: skip


def similarity_losses(m: Bench, x: Tensor, y: Tensor) -> list[Tensor]:
    """A product of activities with themselves is no trained layer."""
    found = []
    for block in m.blocks:
        h = block(x)
        found.append((h @ h.T).square().mean())
        x = h.detach()
    return found


@pytest.mark.parametrize(
    ("losses", "longest", "nearest"),
    [
        (global_loss, 5, 5),
        (local_losses, 2, 2),
        (paired_losses, 3, 3),
        (similarity_losses, 1, 1),
    ],
)
def test_chains_are_counted_in_the_graph(losses: Any, longest: int, nearest: int) -> None:
    """A deep network of 4 blocks and heads: what is detached where decides."""
    assert locality.chains(subject(losses)) == locality.Chains(longest, nearest)


def test_chain_grows_with_depth_only_without_detach() -> None:
    for depth in (2, 6):
        assert locality.chains(subject(global_loss, depth)).longest == depth + 1
        assert locality.chains(subject(local_losses, depth)).longest == 2


def test_a_hidden_dependence_is_found_without_a_graph() -> None:
    """A gradient norm, or the size of a later layer, is news from later units all the same."""
    planted = subject(scale_of_later)
    assert not locality.crossings(planted, 2)
    assert locality.influences(planted, 2)
    assert not locality.influences(subject(local_losses), 2)


def test_only_backprop_of_one_loss_follows_the_true_gradient() -> None:
    assert locality.follows_gradient(subject(global_loss), 2)
    assert not locality.follows_gradient(subject(local_losses), 2)

    def wrong_sign(m: Bench, x: Tensor, y: Tensor) -> list[Tensor]:
        return [-loss for loss in global_loss(m, x, y)]

    assert not locality.follows_gradient(subject(wrong_sign), 2)


def test_a_gradient_that_is_not_kept_is_not_judged() -> None:
    """What lies in .grad from before the step is not the step's."""

    class Silent(Bench):
        losses = global_loss

        def train_step(self, x: Tensor, y: Tensor, phase: str, p: float) -> dict[str, Tensor]:
            found = super().train_step(x, y, phase, p)
            self.optimizer.zero_grad()
            return found

    assert locality.follows_gradient(subject(global_loss, cls=Silent), 2) is None


def test_a_step_against_its_gradient_does_not_follow_it() -> None:
    """The true gradient in .grad is worth nothing if the update takes another way."""

    class Uphill(Bench):
        losses = global_loss

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.optimizer = torch.optim.SGD(trainable(self), 0.1, maximize=True)

    assert locality.follows_gradient(subject(global_loss, cls=Uphill), 2) is False


def test_measuring_leaves_autograd_as_it_was() -> None:
    before = torch.autograd._engine_run_backward
    locality.chains(subject(global_loss))
    assert torch.autograd._engine_run_backward is before


# --------------------------------------------------------------- leaks that are hard to see


class Delayed(Bench):
    """Each step scales the losses by the size that the last block had one step ago."""

    losses = local_losses

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.register_buffer("size", torch.ones(()))

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        found = [loss * self.size for loss in local_losses(self, x, y)]
        torch.stack(found).sum().backward()
        self.optimizer.step()
        self.size = self.blocks[-1].weights.weight.detach().norm()
        return {"loss": found[-1].detach()}


class OneHead(Bench):
    """All blocks are judged by one head, which they all train."""

    def losses(self, x: Tensor, y: Tensor) -> list[Tensor]:
        found = []
        for block in self.blocks:
            h = block(x)
            found.append(F.cross_entropy(self.heads[-1](h), y))
            x = h.detach()
        return found


class NextHead(Bench):
    """Every block is judged by the head of the next one, which that one trains."""

    def losses(self, x: Tensor, y: Tensor) -> list[Tensor]:
        found = []
        for l, block in enumerate(self.blocks):
            h = block(x)
            heads = self.heads[l : l + 2]
            found.append(sum(F.cross_entropy(head(h), y) for head in heads) / len(heads))
            x = h.detach()
        return found


@pytest.mark.parametrize("leak", [Delayed, OneHead, NextHead])
def test_news_by_way_of_a_part_outside_the_units_is_found(leak: type[Bench]) -> None:
    """One step after a perturbation nothing is to be seen of these yet."""
    planted = subject(cls=leak)
    assert not locality.crossings(planted, 2)
    assert (1 if leak is NextHead else 3, 0) in locality.influences(planted, 2)


class Inputs(Bench):
    """Nothing is detached, but each loss is differentiated by its own block and head only."""

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x)
            loss = F.cross_entropy(head(x), y)
            loss.backward(inputs=trainable(block, head), retain_graph=True)
        self.optimizer.step()
        return {"loss": loss.detach()}


def test_a_graph_counts_as_far_as_it_is_differentiated() -> None:
    planted = subject(cls=Inputs)
    assert locality.chains(planted) == locality.Chains(2, 2)
    assert not locality.crossings(planted, 2) and not locality.influences(planted, 2)


class ByName(Bench):
    """Back-propagation by functions taken from torch by name, through weights used directly."""

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        parameters = trainable(self.blocks, self.heads[-1])
        h = x.flatten(1)
        for block in self.blocks:
            h = F.relu(F.linear(h, block.weights.weight, block.weights.bias))
        loss = F.cross_entropy(self.heads[-1](h), y)
        with torch.no_grad():
            for p, g in zip(parameters, grad(loss, parameters), strict=True):
                p -= 0.1 * g
        return {"loss": loss.detach()}


class Functional(ByName):
    """The same by a transformation of functions."""

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        weights = {k: v.detach() for k, v in self.named_parameters()}

        def loss(weights: dict[str, Tensor]) -> Tensor:
            h = x.flatten(1)
            for l in range(len(self.blocks)):
                place = f"blocks.{l}.weights."
                h = F.relu(F.linear(h, weights[place + "weight"], weights[place + "bias"]))
            return F.cross_entropy(F.linear(h, weights["heads.3.weight"]), y)

        gradients = torch.func.grad(loss)(weights)
        with torch.no_grad():
            for name, p in self.named_parameters():
                p -= 0.1 * gradients[name]
        return {"loss": x.new_zeros(())}


@pytest.mark.parametrize("cls", [ByName, Functional])
def test_chains_are_seen_however_they_are_differentiated(cls: type[Bench]) -> None:
    assert locality.chains(subject(cls=cls)).longest == 5
    if cls is ByName:  # weights that no module call shows
        assert (3, 0) in locality.crossings(subject(cls=cls), 2)


class HalfFrozen(Bench):
    """Every second block stands still, and the gradient goes through it all the same."""

    losses = global_loss

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        for block in self.blocks[1::2]:
            block.requires_grad_(False)


def test_layers_that_stand_still_count() -> None:
    planted = subject(cls=HalfFrozen)
    assert locality.chains(planted).longest == 5
    assert (1, 0) in locality.crossings(planted, 2)


class Both(Bench):
    """Back-propagation that asks for the gradients of activities and of weights in one call."""

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        activities = [x.flatten(1)]
        for block in self.blocks:
            activities.append(block(activities[-1]))
        loss = F.cross_entropy(self.heads[-1](activities[-1]), y)
        weights = trainable(self.blocks)
        found = grad(loss, [*activities[1:], *weights])[len(self.blocks) :]
        with torch.no_grad():
            for p, g in zip(weights, found, strict=True):
                p -= 0.1 * g
        return {"loss": loss.detach()}


class Sign(torch.autograd.Function):
    """Binary weights with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        return weight.sign()

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Tensor:  # type: ignore[override]
        return delta


def binary(m: Bench, x: Tensor, y: Tensor) -> list[Tensor]:
    h = x.flatten(1)
    for block in m.blocks:
        h = F.relu(F.linear(h, Sign.apply(block.weights.weight), block.weights.bias))
    return [F.cross_entropy(m.heads[-1](h), y)]


def test_an_activity_that_is_asked_for_is_no_end() -> None:
    assert locality.chains(subject(cls=Both)) == locality.Chains(5, 5)
    assert (3, 0) in locality.crossings(subject(cls=Both), 2)


def test_a_function_of_weights_alone_is_no_layer() -> None:
    assert locality.chains(subject(binary)).longest == 5
    assert (3, 0) in locality.crossings(subject(binary), 2)


class Late(Bench):
    """Local at first, then back-propagation."""

    begins = 0.5

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        losses = (global_loss if progress >= self.begins else local_losses)(self, x, y)
        torch.stack(losses).sum().backward()
        self.optimizer.step()
        return {"loss": losses[-1].detach()}


class AtTheEnd(Late):
    """The same in its very last step."""

    begins = 59 / 60


@pytest.mark.parametrize("cls", [Late, AtTheEnd])
def test_a_rule_that_changes_its_ways_is_found_out(cls: type[Bench]) -> None:
    planted = subject(cls=cls)
    assert locality.chains(planted).longest == 5
    assert (3, 0) in locality.confirmed(
        locality.crossings(planted, 2), locality.influences(planted, 2)
    )


class Seldom(Bench):
    """Back-propagation in every tenth step."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def train_step(self, x: Tensor, y: Tensor, phase: str, progress: float) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        self.done += 1
        losses = (local_losses if self.done % 10 else global_loss)(self, x, y)
        torch.stack(losses).sum().backward()
        self.optimizer.step()
        return {"loss": losses[-1].detach()}


def test_the_audit_meets_what_happens_in_every_tenth_step() -> None:
    assert (3, 0) in locality.influences(subject(cls=Seldom), 5, measure.FOLLOW)


def stacked(m: Bench, x: Tensor, y: Tensor) -> list[Tensor]:
    """Local losses whose products are made in one: equal blocks behind the first, in a batch."""
    inputs, h = [], m.blocks[0](x)
    found = [F.cross_entropy(m.heads[0](h), y)]
    with torch.no_grad():
        for block in list(m.blocks)[1:]:
            inputs.append(h.detach())
            h = block(h)
    weights = torch.stack([block.weights.weight for block in list(m.blocks)[1:]])
    out = torch.bmm(torch.stack(inputs), weights.transpose(1, 2)).relu()
    return found + [F.cross_entropy(head(o), y) for head, o in zip(m.heads[1:], out, strict=True)]


def test_products_made_in_one_are_not_accused() -> None:
    planted = subject(stacked_sum)
    crossed, influenced = locality.crossings(planted, 2), locality.influences(planted, 2)
    assert crossed and not influenced and not locality.confirmed(crossed, influenced)


def stacked_sum(m: Bench, x: Tensor, y: Tensor) -> list[Tensor]:
    return [torch.stack(stacked(m, x, y)).sum()]


def test_numbers_that_are_not_finite_are_no_finding() -> None:
    """Not equal to itself, a NaN would accuse every rule, and slip through every tolerance."""

    def broken(m: Bench, x: Tensor, y: Tensor) -> list[Tensor]:
        return [loss * float("nan") for loss in local_losses(m, x, y)]

    assert not locality.follows_gradient(subject(broken), 1)
