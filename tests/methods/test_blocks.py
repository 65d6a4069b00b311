"""Blocks and architectures: shapes, sizes, and the operations on activities."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, nn

from methods import Block, BlockStyle, Task
from methods.blocks import dropout, max_pool, pool_to, pool_until, pooled_shape, rms_norm
from suites.engine.architectures import ARCHITECTURES


def test_rms_norm_has_mean_square_one() -> None:
    x = torch.randn(4, 3, 5, 5) * 7
    assert torch.allclose(rms_norm(x).square().mean(dim=(1, 2, 3)), torch.ones(4), atol=1e-5)


@pytest.mark.parametrize("style", [BlockStyle(), BlockStyle(activation="leaky_relu")])
@pytest.mark.parametrize("architecture", ["mlp-2x500", "cnn-small"])
def test_block_gives_its_preactivations(architecture: str, style: BlockStyle) -> None:
    x = torch.randn(4, 1, 8, 8)
    for block in ARCHITECTURES[architecture].blocks(Task("t", (1, 8, 8), 3), style, 1 / 8):
        a = block(x, activate=False)
        assert float(a.detach().min()) < 0
        x = block(x)
        assert torch.equal(block.activation(a), x)


def test_dropout_keeps_the_mean_and_drops_whole_maps() -> None:
    rng = Generator().manual_seed(0)
    x = torch.ones(200, 50, 4, 4)
    out = dropout(x, 0.25, rng, per_channel=True)
    assert float(out.mean()) == pytest.approx(1.0, abs=0.03)
    assert bool(((out == 0).flatten(2).all(2) | (out != 0).flatten(2).all(2)).all())
    assert dropout(x, 0.0, rng) is x


@pytest.mark.parametrize(
    ("size", "channels", "limit", "expected"),
    [
        (32, 128, 2048, (4, 4)),
        (32, 256, 2048, (2, 4)),  # the released code gives 2048 values, too
        (28, 256, 2048, (2, 4)),
        (14, 256, 2048, (2, 4)),
        (28, 32, 2048, (7, 7)),
        (8, 64, 2048, (4, 8)),
        (7, 512, 2048, (2, 2)),
        (3, 512, 100, (1, 1)),
        (1, 9, 2048, (1, 1)),
    ],
)
def test_pool_until(size: int, channels: int, limit: int, expected: tuple[int, int]) -> None:
    maps = torch.randn(2, channels, size, size, requires_grad=True)
    pooled = pool_until(maps, limit)
    assert pooled.shape == (2, channels, *expected)
    assert pooled_shape((channels, size, size), limit) == (channels, *expected)
    pooled.sum().backward()
    assert bool((maps.grad > 0).all())  # a local loss that misses pixels cannot teach them
    assert torch.allclose(pool_until(torch.ones(1, channels, size, size), limit), torch.ones(1))


@pytest.mark.parametrize(
    ("shape", "millions"), [((1, 28, 28), 7.3), ((3, 32, 32), 8.9)], ids=["grey", "colour"]
)
def test_vgg8b_has_the_published_size(shape: tuple[int, ...], millions: float) -> None:
    """arXiv 1901.06656, released code: 7.3 M parameters on 28x28 images, 8.9 M on CIFAR."""
    blocks = ARCHITECTURES["vgg8b"].blocks(Task("t", shape, 10), BlockStyle(norm="batch"))
    total = sum(p.numel() for p in blocks.parameters()) + 1024 * 10 + 10
    assert total / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize(
    ("name", "shape", "features", "millions"),
    [
        ("vgg11b", (3, 32, 32), 1024, 11.6),
        ("mlp-3x1024", (1, 28, 28), 1024, 2.9),
        ("mlp-3x3000", (3, 32, 32), 3000, 27.3),
    ],
)
def test_architectures_of_local_error_signals_have_the_published_size(
    name: str, shape: tuple[int, ...], features: int, millions: float
) -> None:
    """arXiv 1901.06656, released code, with the output layer."""
    blocks = ARCHITECTURES[name].blocks(Task("t", shape, 10), BlockStyle(norm="batch"))
    total = sum(p.numel() for p in blocks.parameters()) + features * 10 + 10
    assert total / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("name", ["layercnn-256", "layercnn-128", "dgl-6x128"])
def test_convolutional_stacks_end_with_maps(name: str) -> None:
    blocks = ARCHITECTURES[name].blocks(Task("t", (3, 32, 32), 10), width=1 / 8)
    sides = [block.out_shape[1] for block in blocks]
    assert blocks.kinds == {"conv"}
    assert (
        sides
        == {
            "layercnn-256": [32, 32, 16, 8, 8],
            "layercnn-128": [32, 32, 16, 16],
            "dgl-6x128": [32, 16, 16, 8, 8, 8],
        }[name]
    )
    widths = [block.out_shape[0] for block in blocks]
    assert (
        widths
        == {
            "layercnn-256": [32, 32, 64, 128, 128],  # doubled where the side is halved
            "layercnn-128": [16, 16, 32, 32],
            "dgl-6x128": [16, 32, 32, 64, 64, 64],
        }[name]
    )
    assert ARCHITECTURES[name].refuse(Task("t", (1, 30, 30), 10)) == (
        "layercnn-256 needs images whose sides are multiples of 4 pixels"
        if name == "layercnn-256"
        else None
    )


def test_space_to_depth_loses_nothing() -> None:
    """Channel 4 c + 2 i + j at (u, v) is channel c at (2 u + i, 2 v + j)."""
    conv = nn.Conv2d(12, 12, kernel_size=1, bias=False)
    nn.init.dirac_(conv.weight)  # passes its input on
    block = Block("conv", (3, 4, 6), (12, 2, 3), conv, pool=2, pooling="space_to_depth")
    x = torch.randn(2, 3, 4, 6)
    out = block(x)
    assert out.shape == (2, *block.out_shape)
    for c, i, j, u, v in itertools.product(range(3), range(2), range(2), range(2), range(3)):
        assert torch.equal(out[:, 4 * c + 2 * i + j, u, v], x[:, c, 2 * u + i, 2 * v + j])
    assert torch.equal(nn.functional.pixel_shuffle(out, 2), x)


@pytest.mark.parametrize(("side", "to", "gives"), [(7, 2, 2), (8, 2, 2), (1, 2, 1), (5, 4, 3)])
def test_pool_to_averages_every_pixel_once(side: int, to: int, gives: int) -> None:
    pool, shape = pool_to((3, side, side), to)
    x = torch.randn(2, 3, side, side)
    out = pool(x)
    assert tuple(out.shape[1:]) == shape == (3, gives, gives)
    k = math.ceil(side / to)
    for u, v in itertools.product(range(gives), repeat=2):
        window = x[:, :, u * k : (u + 1) * k, v * k : (v + 1) * k]
        assert torch.allclose(out[:, :, u, v], window.mean(dim=(2, 3)), atol=1e-6)


SHAPES = {"grey": (1, 28, 28), "colour": (3, 32, 32), "photograph": (3, 96, 64)}


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(name, shape, id=f"{name}-{kind}")
        for name, architecture in ARCHITECTURES.items() for kind, shape in SHAPES.items()
        if architecture.refuse(Task("t", shape, 10)) is None
    ],
)  # fmt: skip
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


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (2, 3, 7, 5), (4, 1, 2, 3)])
def test_max_pooling_is_that_of_the_library_to_the_bit(shape: tuple[int, ...]) -> None:
    """With a gradient and without; with a row and a column too many, too."""
    x = torch.randn(shape, generator=Generator().manual_seed(0))
    for given in (x, x.clone().requires_grad_(True), x.to(memory_format=torch.channels_last)):
        assert torch.equal(max_pool(given, 2), F.max_pool2d(x, 2))
