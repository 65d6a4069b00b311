"""The steps of some rules a second time, written out by hand on the same parameters.

No modules and no class of ours; the rules but `greedy` without autograd as well, all gradients
written out. `tests/methods/test_by_hand.py` checks that they make the same update, and
`tests/bench_steps.py` what the rules cost over them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from methods import METHODS, Method, Task
from suites.engine import datasets, local
from suites.engine.architectures import ARCHITECTURES

TASK = Task("noise", (1, 28, 28), 10, (0.13,), (0.31,))
local.load_methods([])


def made(name: str, task: Task = TASK, architecture: str = "mlp-3x1000", **config: Any) -> Method:
    """A method of full size, newly initialised, in training mode."""
    cls = METHODS[name]
    torch.manual_seed(0)
    settings = cls.Config(**config)
    blocks = ARCHITECTURES[architecture].blocks(task, cls.style(settings))
    return cls(blocks, task, settings, torch.Generator().manual_seed(0)).train()


def noise(n: int) -> tuple[Tensor, Tensor]:
    """Standardised images and labels, the same at every call."""
    rng = torch.Generator().manual_seed(1)
    raw = torch.randint(256, (n, *TASK.shape), dtype=torch.uint8, generator=rng)
    return datasets.prepare(raw, TASK), torch.randint(10, (n,), generator=rng)


def layers(method: Any) -> list[tuple[Tensor, Tensor]]:
    return [(block.weights.weight, block.weights.bias) for block in method.blocks]


def probabilities_less_truth(scores: Tensor, y: Tensor) -> Tensor:
    """Gradient of the mean cross-entropy with respect to the scores."""
    g = scores.softmax(1)
    g[torch.arange(len(y)), y] -= 1
    return g.div_(len(y))


def keep(parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient


def forward(m: Any, x: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor]:
    """All states, the image first, and the output error; the classifier gets its gradient."""
    states, head = [x.flatten(1)], m.classifier
    for w, b in layers(m):
        states.append(torch.addmm(b, states[-1], w.T).relu_())
    g = probabilities_less_truth(torch.addmm(head.bias, states[-1], head.weight.T), y)
    keep(head.weight, g.T @ states[-1])
    keep(head.bias, g.sum(0))
    return states, g


@torch.no_grad()
def by_hand_backprop(m: Any, x: Tensor, y: Tensor) -> None:
    states, g = forward(m, x, y)
    g = (g @ m.classifier.weight).mul_(states[-1] > 0)
    for l, (w, b) in reversed(list(enumerate(layers(m)))):
        keep(w, g.T @ states[l])
        keep(b, g.sum(0))
        if l:
            g = (g @ w).mul_(states[l] > 0)
    m.optimizer.step()


@torch.no_grad()
def by_hand_mono_forward(m: Any, x: Tensor, y: Tensor) -> None:
    state = x.flatten(1)
    for l, (w, b) in enumerate(layers(m)):
        h = torch.addmm(b, state, w.T).relu_()
        head = (m.head if l == len(m.blocks) - 1 else m.aux[f"head_{l}"]).linear
        g = probabilities_less_truth(torch.addmm(head.bias, h, head.weight.T), y)
        keep(head.weight, g.T @ h)
        keep(head.bias, g.sum(0))
        g = (g @ head.weight).mul_(h > 0)
        keep(w, g.T @ state)
        keep(b, g.sum(0))
        state = h
    m.optimizer.step()


@torch.no_grad()
def by_hand_hff(m: Any, x: Tensor, y: Tensor) -> None:
    c = m.config
    state = x.flatten(1)
    for l, (w, b) in enumerate(layers(m)):
        h = torch.addmm(b, state, w.T).relu_()
        head = m.head if l == len(m.blocks) - 1 else m.aux[f"head_{l}"]
        n, k, dim = head.prototypes.shape
        points = head.prototypes.view(n * k, dim)
        lengths = torch.linalg.vector_norm(points, dim=1, keepdim=True)
        d = points / lengths
        r = torch.linalg.vector_norm(h, dim=1, keepdim=True)
        z = h / r
        cosines = (z @ d.T).view(-1, n, k).mul_(c.beta)
        s = cosines.logsumexp(2).sub_(math.log(k)).div_(c.beta)
        s[torch.arange(len(y)), y] -= c.margin
        g = probabilities_less_truth(s.mul_(c.scale), y).mul_(c.scale)
        g = cosines.softmax(2).mul_(g[:, :, None]).view(len(y), n * k)
        toward = g.T @ z
        toward -= d * (toward * d).sum(1, keepdim=True)
        keep(head.prototypes, toward.div_(lengths).view(n, k, dim))
        g = g @ d
        g -= z * (g * z).sum(1, keepdim=True)
        g.div_(r).mul_(h > 0)
        keep(w, g.T @ state)
        keep(b, g.sum(0))
        state = z.mul_(math.sqrt(dim))
    m.optimizer.step()


@torch.no_grad()
def by_hand_ff(m: Any, x: Tensor, y: Tensor) -> None:
    config, c, n_rows = m.config, TASK.n_classes, len(y)
    pixels = (x.flatten(1) * TASK.std[0]).add_(TASK.mean[0])
    rest = pixels[:, c:]
    squares = rest.square().sum(1, keepdim=True)
    (w0, b0), *others = layers(m)
    product = rest @ w0[:, c:].T

    def normalised(h: Tensor) -> Tensor:
        rms = torch.linalg.vector_norm(h, dim=1, keepdim=True) / math.sqrt(h.shape[1])
        return h / rms.add_(1e-8)

    def scale(of_label: float) -> Tensor:
        return 1 / ((squares + of_label) / pixels.shape[1]).sqrt_().add_(1e-8)

    neutral = (product + w0[:, :c].mean(1)).mul_(scale(1 / c)).add_(b0).relu_()
    state, states = normalised(neutral), []
    for w, b in others:
        state = normalised(torch.addmm(b, state, w.T).relu_())
        states.append(state)
    joined, head = torch.cat(states, 1), m.aux["readout"]
    scores = torch.addmm(head.bias, joined, head.weight.T)
    g = probabilities_less_truth(scores, y)
    keep(head.weight, g.T @ joined)
    keep(head.bias, g.sum(0))

    p = scores.scatter(1, y[:, None], -torch.inf).softmax(1)
    wrong = (p / torch.empty_like(p).exponential_(generator=m.rng)).argmax(1)
    labels = torch.cat([y, wrong])
    gain = scale(1.0).repeat(2, 1)
    a = (product.repeat(2, 1) + w0[:, :c].T[labels]).mul_(gain).add_(b0)
    for l, (w, b) in enumerate(layers(m)):
        if l:
            a = torch.addmm(b, state, w.T)
        h = a.relu_()
        n = h.shape[1]
        length = torch.linalg.vector_norm(h, dim=1, keepdim=True)
        goodness = length.square()
        push = torch.cat([-torch.sigmoid(n - goodness[:n_rows]),
                          torch.sigmoid(goodness[n_rows:] - n)])  # fmt: skip
        running = m.get_buffer(f"peer_mean_{l}")
        running.mul_(0.9).add_(h[:n_rows].mean(0), alpha=0.1)
        g = h * push.mul_(2 / n_rows)
        g[:n_rows] -= (running.mean() - running) * (2 * config.peer / n_rows)
        keep(b, g.sum(0))
        if l:
            keep(w, g.T @ state)
        else:
            g *= gain
            gradient = torch.empty_like(w)
            torch.mm((g[:n_rows] + g[n_rows:]).T, rest, out=gradient[:, c:])
            one_hot = F.one_hot(labels, c).to(g.dtype)
            gradient[:, :c] = g.T @ one_hot
            keep(w, gradient)
        state = h / (length / math.sqrt(n)).add_(1e-8)
    m.optimizer.step()
    m.readout_optimizer.step()


@torch.no_grad()
def by_hand_dfa(m: Any, x: Tensor, y: Tensor) -> None:
    states, g = forward(m, x, y)
    for l, (w, b) in enumerate(layers(m)):
        sent = (g @ m.aux["feedback"][l]).mul_(states[l + 1] > 0)
        keep(w, sent.T @ states[l])
        keep(b, sent.sum(0))
    m.optimizer.step()


def by_hand_greedy(m: Any, x: Tensor, y: Tensor) -> None:
    """`predsim`, with autograd, which knows the gradients of batch norm and correlations."""

    def similarity(z: Tensor) -> Tensor:
        z = z - z.mean(1, keepdim=True)
        z = z / (z.norm(dim=1, keepdim=True) + 1e-8)
        return (z @ z.T).clamp(-1, 1)

    target, state = similarity(F.one_hot(y, TASK.n_classes).float()), x.flatten(1)
    beta = m.config.beta
    m.optimizer.zero_grad()
    for l, block in enumerate(m.blocks):
        w, b, norm = block.weights.weight, block.weights.bias, block.norm
        a = F.batch_norm(F.linear(state, w, b), norm.running_mean, norm.running_var, norm.weight,
                         norm.bias, training=True)  # fmt: skip
        norm.num_batches_tracked += 1
        h = F.leaky_relu(a, 0.01)
        decoder = m.aux[f"decoder_{l}"].linear
        loss = (1 - beta) * F.cross_entropy(F.linear(h, decoder.weight, decoder.bias), y)
        similar = similarity(F.linear(h, m.aux[f"similarity_{l}"].weight))
        (loss + beta * F.mse_loss(similar, target)).backward()
        state = h.detach()
    F.cross_entropy(F.linear(state, m.output.weight, m.output.bias), y).backward()
    m.optimizer.step()


# rule -> its step by hand, and the settings it is for
BY_HAND = {
    "backprop": (by_hand_backprop, {}),
    "mono-forward": (by_hand_mono_forward, {}),
    "hff": (by_hand_hff, {}),
    "ff": (by_hand_ff, {}),
    "dfa": (by_hand_dfa, {}),
    "greedy": (by_hand_greedy, {"loss": "predsim", "dropout": 0.0}),
}
