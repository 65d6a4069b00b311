"""The learning rules against closed forms, finite differences and second implementations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from methods import METHODS, BlockStyle, Method, Task, load_builtin
from methods.base import resolve_config
from methods.blocks import dropout, pool_until, rms_norm
from methods.ff import goodness_loss
from methods.greedy import similarity
from methods.hff import PrototypeHead
from methods.noprop import noise_schedule, posterior
from suites.architectures import ARCHITECTURES

load_builtin()
TASK = Task("toy", (1, 8, 8), 5, mean=(0.3,), std=(0.4,))


def make(
    name: str, task: Task = TASK, architecture: str = "mlp-2x500", **settings: object
) -> Method:
    cls = METHODS[name]
    config = resolve_config(cls, settings)
    torch.manual_seed(0)
    blocks = ARCHITECTURES[architecture].blocks(task, cls.style(config), 1 / 8)
    return cls(blocks, task, config, Generator().manual_seed(0))


def batch(n: int = 6, task: Task = TASK) -> tuple[Tensor, Tensor]:
    rng = Generator().manual_seed(1)
    pixels = torch.rand(n, *task.shape, generator=rng)
    x = (pixels - task.mean[0]) / task.std[0]
    return x, torch.randint(task.n_classes, (n,), generator=rng)


# --------------------------------------------------------------------------- NoProp


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_noprop_step_keeps_the_forward_process(steps: int) -> None:
    """If these fail, sampling drifts away from the distributions the blocks were trained on."""
    bars = noise_schedule(steps, 0.008, 0.999)
    assert bars[0] == 0 and all(a < b for a, b in itertools.pairwise(bars))
    for t in range(1, steps + 1):
        a, b, c = posterior(bars, t)
        assert a + b * math.sqrt(bars[t - 1]) == pytest.approx(math.sqrt(bars[t]), abs=1e-12)
        assert b**2 * (1 - bars[t - 1]) + c == pytest.approx(1 - bars[t], abs=1e-12)


def test_noprop_loss_weights_are_positive() -> None:
    """A schedule that runs backwards maximises the loss of nearly every block."""
    method = make("noprop")
    weights = [method.block_weight(t) for t in range(1, 11)]
    assert all(w > 0 for w in weights)
    # they telescope: the sum is (T/2) η SNR(T)
    assert sum(weights) == pytest.approx(0.5 * 10 * 0.1 * 0.999 / 0.001, rel=1e-9)


def test_noprop_perfect_estimates_lead_to_the_label() -> None:
    """With û = u_y at every step, z_T has mean sqrt(ᾱ_T) u_y and variance 1 − ᾱ_T."""
    bars = noise_schedule(10, 0.008, 0.999)
    rng = Generator().manual_seed(0)
    u = F.one_hot(torch.tensor(2), 5).double()
    z = torch.randn(40_000, 5, generator=rng, dtype=torch.float64)
    for t in range(1, 11):
        a, b, c = posterior(bars, t)
        z = a * u + b * z + math.sqrt(c) * torch.randn(z.shape, generator=rng, dtype=torch.float64)
    assert torch.allclose(z.mean(0), math.sqrt(bars[10]) * u, atol=1e-3)
    assert torch.allclose(z.var(0), torch.full((5,), 1 - bars[10], dtype=torch.float64), rtol=0.05)


def test_noprop_noised_labels_have_the_stated_moments() -> None:
    method = make("noprop")
    u = F.one_hot(torch.full((50_000,), 1), 5).float()
    for t in (0, 4, 10):
        z = method._noised(u, t)
        assert torch.allclose(z.mean(0), math.sqrt(method.bars[t]) * u[0], atol=0.02)
        assert torch.allclose(z.var(0), torch.full((5,), 1 - method.bars[t]), atol=0.02)


def test_noprop_encoders_start_apart() -> None:
    """Equal copies would be one block T times."""
    method = make("noprop")
    first = [next(block.encoder.parameters()) for block in method.denoisers]
    assert not any(torch.equal(first[0], other) for other in first[1:])


# ------------------------------------------------------------------------------ HFF


def head(k: int, n_classes: int = 5, dim: int = 12) -> PrototypeHead:
    blocks = ARCHITECTURES["mlp-2x500"].blocks(Task("t", (1, 2, 2), 5), width=dim / 500)
    return PrototypeHead(blocks[0], n_classes, resolve_config(METHODS["hff"], {"prototypes": k}))


def test_hff_loss_is_the_softplus_margin_form() -> None:
    """CE(s − m onehot) = softplus(m + LSE over wrong classes − s_y): the smooth margin loss."""
    s, m = torch.randn(7, 5, dtype=torch.float64), 0.3
    y = torch.randint(5, (7,))
    hot = F.one_hot(y, 5)
    ce = F.cross_entropy(s - m * hot, y, reduction="none")
    wrong = s.masked_fill(hot.bool(), -math.inf).logsumexp(1)
    assert torch.allclose(ce, F.softplus(m + wrong - s[hot.bool()]), atol=1e-12)


def test_hff_equal_prototypes_score_like_one() -> None:
    several, one = head(4), head(1)
    with torch.no_grad():
        several.prototypes.copy_(one.prototypes.expand(-1, 4, -1))
    h = torch.randn(6, 12)
    assert torch.allclose(several(h), one(h), atol=1e-6)


def test_hff_scores_are_cosines_against_numpy() -> None:
    one = head(1)
    h = torch.randn(6, 12)
    p = one.prototypes.detach().numpy()[:, 0]
    z = h.numpy()
    expected = (z @ p.T) / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(p, axis=1)[None]
    assert np.allclose(one(h).detach().numpy(), expected, atol=1e-6)
    assert torch.allclose(one(3.7 * h), one(h), atol=1e-6)  # length carries no information


def test_hff_pooling_before_auxconv_changes_nothing() -> None:
    method = make("hff", architecture="cnn-small")
    aux = method.aux["head_0"].aux_conv
    h = torch.randn(3, method.blocks[0].out_shape[0], 8, 8)
    assert torch.allclose(aux(F.avg_pool2d(h, 2)), F.avg_pool2d(aux(h), 2), atol=1e-6)


def test_hff_floor_of_the_loss() -> None:
    """With unit vectors the loss cannot fall below log(1 + (C−1) exp(−s C/(C−1)))."""
    c, scale = 5, 4.0
    simplex = (
        torch.eye(c, dtype=torch.float64) - 1 / c
    )  # vertices of a simplex: the best possible prototypes
    p = F.normalize(simplex, dim=1)
    loss = F.cross_entropy(scale * p @ p.T, torch.arange(c))
    floor = math.log1p((c - 1) * math.exp(-scale * c / (c - 1)))
    assert float(loss) == pytest.approx(floor, rel=1e-9)


# ------------------------------------------------------------------------------- FF


def overlay(method: Method, x: Tensor, label: Tensor) -> Tensor:
    """The network's input as the paper writes it: overwrite C pixels, then divide by the RMS."""
    pixels = (x * method.std + method.mean).flatten(1).clone()
    pixels[:, : label.shape[1]] = label
    return rms_norm(pixels)


def test_ff_shared_first_layer_is_the_overlay() -> None:
    """The product shared between labels must give what C separate passes give."""
    method = make("ff")
    x, y = batch()
    for label in (F.one_hot(y, 5).float(), torch.full((len(y), 5), 0.2)):
        direct = method.blocks[0].weights(overlay(method, x, label))
        assert torch.allclose(method._first(method._image_part(x), label), direct, atol=1e-5)


@pytest.mark.parametrize("readout", ["goodness", "goodness_all"])
def test_ff_batched_prediction_is_the_loop_over_classes(readout: str) -> None:
    method = make("ff")
    x, _ = batch(9)
    columns = []
    for c in range(5):
        h = overlay(method, x, F.one_hot(torch.full((9,), c), 5).float())
        total = torch.zeros(9)
        for l, block in enumerate(method.blocks):
            a = torch.relu(h @ block.weights.weight.T + block.weights.bias)
            if readout == "goodness_all" or l > 0:
                total += (a**2).sum(1)
            h = a / (1e-8 + (a**2).mean(1, keepdim=True).sqrt())
        columns.append(total)
    with torch.no_grad():
        assert torch.allclose(method.logits(x, readout), torch.stack(columns, 1), rtol=1e-4)


def test_ff_wrong_labels_are_wrong_and_follow_the_readout() -> None:
    """Negatives that are right one time in C teach the opposite of the objective."""
    method = make("ff")
    n = 60_000
    scores = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5]).expand(n, 5)
    y = torch.full((n,), 2)
    drawn = method._wrong_labels(y, scores)
    assert not bool((drawn == y).any())
    p = scores[0].softmax(0)
    p[2] = 0
    p /= p.sum()
    share = torch.bincount(drawn, minlength=5) / n
    assert torch.allclose(share, p, atol=0.01)
    extreme = torch.tensor([0.0, 0.0, 500.0, 0.0, 0.0]).expand(100, 5)  # all mass on the true one
    assert not bool((method._wrong_labels(y[:100], extreme) == 2).any())


def test_ff_goodness_loss_by_finite_differences() -> None:
    """The gradient of −log p(positive) − log(1 − p(negative)), p = σ(G − θ)."""
    h = torch.rand(2, 3, 4, dtype=torch.float64) * 1.5
    variable = h.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: goodness_loss(v[0], v[1]), (variable,))
    g = h.square().sum(2)
    p = torch.sigmoid(g - 4)
    expected = -(torch.log(p[0]) + torch.log(1 - p[1])).mean()
    assert float(goodness_loss(h[0], h[1])) == pytest.approx(float(expected), rel=1e-9)


def test_ff_sum_and_mean_goodness_decide_alike() -> None:
    """Sum of squares against the width = mean of squares against 1."""
    h = torch.rand(50, 7) * 2
    assert torch.equal(h.square().sum(1) > 7, h.square().mean(1) > 1)


def test_ff_peer_normalisation_revives_dead_units() -> None:
    """Gated by the ReLU, it could never bring back a unit that is always off."""
    method = make("ff")
    with torch.no_grad():
        method.blocks[0].weights.bias[0] = -1e3  # off for every input
    x, y = batch(32)
    method.train_step(x, y, "all", 0.0)
    assert float(method.blocks[0].weights.bias.grad[0]) < 0  # descent raises the bias


# --------------------------------------------------------------------- Mono-Forward


def test_mono_forward_gradient_by_hand() -> None:
    """An independent derivation, in NumPy, of both gradients of both blocks."""
    method = make("mono-forward")
    x, y = batch()
    params = {k: v.detach().numpy().copy() for k, v in method.named_parameters()}
    method.train_step(x, y, "all", 0.0)
    grads = {k: v.grad.numpy() for k, v in method.named_parameters()}
    h_in, hot = x.flatten(1).numpy(), np.eye(5)[y.numpy()]
    for l, head_name in enumerate(["aux.head_0", "head"]):
        w, b = params[f"blocks.{l}.weights.weight"], params[f"blocks.{l}.weights.bias"]
        m, c = params[f"{head_name}.weight"], params[f"{head_name}.bias"]
        a = h_in @ w.T + b
        h = np.maximum(a, 0)
        scores = h @ m.T + c
        p = np.exp(scores - scores.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        delta = (p - hot) / len(y)
        back = (delta @ m) * (a > 0)
        assert np.allclose(grads[f"{head_name}.weight"], delta.T @ h, atol=1e-5)
        assert np.allclose(grads[f"blocks.{l}.weights.weight"], back.T @ h_in, atol=1e-5)
        assert np.allclose(grads[f"blocks.{l}.weights.bias"], back.sum(0), atol=1e-5)
        h_in = h


# --------------------------------------------------------------------------- greedy


def test_similarity_is_the_correlation_matrix() -> None:
    z = torch.randn(9, 20)
    assert np.allclose(similarity(z).numpy(), np.corrcoef(z.numpy()), atol=1e-5)


def test_similarity_of_labels() -> None:
    """1 for equal classes, −1/(C−1) for different ones."""
    y = torch.tensor([0, 1, 0, 4])
    s = similarity(F.one_hot(y, 5).float())
    expected = torch.where(y[:, None] == y[None], 1.0, -1 / 4)
    assert torch.allclose(s, expected, atol=1e-5)


def test_similarity_of_maps_uses_the_spread_over_space() -> None:
    """Mean-pooled maps would be another target."""
    maps = torch.randn(5, 6, 4, 4)
    spread = maps.flatten(2).std(dim=2)
    assert np.allclose(similarity(maps).numpy(), np.corrcoef(spread.numpy()), atol=1e-5)
    shifted = maps + torch.randn(5, 6, 1, 1)  # a constant per map does not change its spread
    assert torch.allclose(similarity(shifted), similarity(maps), atol=1e-4)


def test_greedy_local_loss_does_not_see_dropout() -> None:
    """Dropout before the local loss changes the results of `predsim`."""
    x, y = batch(16)
    losses = []
    for p in (0.0, 0.9):
        method = make("greedy", loss="pred", dropout=p)
        with torch.no_grad():
            for l in range(2):
                method.aux[f"decoder_{l}"].weight.normal_(generator=Generator().manual_seed(3))
        method.train_step(x, y, "all", 0.0)
        losses.append(method.blocks[0].weights.weight.grad.clone())
    assert torch.equal(losses[0], losses[1])  # block 0 has no noise in its input or loss


# --------------------------------------------------------------------------- blocks


def test_rms_norm_has_mean_square_one() -> None:
    x = torch.randn(4, 3, 5, 5) * 7
    assert torch.allclose(rms_norm(x).square().mean(dim=(1, 2, 3)), torch.ones(4), atol=1e-5)


def test_dropout_keeps_the_mean_and_drops_whole_maps() -> None:
    rng = Generator().manual_seed(0)
    x = torch.ones(200, 50, 4, 4)
    out = dropout(x, 0.25, rng, per_channel=True)
    assert float(out.mean()) == pytest.approx(1.0, abs=0.03)
    assert bool(((out == 0).flatten(2).all(2) | (out != 0).flatten(2).all(2)).all())
    assert dropout(x, 0.0, rng) is x


@pytest.mark.parametrize(
    ("size", "channels", "limit", "expected"),
    [(32, 128, 2048, 4), (28, 32, 2048, 7), (8, 64, 2048, 4), (3, 512, 100, 1), (1, 9, 2048, 1)],
)
def test_pool_until(size: int, channels: int, limit: int, expected: int) -> None:
    pooled = pool_until(torch.zeros(2, channels, size, size), limit)
    assert pooled.shape == (2, channels, expected, expected)


@pytest.mark.parametrize(
    ("shape", "millions"), [((1, 28, 28), 7.3), ((3, 32, 32), 8.9)], ids=["grey", "colour"]
)
def test_vgg8b_has_the_published_size(shape: tuple[int, ...], millions: float) -> None:
    """arXiv 1901.06656, released code: 7.3 M parameters on 28x28 images, 8.9 M on CIFAR."""
    blocks = ARCHITECTURES["vgg8b"].blocks(Task("t", shape, 10), BlockStyle(norm="batch"))
    total = sum(p.numel() for p in blocks.parameters()) + 1024 * 10 + 10
    assert total / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)], ids=["grey", "colour"])
def test_blocks_say_their_shapes(name: str, shape: tuple[int, ...]) -> None:
    blocks = ARCHITECTURES[name].blocks(Task("t", shape, 10), width=1 / 16)
    x = torch.randn(2, *shape)
    for block in blocks:
        assert tuple(x.shape[1:]) == block.in_shape
        x = block(x)
        assert tuple(x.shape[1:]) == block.out_shape


def test_pooling_at_the_entry_is_the_same_network() -> None:
    """conv, pool, dense written the usual way, with the same weights."""
    blocks = ARCHITECTURES["cnn-small"].blocks(Task("t", (1, 8, 8), 10), BlockStyle("none"), 0.25)
    usual = nn.Sequential(
        blocks[0].weights, nn.ReLU(), nn.MaxPool2d(2), blocks[1].weights, nn.ReLU(),
        blocks[2].weights, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), blocks[3].weights, nn.ReLU(),
    )  # fmt: skip
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(blocks(x), usual(x))


def test_resnet18_is_torchvisions() -> None:
    """The units in a row compute what torchvision's ResNet-18 computes after its stem."""
    import torchvision

    torch.manual_seed(0)
    blocks = ARCHITECTURES["resnet18"].blocks(Task("t", (3, 32, 32), 10))
    reference = torchvision.models.resnet18()
    reference_units = [u for s in range(1, 5) for u in getattr(reference, f"layer{s}")]
    for mine, theirs in zip(list(blocks)[1:], reference_units, strict=True):
        theirs.load_state_dict(mine.weights.state_dict())
    blocks.eval()
    reference.eval()
    x = torch.randn(2, 3, 32, 32)
    h = blocks[0](x)
    expected = h
    for unit in reference_units:
        expected = unit(expected)
    for block in list(blocks)[1:]:
        h = block(h)
    assert torch.allclose(h, expected, atol=1e-5)
