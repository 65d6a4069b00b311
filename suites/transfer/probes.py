"""What features are worth to others: a linear probe, and the nearest neighbours, on labelled ones.

All choices (strength of the regularisation, number of neighbours) are made on validation images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# λ, strong to weak; in scikit-learn's terms C = 1 / (n λ) for n training images
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
NEIGHBOURS = (1, 5, 20)
MOST_STEPS = 100  # of L-BFGS, for each λ
QUERIES = 1024  # images at a time that look for their neighbours

Features = tuple[Tensor, Tensor]  # float32 (N, D) and int64 (N,)


def _nothing() -> None: ...


@dataclass(frozen=True)
class Score:
    """What a probe makes of a set of images.

    Attributes:
        right: share of images in the right class, in percent.
        loss: mean cross-entropy; NaN for neighbours, which give no probabilities.
    """

    right: float
    loss: float = math.nan


@dataclass(frozen=True)
class Probe:
    """A fitted probe with the choice that was made for it, and what it says of two sets."""

    choice: float
    val: Score
    test: Score


def best_of(tried: Iterable[Probe]) -> Probe:
    """The one with the highest accuracy on validation images, the first of equals."""
    return max(tried, key=lambda probe: probe.val.right)


def standardisation(features: Tensor) -> Callable[[Tensor], Tensor]:
    """What gives these features, (N, D), mean 0 and variance 1; constant ones become 0."""
    std, mean = torch.std_mean(features, dim=0, correction=0)
    # rounding makes a constant feature vary a little, and it must not be blown up
    varies = std > 1e-6 * features.abs().amax(dim=0)
    scale = torch.where(varies, 1 / std.where(varies, torch.ones_like(std)), 0.0)
    return lambda part: (part - mean) * scale


def linear(
    train: Features, val: Features, test: Features, n_classes: int,
    alive: Callable[[], None] = _nothing, unlabelled: Tensor | None = None,
) -> Probe:  # fmt: skip
    """Multinomial logistic regression on standardised features.

    Minimises mean CE(W x + b, y) + λ/2 ‖W‖² by L-BFGS, from strong to weak λ, each from where the
    last one ended; the λ with the highest accuracy on `val` is taken, the stronger one of equals.
    Each λ has `MOST_STEPS` steps: weak ones end before their minimum, in favour of new images.

    Args:
        alive: called once for each look at the data; may raise to stop.
        unlabelled: features, (N, D), that mean and variance are taken of; None for those of
            `train`, of which a few images say too little: what is constant in them would be lost,
            what varies by a hair blown up.
    """
    standardised = standardisation(train[0] if unlabelled is None else unlabelled)
    x, x_val, x_test = (standardised(part[0]) for part in (train, val, test))
    w = x.new_zeros(n_classes, x.shape[1])
    b = x.new_zeros(n_classes)
    tried = []
    for strength in STRENGTHS:
        _minimise(w, b, x, train[1], strength, alive)
        on_val, on_test = score(x_val @ w.T + b, val[1]), score(x_test @ w.T + b, test[1])
        tried.append(Probe(strength, on_val, on_test))
    return best_of(tried)


def _minimise(
    w: Tensor, b: Tensor, x: Tensor, y: Tensor, strength: float, alive: Callable[[], None]
) -> None:
    """Moves w, (C, D), and b, (C,), to the least of the regularised loss; in place."""
    parameters = [w.requires_grad_(), b.requires_grad_()]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=MOST_STEPS, tolerance_grad=1e-5, tolerance_change=1e-8,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        alive()
        optimizer.zero_grad()
        with torch.enable_grad():
            value = F.cross_entropy(x @ w.T + b, y) + strength / 2 * w.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None


def neighbours(
    train: Features, val: Features, test: Features, n_classes: int,
    alive: Callable[[], None] = _nothing,
) -> Probe:  # fmt: skip
    """The class that most of the k nearest training images have, by cosine; k chosen on `val`.

    Of classes with as many, the one whose images are nearer. Of equal k, the smaller.
    """
    on_val, on_test = (_nearest(train, part[0], n_classes, alive) for part in (val, test))
    enough = [k for k in NEIGHBOURS if k <= len(train[1])]
    return best_of(
        Probe(k, Score(_right(on_val[k], val[1])), Score(_right(on_test[k], test[1])))
        for k in enough or NEIGHBOURS[:1]
    )


def _nearest(
    train: Features, queries: Tensor, n_classes: int, alive: Callable[[], None]
) -> dict[int, Tensor]:
    """k -> the class that the k nearest vote for, (N,), int64."""
    known = F.normalize(train[0], dim=1)
    most = min(max(NEIGHBOURS), len(known))
    votes: dict[int, list[Tensor]] = {k: [] for k in NEIGHBOURS}
    for part in queries.split(QUERIES):
        alive()
        near, index = (F.normalize(part, dim=1) @ known.T).topk(most, dim=1)
        classes = train[1][index]
        for k in NEIGHBOURS:
            # all similarities together weigh less than half a vote
            weights = 1 + near[:, :k] / (2 * k + 1)
            # sums of indexed values have no fixed order on GPUs; these do
            ballots = F.one_hot(classes[:, :k], n_classes) * weights[..., None]
            votes[k].append(ballots.sum(dim=1).argmax(dim=1))
    return {k: torch.cat(parts) for k, parts in votes.items()}


def score(logits: Tensor, labels: Tensor) -> Score:
    """Of class scores, (N, C)."""
    loss = F.cross_entropy(logits, labels)
    return Score(_right(logits.argmax(dim=1), labels), float(loss))


def _right(predicted: Tensor, labels: Tensor) -> float:
    return 100 * float((predicted == labels).double().mean())


def few(labels: Tensor, shots: int, rng: torch.Generator) -> Tensor | None:
    """Indices of `shots` images of each class, drawn at random; None where a class has fewer.

    A larger number holds the images of a smaller one, for the same state of rng.

    Args:
        labels: (N,), on the CPU, so that every device is shown the same images.
    """
    order = torch.randperm(len(labels), generator=rng)
    chosen = []
    for c in range(int(labels.max()) + 1):
        of_class = order[labels[order] == c]
        if len(of_class) < shots:
            return None
        chosen.append(of_class[:shots])
    return torch.cat(chosen)
