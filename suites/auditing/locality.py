"""How far a method's training signals travel, measured on the method itself.

Three independent looks at training:

    chains       autograd's graph of all that is differentiated in a step: how many layers a
                 gradient goes through on its way to a weight
    crossings    the same graph: gradients that reach one unit by way of another
    influences   no graph: a later unit is perturbed, and what becomes of the earlier ones in the
                 next steps is compared bit for bit. It also finds signals that no graph shows, and
                 news that goes by way of a shared part and arrives some steps late

What they can miss: a graph does not tell that a copy of a weight is one (`detach().clone()`), and a
reentrant checkpoint cuts it in two; news that travels more rarely than once in the steps that are
followed is not met. So `crossings` and `influences` are read together: `confirmed`.

A unit is a part with a loss of its own (`Method.units`); a layer is a product with a matrix, or a
convolution with a kernel, that is a parameter. Each function examines every phase, after some
training of it and of the phases before it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.autograd.graph import get_gradient_edge

from methods import Method
from suites.auditing.subject import Subject

# Nodes of autograd's graph that multiply by a matrix or a convolution kernel.
PRODUCTS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Addmv", "Mv", "Convolution", "Linear", "Einsum")
MASKS = 4
STEP_SIZES = (1e-3, 1e-4, 1e-5)  # of finite differences, against the length of the weights
FOLLOW = 3  # steps in a row after a perturbation: news by way of a shared part needs several
Pairs = set[tuple[int, int]]  # (later unit, earlier unit)


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
    for graphs in _graphs(subject, trained):
        shortest: dict[int, int] = {}
        for graph in graphs:
            longest = max(longest, graph.longest())
            for unit, layers in graph.shortest().items():
                shortest[unit] = min(layers, shortest.get(unit, layers))
        nearest = max(nearest, max(shortest.values(), default=0))
    return Chains(longest, nearest)


def crossings(subject: Subject, trained: int) -> Pairs:
    """(i, j): in a training step unit j gets a gradient by way of something that uses unit i."""
    found: Pairs = set()
    for graphs in _graphs(subject, trained):
        found = found.union(*(graph.crossings() for graph in graphs))
    return found


def confirmed(crossed: Pairs, influenced: Pairs) -> Pairs:
    """Crossings that show in the updates: a product of stacked weights, say, only looks like one.

    Without an influence no news came; without a crossing it did not come as a gradient.
    """
    return crossed & influenced


def _graphs(subject: Subject, trained: int) -> Iterator[list[Graph]]:
    """Of steps of each phase: all that is differentiated in them."""
    for phase in subject.phases():
        method = subject.rehearse(phase, trained)
        graphs: list[Graph] = []
        for i in subject.course(method, phase, trained, follow=1):
            note = functools.partial(_note_graph, graphs, Owners.of(method))
            with _differentiating(note):
                subject.step(method, phase, i)
        yield graphs


def _note_graph(graphs: list[Graph], owners: Owners, roots: list[Any], targets: set[Any]) -> None:
    graphs.append(Graph(roots, targets, owners))


@dataclass(frozen=True)
class Owners:
    """Which parameter belongs to which unit.

    Attributes:
        unit: id of a parameter -> its unit.
        storage: place in memory of a matrix or kernel -> its unit, None outside all units. By it a
            product with a parameter is known that is not trained at the moment.
    """

    unit: dict[int, int] = field(default_factory=dict)
    storage: dict[int, int | None] = field(default_factory=dict)

    @staticmethod
    def of(method: Method) -> Owners:
        """The owners of a method's parameters, as they lie now."""
        unit = {id(p): i for i, u in enumerate(method.units()) for p in u.parameters()}
        storage = {p.data_ptr(): unit.get(id(p)) for p in method.parameters() if p.dim() >= 2}
        return Owners(unit, storage)


@contextlib.contextmanager
def _differentiating(note: Callable[[list[Any], set[Any]], None]) -> Iterator[None]:
    """Calls note(nodes, targets) ahead of each differentiation inside.

    Whoever starts it, Tensor.backward, autograd.grad by whatever name, or torch.func, comes by the
    one function that is watched here. Targets are the nodes at which it stops; none: all leaves.
    """
    engine = torch.autograd._engine_run_backward

    def run(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = args[3] if len(args) > 3 else kwargs.get("inputs", ())
        roots = [_node(t) for t in ([tensors] if isinstance(tensors, Tensor) else tensors)]
        note([r for r in roots if r is not None], {_node(t) for t in inputs or ()})
        return engine(tensors, *args, **kwargs)

    torch.autograd._engine_run_backward = run  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.autograd._engine_run_backward = engine


def _node(tensor: Any) -> Any:
    """The node of autograd's graph behind a tensor or an edge."""
    if isinstance(tensor, Tensor):
        return get_gradient_edge(tensor).node if tensor.requires_grad else None
    return getattr(tensor, "node", None)


class Graph:
    """What one differentiation goes through, as it was before it freed or changed anything."""

    def __init__(self, roots: list[Any], targets: set[Any], owners: Owners) -> None:
        self._owners = owners
        self._roots = roots
        self._children: dict[Any, list[Any]] = {}
        self._order: list[Any] = []  # children before parents
        waiting = [(root, False) for root in roots]
        while waiting:
            node, expanded = waiting.pop()
            if expanded:
                self._order.append(node)
            elif node not in self._children:
                found = [child for child, _ in node.next_functions if child is not None]
                self._children[node] = found
                waiting.append((node, True))
                waiting.extend((child, False) for child in found if child not in self._children)
        if targets:
            self._keep_paths_to(targets)
        self._products: set[Any] = set()
        uses = self._units_used()
        # where the gradient is wanted, and goes no further: what made the activity takes no part
        ends = {node for node in targets if not self._children.get(node)}
        self._layer = {
            n: int(n in self._products and bool(uses[n]) and n not in ends) for n in uses
        }
        self._uses = {
            node: {unit for unit in used if unit is not None}
            for node, used in uses.items()
            if node not in ends
        }

    def _keep_paths_to(self, targets: set[Any]) -> None:
        leads: set[Any] = set()
        for node in self._order:
            kept = [child for child in self._children[node] if child in leads]
            self._children[node] = kept
            if kept or node in targets:
                leads.add(node)
        self._order = [node for node in self._order if node in leads]
        self._roots = [root for root in self._roots if root in leads]

    def _units_used(self) -> dict[Any, set[int | None]]:
        """Node -> units of the parameters that it uses; None stands for outside all units.

        A product uses the matrices that lead to it through no other product, normalised or
        transposed, say, and those that are not trained at the moment. Any other node, such as a
        batch norm, uses the parameters that it takes directly.
        """
        bare: dict[Any, set[int | None]] = {}  # matrices behind a node, through no product
        pure: dict[Any, bool] = {}  # whether nothing but parameters is behind a node
        found: dict[Any, set[int | None]] = {}
        for node in self._order:
            inputs = [child for child, _ in node.next_functions]
            behind = set().union(*(bare.get(child, set()) for child in inputs))
            pure[node] = not inputs or all(pure.get(child, False) for child in inputs)
            # a function of someone's own may do anything; what it makes of weights alone is weights
            if _is_product(node) and not (_is_custom(node) and pure[node]):
                self._products.add(node)
                storage = self._owners.storage
                frozen = {storage[p] for p in _saved(node) if p in storage}
                found[node], bare[node] = behind | frozen, set()
                continue
            leaves = (getattr(child, "variable", None) for child in inputs)
            found[node] = {self._owners.unit.get(id(leaf)) for leaf in leaves if leaf is not None}
            variable = getattr(node, "variable", None)
            if variable is not None and variable.dim() >= 2:
                behind = {self._owners.unit.get(id(variable))}
            bare[node] = behind
        return found

    def longest(self) -> int:
        """Layers on the longest path from a root."""
        depth: dict[Any, int] = {}
        for node in self._order:
            below = (depth[child] for child in self._children[node])
            depth[node] = self._layer[node] + max(below, default=0)
        return max((depth[root] for root in self._roots), default=0)

    def shortest(self) -> dict[int, int]:
        """unit -> layers on the shortest path from a root to one of its matrices."""
        found: dict[int, int] = {}
        above = dict.fromkeys(self._roots, 0)
        for node in reversed(self._order):
            here = above[node] + self._layer[node]
            variable: Any = getattr(node, "variable", None)
            unit = self._owners.unit.get(id(variable))
            if unit is not None and variable.dim() >= 2:
                found[unit] = min(here, found.get(unit, here))
            for child in self._children[node]:
                above[child] = min(here, above.get(child, here))
        return found

    def crossings(self) -> Pairs:
        """(i, j): a gradient goes through something that uses unit i and then reaches unit j."""
        found: Pairs = set()
        below: dict[Any, set[int]] = {}
        for node in self._order:
            unit = self._owners.unit.get(id(getattr(node, "variable", None)))
            reached = set() if unit is None else {unit}
            reached |= set().union(*(below[child] for child in self._children[node]))
            below[node] = reached
            found |= {(i, j) for i in self._uses.get(node, ()) for j in reached if i != j}
        return found


def _is_product(node: Any) -> bool:
    return _is_custom(node) or type(node).__name__.startswith(PRODUCTS)


def _is_custom(node: Any) -> bool:
    return isinstance(node, torch.autograd.function.BackwardCFunction)


def _saved(node: Any) -> Iterator[int]:
    """Places in memory of the matrices that a product keeps for its gradient."""
    names = [name for name in dir(node) if name.startswith("_saved_")]
    for value in [getattr(node, "saved_tensors", ()), *(getattr(node, n) for n in names)]:
        for tensor in value if isinstance(value, tuple) else (value,):
            if isinstance(tensor, Tensor) and tensor.dim() >= 2:
                with contextlib.suppress(RuntimeError):  # those of torch.func have no place
                    yield tensor.data_ptr()


# --------------------------------------------------------------- what no graph need show


def influences(subject: Subject, trained: int, follow: int = FOLLOW) -> Pairs:
    """(i, j): perturbing the later unit i changes what becomes of the earlier unit j.

    Args:
        follow: steps in a row that are compared, besides the middle and the end of each phase.
    """
    found: Pairs = set()
    for phase in subject.phases():
        start = subject.rehearse(phase, trained)
        steps = subject.course(start, phase, trained, follow)
        plain = _course(subject, subject.twin(start), phase, steps)
        for i in range(1, len(start.units())):
            method = subject.twin(start)
            with torch.no_grad():
                for parameter in method.units()[i].parameters():
                    noise = torch.randn(parameter.shape, generator=Generator().manual_seed(i))
                    parameter.add_(0.5 * noise)
            course = _course(subject, method, phase, steps)
            for j in range(i):
                if any(not torch.equal(a[j], b[j]) for a, b in zip(course, plain, strict=True)):
                    found.add((i, j))
    return found


def _course(subject: Subject, method: Method, phase: int, steps: list[int]) -> list[list[Tensor]]:
    """The parameters of all units after each of the steps."""
    found = []
    for i in steps:
        subject.step(method, phase, i)
        found.append([flat_parameters(unit) for unit in method.units()])
    return found


def follows_gradient(subject: Subject, trained: int) -> bool | None:
    """Whether the first unit moves along the true gradient of the predictions' cross-entropy.

    The gradient that a step leaves in `.grad` is held against finite differences of that loss on
    the same mini-batch: along it, the loss must rise by its squared length; and the step must have
    gone downhill on it. Back-propagation of one loss passes; local losses, added losses and random
    feedback do not.

    Returns:
        None where the step leaves nothing in `.grad`, so that there is nothing to compare. A
        gradient that was clipped is not the true one.
    """
    phase = subject.phases()[-1]
    start = subject.rehearse(phase, trained)
    middle = subject.course(start, phase, trained, follow=0)[0]
    x, y = subject.batch(subject.place(start, phase, middle))
    method = subject.twin(start)  # nothing lies in its .grad
    subject.step(method, phase, middle)
    unit = _trained(method)
    if any(p.grad is None for p in unit):
        return None
    gradient = [p.grad.clone() for p in unit if p.grad is not None]
    moves = [p.detach() - q.detach() for p, q in zip(unit, _trained(start), strict=True)]
    if not sum(float((m * g).sum()) for m, g in zip(moves, gradient, strict=True)) < 0:
        return False
    rng = Generator().manual_seed(0)
    # each random half of the entries must predict its own share of the rise
    halves = [
        [g * torch.randint(2, g.shape, generator=rng) for g in gradient] for _ in range(MASKS)
    ]

    def share(half: list[Tensor], relative: float) -> float:
        squared = sum(float(h.square().sum()) for h in half)
        if squared == 0:
            return 0.0
        length = sum(float(p.detach().square().sum()) for p in unit) ** 0.5
        size = relative * length / squared**0.5
        up, down = (_loss_at(subject.twin(start), half, sign * size, x, y) for sign in (1, -1))
        return (up - down) / (2 * size) / squared

    # a loss may bend within the longer of these steps, and drown in rounding within the shorter
    return any(all(0.9 < share(half, size) < 1.1 for half in halves) for size in STEP_SIZES)


def _trained(method: Method) -> list[nn.Parameter]:
    """Parameters of the first unit that gradients are taken of."""
    return [p for p in method.units()[0].parameters() if p.requires_grad]


@torch.no_grad()
def _loss_at(method: Method, step: list[Tensor], size: float, x: Tensor, y: Tensor) -> float:
    """Cross-entropy of the headline prediction in training mode, the first unit moved by a step."""
    readout = method.traits.readouts[0]
    if readout not in method.traits.sampled:  # or its noise would be another than the step's
        method, x = method.double(), x.double()
    for p, d in zip(_trained(method), step, strict=True):
        p.add_(d.to(p.dtype), alpha=size)
    return float(F.cross_entropy(method.logits(x, readout, method.rng).double(), y))


def flat_parameters(module: nn.Module) -> Tensor:
    """All parameters of a module in one vector."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])
