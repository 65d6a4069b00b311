"""Goodness of layers: what the Forward-Forward rules share.

    G = sum_j h_j²,   p = σ((G − n) / T): probability that the input is positive; n units

Its loss, the choice of wrong labels, and peer normalisation (Hinton 2022, released code). All of
it reads activities of any shape, (B, ...): dense layers and feature maps alike.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods import batch
from methods.base import adamw
from methods.blocks import Blocks

Negatives = Literal["hard", "uniform"]


def images_at_once(values: int, device: torch.device) -> int:
    """How many images class-batched prediction takes at once.

    Args:
        values: activations of one image under all labels in its largest layer.
        device: on a CPU a layer of them shall fit the cache, 4 MB; elsewhere, where starting an
            operation is what costs, 1 GB.
    """
    most = 1_000_000 if device.type == "cpu" else 250_000_000
    return max(1, most // values)


def goodness(h: Tensor) -> Tensor:
    """Sum of squares of each sample's activities, (B,), in float32 at least."""
    exact = torch.promote_types(h.dtype, torch.float32)
    return torch.linalg.vector_norm(h.flatten(1), dim=1, dtype=exact).square()


def summed_goodness(blocks: Blocks, h: Tensor, first: bool) -> Tensor:
    """Goodness by position, summed over layers: the score of the label in the input, (B,).

    Args:
        h: activities of the first layer, (B, ...).
        first: whether its goodness counts, too; where it is the only layer, it does.
    """
    total = h.new_zeros(())
    for l, block in enumerate(blocks):
        if l > 0:
            h = block(h)
        values, g = h[0].numel(), goodness(h)
        if l > 0 or first or len(blocks) == 1:
            total = total + g / (values / len(h[0]))
        if l < len(blocks) - 1:
            # rms_norm(h), from the goodness that is known
            rms = (g / values).sqrt().to(h.dtype) + 1e-8
            h = h / rms.view(-1, *[1] * (h.dim() - 1))
    return total


def goodness_gradient(h: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The loss of a layer, and its gradient with respect to the pre-activations, shaped as h.

        L = softplus((n − G(+)) / T) + softplus((G(−) − n) / T), mean over the pairs
        dL/da = −(2/BT) σ((n − G) / T) h on positives, (2/BT) σ((G − n) / T) h on negatives

    In closed form, as the released code has it: autograd would pass over the activities several
    times as often. Where a unit is off, h = 0 gates the gradient as the ReLU does.

    Args:
        h: activities after the ReLU, n values a sample: B positives, then B negatives, (2B, ...).
        temperature: T. 1: the sum of squares against n. n: their mean against 1, the same boundary,
            n times less steep. (A mean against 2, as some code has it, is another rule.)
    """
    g, n, b = goodness(h), h[0].numel(), len(h) // 2
    excess = torch.cat([n - g[:b], g[b:] - n]) / temperature
    push = torch.sigmoid(excess) * (2 / (b * temperature))
    push[:b].neg_()
    gradient = h * push.to(h.dtype).view(-1, *[1] * (h.dim() - 1))
    return F.softplus(excess).sum() / b, gradient


def peer_gradient(running: Tensor, h: Tensor, strength: float) -> Tensor:
    """Peer normalisation: pulls the mean activity of each unit towards the layer's mean.

    Its gradient with respect to a_j is −2λ (mean_k m_k − m_j) / B for each sample. It acts on the
    pre-activation, not behind the ReLU, so that it can revive units that are never active. Twice
    λ, because the released gradient of the goodness leaves out the factor 2 of d(h²)/dh. Units of
    one feature map count as one: they share their weights.

    Args:
        running: m, running mean activity of each unit or channel, (n,); updated in place.
        h: activities of the positives, (B, n) or (B, n, H, W).
        strength: λ.

    Returns:
        The gradient of one sample, (n,) or (n, 1, 1).
    """
    mean = batch.total(h.mean([0, *range(2, h.dim())])) / batch.ranks()
    running.mul_(0.9).add_(mean, alpha=0.1)
    pull = (running.mean() - running) * (-2 * strength / len(h))
    return pull.view(-1, *[1] * (h.dim() - 2))


def wrong_labels(y: Tensor, scores: Tensor, negatives: Negatives, rng: Generator) -> Tensor:
    """One wrong label per sample, (B,).

    Args:
        scores: of a readout, (B, C). "hard" draws from softmax(scores) without the true class,
            "uniform" from all other classes alike.
    """
    if negatives == "uniform":
        scores = torch.zeros_like(scores)
    p = scores.scatter(1, y[:, None], -torch.inf).softmax(1)
    # the largest of p_c / Exp(1) is a draw from p
    noise = batch.draw(p.shape, p, lambda noise: noise.exponential_(generator=rng))
    return (p / noise).argmax(1)


def zero_linear(n_in: int, n_out: int) -> nn.Linear:
    """A linear layer that starts at zero, as the readout does."""
    linear = nn.Linear(n_in, n_out)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def optimizer(
    kind: Literal["sgd", "adam"],
    parameters: list[nn.Parameter],
    lr: float,
    momentum: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """SGD with momentum, as released, or AdamW."""
    if kind == "adam":
        return adamw(parameters, lr, weight_decay)
    return torch.optim.SGD(parameters, lr, momentum=momentum, weight_decay=weight_decay, fused=True)
