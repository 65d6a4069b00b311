"""How far a method's training signals travel, measured on the method itself.

Three independent looks at one training step:

    chains       autograd's graph of every loss: how many layers its gradient goes through
    crossings    the same graph: which units it joins
    influences   no graph: a later unit is perturbed, and the updates of earlier ones are compared
                 bit for bit, which also finds error signals that no graph shows

A unit is a part with a loss of its own (`Method.units`); a layer is a trained matrix product or
convolution. Each function examines the first step of every phase, after some training of the
phases before it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods import Method

# Nodes of autograd's graph that multiply by a matrix or a convolution kernel.
PRODUCTS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Addmv", "Mv", "Convolution", "Linear", "Einsum")
MASKS = 4
STEPS = 60  # the budget that a subject's schedule believes in


@dataclass(frozen=True)
class Subject:
    """What is examined: a method on a small problem.

    Attributes:
        make: a newly initialised method in training mode, the same at every call.
        batch: i -> standardised images and labels of mini-batch i.
    """

    make: Callable[[], Method]
    batch: Callable[[int], tuple[Tensor, Tensor]]

    def rehearse(self, phase: int, trained: int) -> Method:
        """A method that has made `trained` steps in this phase and in each before it."""
        method = self.make()
        for p in range(phase + 1):
            for i in range(trained):
                self.step(method, p, i)
        return method

    def step(self, method: Method, phase: int, i: int) -> None:
        """Step i of a phase."""
        phases = method.phases(STEPS)
        name = phases[phase][0]
        begun = sum(n for _, n in phases[:phase])
        x, y = self.batch(begun + i)
        with torch.no_grad():
            x = method.frozen(x, name)
        method.train_step(x, y, name, min(begun + i, STEPS - 1) / STEPS)

    def phases(self) -> range:
        """Indices of the phases."""
        return range(len(self.make().phases(STEPS)))


# ------------------------------------------------------------------- what the graph shows


@dataclass(frozen=True)
class Chains:
    """Layers that gradients go through in one training step.

    Attributes:
        longest: layers on the longest path from a loss to a weight; 0 where autograd is not used.
        nearest: the same for the shortest path, of the unit that is farthest from every loss.
    """

    longest: int
    nearest: int


def chains(subject: Subject, trained: int = 2) -> Chains:
    """The longest chain of layers that a loss is differentiated through, and the nearest loss."""
    longest, nearest = 0, 0
    for phase in subject.phases():
        method = subject.rehearse(phase, trained)
        owner = {id(p): i for i, unit in enumerate(method.units()) for p in unit.parameters()}
        shortest: dict[int, int] = {}
        with _roots() as roots:
            subject.step(method, phase, trained)
        for root in roots:
            longest = max(longest, _longest(root))
            for unit, layers in _shortest(root, owner).items():
                shortest[unit] = min(layers, shortest.get(unit, layers))
        nearest = max(nearest, max(shortest.values(), default=0))
    return Chains(longest, nearest)


@contextlib.contextmanager
def _roots() -> Iterator[list[Any]]:
    """Collects the graph of everything that is differentiated inside."""
    found: list[Any] = []
    kept = torch.autograd.backward, torch.autograd.grad

    def note(tensors: Any) -> None:
        for t in [tensors] if isinstance(tensors, Tensor) else tensors:
            if t.grad_fn is not None:
                found.append(_Frozen(t.grad_fn))

    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        note(tensors)
        return kept[0](tensors, *args, **kwargs)

    def grad(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        note(outputs)
        return kept[1](outputs, *args, **kwargs)

    torch.autograd.backward, torch.autograd.grad = backward, grad
    try:
        yield found
    finally:
        torch.autograd.backward, torch.autograd.grad = kept


class _Frozen:
    """A node of autograd's graph as it was before its step freed or changed anything."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.children: dict[Any, list[Any]] = {}
        self.order: list[Any] = []  # children before parents
        waiting = [(root, False)]
        while waiting:
            node, expanded = waiting.pop()
            if expanded:
                self.order.append(node)
            elif node not in self.children:
                found = [child for child, _ in node.next_functions if child is not None]
                self.children[node] = found
                waiting.append((node, True))
                waiting.extend((child, False) for child in found if child not in self.children)

    def layers(self) -> dict[Any, int]:
        """1 for a node that multiplies by a trained matrix or kernel, else 0."""
        bare: dict[Any, bool] = {}  # leads to a trained matrix through no other product
        found = {}
        for node in self.order:
            below = any(bare.get(child, False) for child in self.children[node])
            product = _is_product(node)
            found[node] = int(product and below)
            bare[node] = _matrix(node) or (below and not product)
        return found


def _is_product(node: Any) -> bool:
    custom = isinstance(node, torch.autograd.function.BackwardCFunction)
    return custom or type(node).__name__.startswith(PRODUCTS)


def _matrix(node: Any) -> bool:
    variable = getattr(node, "variable", None)
    return variable is not None and variable.dim() >= 2


def _longest(graph: _Frozen) -> int:
    layers = graph.layers()
    depth: dict[Any, int] = {}
    for node in graph.order:
        below = (depth[child] for child in graph.children[node])
        depth[node] = layers[node] + max(below, default=0)
    return depth[graph.root]


def _shortest(graph: _Frozen, owner: dict[int, int]) -> dict[int, int]:
    """unit -> layers on the shortest path from the root to one of its weights."""
    layers = graph.layers()
    found: dict[int, int] = {}
    above = {graph.root: 0}
    for node in reversed(graph.order):
        here = above[node] + layers[node]
        unit = owner.get(id(getattr(node, "variable", None)))
        if unit is not None and _matrix(node):
            found[unit] = min(here, found.get(unit, here))
        for child in graph.children[node]:
            above[child] = min(here, above.get(child, here))
    return found


def crossings(subject: Subject, trained: int) -> list[str]:
    """Pairs of units that autograd's graph joins in one training step.

    Whatever a part of a unit puts out is followed back through the graph that made it; it may lead
    to parameters of that unit and of none of the others.
    """
    found: list[str] = []
    for phase in subject.phases():
        method = subject.rehearse(phase, trained)
        owner = {id(p): i for i, unit in enumerate(method.units()) for p in unit.parameters()}

        watch = functools.partial(_note_crossing, found, owner)
        hooks = [
            part.register_forward_hook(functools.partial(watch, i))
            for i, unit in enumerate(method.units())
            for part in unit.modules()
        ]
        subject.step(method, phase, trained)
        for hook in hooks:
            hook.remove()
    return list(dict.fromkeys(found))


def _note_crossing(
    found: list[str], owner: dict[int, int], unit: int, module: nn.Module, args: Any, out: Any
) -> None:
    if isinstance(out, Tensor) and out.grad_fn is not None:
        for other in sorted(_leaves(out.grad_fn, owner) - {unit}):
            found.append(f"gradients of unit {unit} reach unit {other}")


def _leaves(root: Any, owner: dict[int, int]) -> set[int]:
    """Owners of the parameters that a node of autograd's graph leads back to."""
    reached, seen, waiting = set(), set(), [root]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if id(getattr(node, "variable", None)) in owner:
            reached.add(owner[id(node.variable)])
        waiting.extend(parent for parent, _ in node.next_functions)
    return reached


# --------------------------------------------------------------- what no graph need show


def influences(subject: Subject, trained: int) -> list[str]:
    """Pairs of units where perturbing the later one changes the update of the earlier one."""
    found = []
    for phase in subject.phases():
        method = subject.rehearse(phase, trained)
        state = copy.deepcopy(method.state_dict())
        subject.step(method, phase, trained)
        plain = [flat_parameters(unit) for unit in method.units()]
        for j in range(1, len(plain)):
            method = subject.make()
            method.load_state_dict(copy.deepcopy(state))
            with torch.no_grad():
                for parameter in method.units()[j].parameters():
                    noise = torch.randn(parameter.shape, generator=Generator().manual_seed(j))
                    parameter.add_(0.5 * noise)
            subject.step(method, phase, trained)
            units = method.units()
            for i in range(j):
                if not torch.equal(flat_parameters(units[i]), plain[i]):
                    found.append(f"the update of unit {i} depends on the weights of unit {j}")
    return list(dict.fromkeys(found))


def follows_gradient(subject: Subject, trained: int) -> bool:
    """Whether the first unit moves along the true gradient of the predictions' cross-entropy.

    The gradient that the step left in `.grad` is held against finite differences of that loss on
    the same mini-batch: along it, the loss must rise by its squared length. Back-propagation of
    one loss passes; local losses, added losses and random feedback do not.
    """
    phase = subject.phases()[-1]
    method = subject.rehearse(phase, trained)
    x, y = subject.batch(sum(n for _, n in method.phases(STEPS)[:phase]) + trained)
    state = copy.deepcopy(method.state_dict())
    subject.step(method, phase, trained)
    unit = list(method.units()[0].parameters())
    if any(p.grad is None for p in unit):
        return False
    gradient = [p.grad.clone() for p in unit if p.grad is not None]
    rng = Generator().manual_seed(0)
    for _ in range(MASKS):
        # each random half of the entries must predict its own share of the rise
        half = [g * torch.randint(2, g.shape, generator=rng) for g in gradient]
        squared = sum(float(h.square().sum()) for h in half)
        if squared == 0:
            return False
        size = 1e-3 * sum(float(p.detach().square().sum()) for p in unit) ** 0.5 / squared**0.5
        losses = []
        for sign in (1, -1):
            method = subject.make()
            method.load_state_dict(copy.deepcopy(state))
            losses.append(_loss_at(method, half, sign * size, x, y))
        rise = (losses[0] - losses[1]) / (2 * size)
        if not 0.9 < rise / squared < 1.1:
            return False
    return True


@torch.no_grad()
def _loss_at(method: Method, step: list[Tensor], size: float, x: Tensor, y: Tensor) -> float:
    """Cross-entropy of the headline prediction in training mode, the first unit moved by a step."""
    readout = method.traits.readouts[0]
    if readout not in method.traits.sampled:  # or its noise would be another than the step's
        method, x = method.double(), x.double()
    for p, d in zip(method.units()[0].parameters(), step, strict=True):
        p.add_(d.to(p.dtype), alpha=size)
    return float(F.cross_entropy(method.logits(x, readout, method.rng).double(), y))


def flat_parameters(module: nn.Module) -> Tensor:
    """All parameters of a module in one vector."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])
