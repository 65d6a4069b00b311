"""The NoProp family: closed forms, finite differences and second implementations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.distributions import Normal, kl_divergence

from methods import Task
from methods.denoising import (
    ClassEmbedding,
    ContinuousNet,
    LearnedSchedule,
    channels_last,
    most_central,
    noise_schedule,
    posterior,
    prior_kl,
    quick_dropout,
)
from methods.noprop_ct import euler_factors
from tests.methods.toy import TASK, batch, make

FAMILY = ["noprop", "noprop-ct", "noprop-fm", "noprop-backprop"]


def bars64(steps: int) -> Tensor:
    return torch.tensor(noise_schedule(steps, 0.008, 0.999), dtype=torch.float64)


def short(name: str, **settings: object) -> dict[str, object]:
    """Settings that keep a method of the family fast: few steps."""
    key = "steps" if name in ("noprop", "noprop-backprop") else "sampling_steps"
    return {key: 3, **settings}


# ------------------------------------------------------------------- schedule and sampler


def identities_hold(bars: Tensor) -> bool:
    """Whether a step takes q(z_{t-1} | y) to q(z_t | y): mean and variance."""
    a, b, c = posterior(bars)
    before, now = bars[:-1], bars[1:]
    mean = torch.allclose(a + b * before.sqrt(), now.sqrt(), atol=1e-12)
    return mean and torch.allclose(b**2 * (1 - before) + c, 1 - now, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_step_keeps_the_forward_process(steps: int) -> None:
    """If these fail, sampling drifts away from the distributions the blocks were trained on."""
    bars = bars64(steps)
    assert bars[0] == 0 and all(a < b for a, b in itertools.pairwise(bars.tolist()))
    assert identities_hold(bars)


@pytest.mark.parametrize("t", [1, 2, 5, 10])
def test_step_is_gaussian_conditioning(t: int) -> None:
    """z_{t-1} = sqrt(α_{t-1}) z_t + noise, so the step must be the conditional of a joint normal.

    Coefficients of a schedule that is shifted by one step fail.
    """
    bars = noise_schedule(10, 0.008, 0.999)
    alpha = bars[t - 1] / bars[t]
    variance_t, variance_before = 1 - bars[t], 1 - bars[t - 1]
    covariance = np.array(
        [
            [variance_t, math.sqrt(alpha) * variance_t],
            [math.sqrt(alpha) * variance_t, alpha * variance_t + 1 - alpha],
        ]
    )
    assert covariance[1, 1] == pytest.approx(variance_before)
    gain = covariance[0, 1] / covariance[1, 1]
    u, z = 1.7, -0.4
    mean = math.sqrt(bars[t]) * u + gain * (z - math.sqrt(bars[t - 1]) * u)
    variance = covariance[0, 0] - gain * covariance[0, 1]
    a, b, c = (float(v[t - 1]) for v in posterior(torch.tensor(bars, dtype=torch.float64)))
    assert a * u + b * z == pytest.approx(mean, abs=1e-12)
    assert c == pytest.approx(variance, abs=1e-12)
    shifted = [float(v[t - 2]) for v in posterior(torch.tensor(bars, dtype=torch.float64))]
    assert shifted[0] * u + shifted[1] * z != pytest.approx(mean, abs=1e-3)


def test_schedule_against_the_formula() -> None:
    """SNR(t) of cos²(π/2 · ((T−t)/T + s)/(1+s)), T = 10, s = 0.008, without the clip."""
    bars = noise_schedule(10, 0.008, 1.0)[1:]
    angles = [math.pi / 2 * ((10 - t) / 10 + 0.008) / 1.008 for t in range(1, 11)]
    expected = [1 / math.tan(angle) ** 2 for angle in angles]  # SNR = cos² / sin²
    assert [bar / (1 - bar) for bar in bars] == pytest.approx(expected, rel=1e-9)
    assert expected[-1] == pytest.approx(6434, rel=1e-3)  # why the clip is needed
    assert max(noise_schedule(10, 0.008, 0.999)) == 0.999


def test_prediction_is_the_sampler_step_by_step() -> None:
    """A second implementation of Eq. 3 around the method's own blocks, with its own noise."""
    method = make("noprop", steps=4).eval()
    x, _ = batch(5)
    bars = noise_schedule(4, 0.008, 0.999)
    for readout in ("mean", "sampled"):
        rng = Generator().manual_seed(3)
        with torch.no_grad():
            found = method.logits(x, readout, Generator().manual_seed(3))
            noisy = float(readout == "sampled")
            z = noisy * torch.randn(5, 5, generator=rng)
            for t in range(1, 5):
                estimate = method.denoisers[t - 1](z, x).softmax(1)
                alpha = bars[t - 1] / bars[t]
                rest = 1 - bars[t - 1]
                mean = math.sqrt(bars[t]) * (1 - alpha) / rest * estimate
                mean = mean + math.sqrt(alpha) * (1 - bars[t]) / rest * z
                spread = math.sqrt((1 - bars[t]) * (1 - alpha) / rest)
                z = mean + noisy * spread * torch.randn(5, 5, generator=rng)
            expected = method.classifier(z)
        assert torch.allclose(found, expected, atol=1e-5), readout


def test_loss_weights_are_positive() -> None:
    """A schedule that runs backwards maximises the loss of nearly every block."""
    method = make("noprop")
    weights = [method.block_weight(t) for t in range(1, 11)]
    assert all(w > 0 for w in weights)
    # they telescope: the sum is (T/2) η SNR(T)
    assert sum(weights) == pytest.approx(0.5 * 10 * 0.1 * 0.999 / 0.001, rel=1e-9)
    # a planted bug, found in the wild: α cumulated forward, so that ᾱ falls
    alphas = [math.cos(math.pi * t / 22) ** 2 for t in range(11)]
    method.bars = list(itertools.accumulate(alphas[1:], lambda p, q: p * q, initial=0.999))
    assert any(method.block_weight(t) < 0 for t in range(1, 11))


def test_perfect_estimates_lead_to_the_label() -> None:
    """With û = u_y at every step, z_T has mean sqrt(ᾱ_T) u_y and variance 1 − ᾱ_T."""
    bars = bars64(10)
    rng = Generator().manual_seed(0)
    u = F.one_hot(torch.tensor(2), 5).double()
    z = torch.randn(40_000, 5, generator=rng, dtype=torch.float64)
    for a, b, c in zip(*posterior(bars), strict=True):
        noise = torch.randn(z.shape, generator=rng, dtype=torch.float64)
        z = a * u + b * z + c.sqrt() * noise
    assert torch.allclose(z.mean(0), bars[10].sqrt() * u, atol=1e-3)
    assert torch.allclose(z.var(0), (1 - bars[10]).expand(5), rtol=0.05)


@pytest.mark.parametrize("bar", [0.0, 0.001, 0.6])
def test_prior_kl_is_that_of_torch(bar: float) -> None:
    u = torch.randn(7, 4, generator=Generator().manual_seed(0), dtype=torch.float64)
    q = Normal(math.sqrt(bar) * u, math.sqrt(1 - bar))
    expected = kl_divergence(q, Normal(torch.zeros_like(u), 1.0)).sum(1).mean()
    found = prior_kl(u, u.new_tensor(bar), u.new_tensor(1 - bar))
    assert float(found) == pytest.approx(float(expected), abs=1e-12)


# ------------------------------------------------------------------------ learned schedule


def learned_schedule() -> LearnedSchedule:
    """One that is not a straight line, in float64."""
    torch.manual_seed(0)
    schedule = LearnedSchedule(-6.0, 5.0, width=8).double()
    with torch.no_grad():
        for parameter in (schedule.first, schedule.bias, schedule.second):
            parameter.add_(2 * torch.randn(parameter.shape, dtype=torch.float64))
    return schedule


def test_gamma_falls_between_its_ends() -> None:
    schedule = learned_schedule()
    with torch.no_grad():
        gamma, slope = schedule(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert float(gamma[0]) == pytest.approx(5.0) and float(gamma[-1]) == pytest.approx(-6.0)
    assert bool((gamma.diff() < 0).all()) and bool((slope < 0).all())
    assert float(gamma[50]) != pytest.approx(-0.5, abs=0.05)  # it is not a straight line


def test_gamma_slope_is_its_derivative() -> None:
    """Against finite differences and autograd; γ' must also train the schedule."""
    schedule = learned_schedule()
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    gamma, slope = schedule(t)
    h = 1e-5
    differences = (schedule(t + h)[0] - schedule(t - h)[0]) / (2 * h)
    assert torch.allclose(slope, differences, atol=1e-6)
    (automatic,) = torch.autograd.grad(gamma.sum(), t, create_graph=True)
    assert torch.allclose(slope, automatic, atol=1e-10)
    parameters = list(schedule.parameters())
    weights = torch.randn(19, dtype=torch.float64)
    closed = torch.autograd.grad((slope * weights).sum(), parameters, retain_graph=True)
    twice = torch.autograd.grad((automatic * weights).sum(), parameters)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(closed, twice, strict=True))
    assert all(bool((g != 0).any()) for g in closed)


def test_learned_schedule_keeps_the_forward_process() -> None:
    gamma, _ = learned_schedule()(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert identities_hold(torch.sigmoid(-gamma))


# ---------------------------------------------------------------------------------- flows


def test_ode_without_singularities_is_the_ode() -> None:
    """ᾱ'/(2 (1 − ᾱ)) (û/sqrt(ᾱ) − z), with ᾱ' by finite differences, away from the ends."""
    schedule = learned_schedule()
    t, h, dt = torch.linspace(0.1, 0.9, 9, dtype=torch.float64), 1e-5, 0.01
    u, z = 0.8, -0.3

    def bar(at: Tensor) -> Tensor:
        return torch.sigmoid(-schedule(at)[0])

    growth = (bar(t + h) - bar(t - h)) / (2 * h)
    slope = growth / (2 * (1 - bar(t))) * (u / bar(t).sqrt() - z)
    of_u, of_z = euler_factors(*schedule(t), dt)
    assert torch.allclose(of_u * u + of_z * z, z + dt * slope, atol=1e-8)


def test_ode_with_perfect_estimates_lands_on_the_label() -> None:
    gamma, slope = learned_schedule()(torch.linspace(0, 1, 20_001, dtype=torch.float64))
    of_u, of_z = (v.tolist() for v in euler_factors(gamma[:-1], slope[:-1], 1 / 20_000))
    u, z0 = 1.3, 0.7
    z = z0
    for a, b in zip(of_u, of_z, strict=True):
        z = a * u + b * z
    # the exact flow keeps (z − sqrt(ᾱ) u) / sqrt(1 − ᾱ)
    first, last = torch.sigmoid(-gamma[[0, -1]]).tolist()
    kept = (z0 - math.sqrt(first) * u) / math.sqrt(1 - first)
    assert z == pytest.approx(math.sqrt(last) * u + math.sqrt(1 - last) * kept, abs=2e-3)
    assert z == pytest.approx(u, abs=0.1)


@pytest.mark.parametrize("embedding", ["one-hot", "learned"])
def test_flow_with_the_true_velocity_lands_on_the_embedding(embedding: str) -> None:
    """v = (u_y − z) / (1 − t) on the way: whatever z_0, the nearest embedding is that of y."""
    method = make("noprop-fm", embedding=embedding, sampling_steps=50)
    x, y = batch(16)
    u, k = method.embedding(y), itertools.count()
    method.velocity = lambda z, image, time: (u - z) / (1 - next(k) / 50)
    with torch.no_grad():
        scores = method.eval().logits(x, rng=Generator().manual_seed(0))
    assert torch.equal(scores.argmax(1), y)
    assert torch.allclose(scores.max(1).values, torch.zeros(16), atol=1e-6)


def test_flow_learns_the_line_from_noise_to_label() -> None:
    """A network that puts out z_1 − z_0 has loss 0, up to nothing: σ is not in the target."""
    method = make("noprop-fm")
    x, y = batch()
    seen = Generator().manual_seed(0)  # the generator that the method was made with
    u = method.embedding(y)
    start = torch.randn(u.shape, generator=seen)
    method.net.image_term = lambda x: x.new_zeros(len(x), 256)  # its dropout draws noise, too
    method.velocity = lambda z, image, time: (u - start).requires_grad_()
    assert float(method.train_step(x, y, "all", 0.0)["loss"]) == 0.0


def test_flow_distances_are_those_to_each_embedding() -> None:
    embedding = make("noprop-fm", embedding="learned").embedding
    z = torch.randn(6, 20)
    expected = torch.cdist(z, embedding.weight.detach()).square()
    assert torch.allclose(embedding.distances(z), expected, atol=1e-4)


# ----------------------------------------------------------------------------- embeddings


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9])
def test_prototype_choice_by_brute_force(n: int) -> None:
    points = torch.randn(n, 6, generator=Generator().manual_seed(n))
    medians = []
    for i in range(n):
        others = [float((points[i] - points[j]).norm()) for j in range(n) if j != i]
        medians.append(np.median(others) if others else 0.0)
    assert int(most_central(points, rows=3)) == int(np.argmin(medians))


@pytest.mark.parametrize("name", FAMILY)
def test_prototypes_are_images_of_their_class(name: str) -> None:
    method = make(name, **short(name, embedding="prototype"))
    x, y = batch(60)
    method.start(x, y)
    for c, prototype in enumerate(method.embedding.weight):
        assert any(torch.equal(prototype, image.flatten()) for image in x[y == c])
    assert "embedding.weight" in method.state_dict()
    before = method.embedding.weight.detach().clone()
    method.train_step(x, y, "all", 0.0)
    assert not torch.equal(before, method.embedding.weight)
    with torch.no_grad():
        assert method.eval().logits(x, rng=Generator().manual_seed(0)).shape == (60, 5)


def test_learned_embeddings_start_orthogonal_where_they_fit() -> None:
    w = ClassEmbedding("learned", TASK).weight
    assert w.shape == (5, 20) and torch.allclose(w @ w.T, torch.eye(5), atol=1e-5)
    assert ClassEmbedding("learned", Task("many", (1, 8, 8), 100)).weight.shape == (100, 20)


@pytest.mark.parametrize("name", FAMILY)
def test_one_hot_embeddings_are_no_parameter(name: str) -> None:
    embedding = make(name).embedding
    assert not list(embedding.parameters()) and not embedding.state_dict()
    p = torch.rand(3, 5)
    assert torch.equal(embedding.mix(p), p @ embedding.weight)


def test_every_term_reaches_a_learned_embedding() -> None:
    method = make("noprop", embedding="learned", steps=4)
    x, y = batch()
    for t in range(1, 5):
        (gradient,) = torch.autograd.grad(method.block_error(t, x, y), method.embedding.weight)
        assert bool((gradient != 0).any()), f"block {t}"
    w = method.embedding.weight
    (gradient,) = torch.autograd.grad(method.shared_loss(y), w)
    assert bool((gradient != 0).any())
    # the KL: ½ ᾱ_0 |u_y|², mean over the batch; 0 for our schedule, so try another
    torch.nn.init.zeros_(method.classifier.weight)
    (gradient,) = torch.autograd.grad(method.shared_loss(y), w)
    assert torch.equal(gradient, torch.zeros_like(w))
    method.bars[0] = 0.2
    (gradient,) = torch.autograd.grad(method.shared_loss(y), w)
    share = torch.bincount(y, minlength=5)[:, None] / len(y)
    assert torch.allclose(gradient, 0.2 * share * w, atol=1e-6)


@pytest.mark.parametrize("name", ["noprop-ct", "noprop-fm", "noprop-backprop"])
def test_all_parameters_have_gradients_with_a_learned_embedding(name: str) -> None:
    method = make(name, **short(name, embedding="learned"))
    method.train_step(*batch(), "all", 0.0)
    for parameter_name, parameter in method.named_parameters():
        assert parameter.grad is not None and bool((parameter.grad != 0).any()), parameter_name


# ---------------------------------------------------------------------------- the networks


def test_noised_labels_have_the_stated_moments() -> None:
    method = make("noprop")
    u = F.one_hot(torch.full((50_000,), 1), 5).float()
    for t in (0, 4, 10):
        z = method._noised(u, t)
        assert torch.allclose(z.mean(0), math.sqrt(method.bars[t]) * u[0], atol=0.02)
        assert torch.allclose(z.var(0), torch.full((5,), 1 - method.bars[t]), atol=0.02)
    method = make("noprop-ct")
    z = method._noised(u, torch.tensor(-1.0))
    bar = 1 / (1 + math.exp(-1.0))
    assert torch.allclose(z.mean(0), math.sqrt(bar) * u[0], atol=0.02)
    assert torch.allclose(z.var(0), torch.full((5,), 1 - bar), atol=0.02)


def test_encoders_start_apart() -> None:
    """Equal copies would be one block T times."""
    method = make("noprop")
    first = [next(block.encoder.parameters()) for block in method.denoisers]
    assert not any(torch.equal(first[0], other) for other in first[1:])


def test_blocks_hear_nothing_of_each_other() -> None:
    method = make("noprop", steps=4)
    x, y = batch()
    for t in range(1, 5):
        method.zero_grad(set_to_none=True)
        method.block_error(t, x, y).backward()
        for s, block in enumerate(method.denoisers, start=1):
            gradients = [p.grad for p in block.parameters()]
            assert all((g is not None) == (s == t) for g in gradients), f"block {t} on {s}"
        assert all(p.grad is None for p in method.classifier.parameters())


def test_one_step_is_enough_to_run() -> None:
    """T = 1: one block that sees pure noise, an image classifier."""
    method = make("noprop", steps=1)
    x, y = batch()
    assert method.bars[0] == 0.0 and method.block_weight(1) > 0
    assert bool(torch.isfinite(method.train_step(x, y, "all", 0.0)["loss"]))
    with torch.no_grad():
        for readout in ("sampled", "mean"):
            scores = method.eval().logits(x, readout, Generator().manual_seed(0))
            assert bool(torch.isfinite(scores).all())


@pytest.mark.parametrize("architecture", ["mlp-2x500", "cnn-small"])
@pytest.mark.parametrize("embedding", ["one-hot", "learned", "prototype"])
def test_terms_of_the_joint_layer_are_the_layer(architecture: str, embedding: str) -> None:
    """What is computed once per prediction must give what a pass through everything gives."""
    method = make("noprop-ct", architecture=architecture, embedding=embedding).eval()
    net: ContinuousNet = method.net
    x, y = batch()
    z, t = method.embedding(y).detach(), torch.rand(len(y))
    label = net.label(z.view(-1, *TASK.shape) if embedding == "prototype" else z)
    sines = torch.stack(
        [(t * 1000 * 10_000 ** (-i / 31)).sin() for i in range(32)]
        + [(t * 1000 * 10_000 ** (-i / 31)).cos() for i in range(32)],
        dim=1,
    )
    whole = net.head(net.joint(torch.cat([net.encoder(x), label, net.time(sines)], dim=1)))
    parts = net(z, net.image_term(x), net.time_term(t))
    assert torch.allclose(whole, parts, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_order_in_memory_changes_no_value(channels: int) -> None:
    x = torch.randn(4, channels, 6, 5)
    y = channels_last(x)
    assert torch.equal(x, y) and y.is_contiguous(memory_format=torch.channels_last)
    conv = torch.nn.Conv2d(channels, 8, 3, padding=1)
    assert conv(y).is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(conv(x), conv(y), atol=1e-5)


@pytest.mark.parametrize("shape", [(301, 7, 5, 3), (1, 3, 1, 1)])
def test_quick_dropout_keeps_the_mean(shape: tuple[int, ...]) -> None:
    x = channels_last(torch.ones(shape))
    out = quick_dropout(x, 0.2, Generator().manual_seed(0))
    kept = out > 0
    assert torch.allclose(out[kept], torch.tensor(1 / 0.8), rtol=1e-4)
    if x.numel() > 10_000:
        assert float(kept.float().mean()) == pytest.approx(0.8, abs=0.01)
        assert not torch.equal(kept[0], kept[1])
