"""Architectures: named stacks of blocks. To add one, write its builder and register it below."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods import Block, Blocks, BlockStyle, Task
from methods.blocks import Pooling
from suites.engine.registry import Registry

Builder = Callable[[Task, BlockStyle, float], list[Block]]


@dataclass(frozen=True)
class Architecture:
    """A named stack of blocks.

    Attributes:
        build: makes the blocks for a task, a style and a factor on all widths.
        min_size: smallest image side, in pixels, that survives the pooling.
        torchvision: its name there, where published weights fit its blocks.
        channels: of images, where its first block takes no other number.
        multiple: image sides must be a multiple of this, where no pixel may be dropped.
    """

    name: str
    description: str
    build: Builder
    min_size: int = 1
    multiple: int = 1
    channels: int = 0
    torchvision: str = ""

    def blocks(self, task: Task, style: BlockStyle | None = None, width: float = 1.0) -> Blocks:
        """Newly initialised blocks, framework default initialisation, on the current device."""
        return Blocks(self.build(task, style or BlockStyle(), width))

    def refuse(self, task: Task) -> str | None:
        """Why this architecture cannot take the images of a task, or None."""
        if self.channels not in (0, task.shape[0]):
            return f"{self.name} needs images of {self.channels} channels, not {task.shape[0]}"
        side = min(task.shape[1:])
        if side < self.min_size:
            return f"{self.name} needs images of at least {self.min_size} pixels a side, not {side}"
        if any(n % self.multiple for n in task.shape[1:]):
            return f"{self.name} needs images whose sides are multiples of {self.multiple} pixels"
        return None


def _activation(style: BlockStyle) -> nn.Module:
    return nn.LeakyReLU(0.01) if style.activation == "leaky_relu" else nn.ReLU()


def _dense(n_in: tuple[int, ...], n_out: int, style: BlockStyle, pool: int = 1) -> Block:
    features = 1
    for size in n_in:
        features *= size
    if pool > 1:
        c, h, w = n_in
        features = c * (h // pool) * (w // pool)
    norm = nn.BatchNorm1d(n_out) if style.norm == "batch" else None
    weights = nn.Linear(features, n_out)
    return Block("dense", n_in, (n_out,), weights, norm, _activation(style), pool)


def _conv(
    in_shape: tuple[int, ...],
    c_out: int,
    style: BlockStyle,
    pool: int = 1,
    pooling: Pooling = "max",
    side: int = 3,
    stride: int = 1,
) -> Block:
    c_in, h, w = in_shape
    if pooling == "space_to_depth":
        c_in *= pool**2
    norm = None if style.norm == "none" else nn.BatchNorm2d(c_out)
    weights = nn.Conv2d(c_in, c_out, kernel_size=side, stride=stride, padding=side // 2)
    out_shape = (c_out, *((n // pool - 1) // stride + 1 for n in (h, w)))
    return Block("conv", in_shape, out_shape, weights, norm, _activation(style), pool, pooling)


def mlp(depth: int, hidden: int) -> Builder:
    """Fully connected layers, all of one width."""

    def build(task: Task, style: BlockStyle, width: float) -> list[Block]:
        n = max(8, round(hidden * width))
        shape: tuple[int, ...] = task.shape
        blocks = []
        for _ in range(depth):
            blocks.append(_dense(shape, n, style))
            shape = (n,)
        return blocks

    return build


def conv_stack(depth: int, channels: int) -> Builder:
    """Convolutions of 3x3, all of one width and of the image's resolution."""

    def build(task: Task, style: BlockStyle, width: float) -> list[Block]:
        shape: tuple[int, ...] = task.shape
        blocks = []
        for _ in range(depth):
            blocks.append(_conv(shape, max(8, round(channels * width)), style))
            shape = blocks[-1].out_shape
        return blocks

    return build


def _convolutions(
    layers: list[int | str], dense: tuple[int, ...] = (), pooling: Pooling = "max"
) -> Builder:
    """Convolutions of 3x3 with the given channels, "P" for pooling by 2; dense layers, if any.

    Pooling belongs to the layer behind it.
    """

    def build(task: Task, style: BlockStyle, width: float) -> list[Block]:
        shape: tuple[int, ...] = task.shape
        blocks: list[Block] = []
        pool = 1
        for layer in layers:
            if layer == "P":
                pool = 2
                continue
            channels = max(8, round(int(layer) * width))
            blocks.append(_conv(shape, channels, style, pool, pooling))
            shape, pool = blocks[-1].out_shape, 1
        return blocks + _classifier(shape, dense, style, width, pool)

    return build


def _classifier(
    shape: tuple[int, ...], sizes: tuple[int, ...], style: BlockStyle, width: float, pool: int = 1
) -> list[Block]:
    """Dense layers behind convolutions, normalised as these are."""
    style = BlockStyle("none" if style.norm == "none" else "batch", style.activation)
    blocks: list[Block] = []
    for size in sizes:
        blocks.append(_dense(shape, max(8, round(size * width)), style, pool))
        shape, pool = blocks[-1].out_shape, 1
    return blocks


def _alexnet(task: Task, style: BlockStyle, width: float) -> list[Block]:
    """Convolutions of 11x11 with stride 4, of 5x5, three of 3x3; 3 poolings; two dense layers."""
    blocks: list[Block] = []
    shape = task.shape
    for channels, side, stride, pool in (
        (64, 11, 4, 1), (192, 5, 1, 2), (384, 3, 1, 2), (256, 3, 1, 1), (256, 3, 1, 1),
    ):  # fmt: skip
        n = max(8, round(channels * width))
        blocks.append(_conv(shape, n, style, pool, side=side, stride=stride))
        shape = blocks[-1].out_shape
    return blocks + _classifier(shape, (4096, 4096), style, width, pool=2)


def _torchvision(name: str) -> Builder:
    """A network of torchvision without its classifier, at its own width and with its own units.

    Its parts keep their names there, so that published weights fit: `torchvision_parts`.
    """

    def build(task: Task, style: BlockStyle, width: float) -> list[Block]:
        shape: tuple[int, ...] = task.shape
        blocks = []
        *units, last = torchvision_parts(name).values()
        for unit in (*units, _Averaged(last)):
            with torch.device("meta"):
                seen = copy.deepcopy(unit).to("meta").eval()(torch.empty(1, *shape))
            blocks.append(Block("residual", shape, tuple(seen.shape[1:]), unit))
            shape = blocks[-1].out_shape
        return blocks

    return build


class _Averaged(nn.Module):
    """A unit whose maps are averaged over space, (B, C, 1, 1), as the classifier wants them."""

    def __init__(self, unit: nn.Module) -> None:
        super().__init__()
        self.unit = unit

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x).mean(dim=(2, 3), keepdim=True)


def torchvision_parts(name: str) -> dict[str, nn.Module]:
    """The units of a network of torchvision, newly initialised, by their names in its weights.

    The stem of a ResNet, whose parts stand alone there, has none: "".
    """
    from torchvision import models  # seconds, of which most runs need none

    whole = getattr(models, name)(weights=None)
    if name.startswith("mobilenet"):
        return {f"features.{i}": unit for i, unit in enumerate(whole.features)}
    stem = nn.Sequential()
    for part in ("conv1", "bn1", "relu", "maxpool"):
        stem.add_module(part, getattr(whole, part))
    units = {
        f"layer{stage}.{i}": unit
        for stage in (1, 2, 3, 4)
        for i, unit in enumerate(getattr(whole, f"layer{stage}"))
    }
    return {"": stem, **units}


def _resnet18(task: Task, style: BlockStyle, width: float) -> list[Block]:
    """Small-image stem (3x3, no pooling), then 8 residual units of two convolutions each.

    The units keep their own batch norm and ReLU whatever the style: they do not train without.
    """
    from torchvision.models.resnet import BasicBlock  # seconds, of which most runs need none

    widths = [max(8, round(w * width)) for w in (64, 128, 256, 512)]
    blocks = [_conv(task.shape, widths[0], BlockStyle("batch", "relu"))]
    for stage, channels in enumerate(widths):
        for unit in range(2):
            c_in, h, w = in_shape = blocks[-1].out_shape
            stride = 2 if stage > 0 and unit == 0 else 1
            shortcut = None
            if stride != 1 or c_in != channels:
                shortcut = nn.Sequential(
                    nn.Conv2d(c_in, channels, kernel_size=1, stride=stride, bias=False),
                    nn.BatchNorm2d(channels),
                )
            weights = BasicBlock(c_in, channels, stride, shortcut)
            out_shape = (channels, (h - 1) // stride + 1, (w - 1) // stride + 1)
            blocks.append(Block("residual", in_shape, out_shape, weights))
    return blocks


STACK = re.compile(r"(mlp|conv)-(\d+)x(\d+)")


def stack(name: str) -> Architecture | None:
    """A stack of like blocks: "mlp-8x256" or "conv-8x64" (layers x width); else None."""
    match = STACK.fullmatch(name)
    if match is None or not int(match[2]) or not int(match[3]):
        return None
    depth, width = int(match[2]), int(match[3])
    if match[1] == "mlp":
        text = f"{depth} fully connected layers of {width}, ReLU"
        return Architecture(name, text, mlp(depth, width))
    text = f"{depth} convolutions of {width} channels at the image's resolution"
    return Architecture(name, text, conv_stack(depth, width))


STACKS = ("mlp-2x500", "mlp-3x1000", "mlp-3x1024", "mlp-3x3000", "mlp-4x2000")  # shown by --list
ARCHITECTURES = Registry(
    (
        *filter(None, map(stack, STACKS)),
        Architecture(
            "cnn-tiny",
            "conv 16, pool, conv 32, pool, dense 128: what CPUs train in seconds",
            _convolutions([16, "P", 32, "P"], dense=(128,)),
            min_size=4,
        ),
        Architecture(
            "cnn-small",
            "conv 32, pool, conv 64, conv 128, pool, dense 256 (the image encoder of NoProp)",
            _convolutions([32, "P", 64, 128, "P"], dense=(256,)),
            min_size=4,
        ),
        Architecture(
            "vgg8b",
            "6 convolutions of 128 to 512 channels, 4 poolings, dense 1024 (arXiv 1901.06656)",
            _convolutions([128, 256, "P", 256, 512, "P", 512, "P", 512, "P"], dense=(1024,)),
            min_size=16,
        ),
        Architecture(
            "vgg11b",
            "8 convolutions of 128 to 512 channels, 4 poolings, dense 1024 (arXiv 1901.06656)",
            _convolutions(
                [128, 128, 128, 256, "P", 256, 512, "P", 512, 512, "P", 512, "P"], dense=(1024,)
            ),
            min_size=16,
        ),
        Architecture(
            "layercnn-256",
            "5 convolutions of 256, 256, 512, 1024, 1024 channels, invertible downsampling before "
            "the third and fourth (arXiv 1812.11446, k = 1)",
            # As the released command builds it; the paper's text has downsampling elsewhere and
            # names the first width only.
            _convolutions([256, 256, "P", 512, "P", 1024, 1024], pooling="space_to_depth"),
            min_size=4,
            multiple=4,
        ),
        Architecture(
            "layercnn-128",
            "4 convolutions of 128, 128, 256, 256 channels, invertible downsampling before the "
            "third (arXiv 1812.11446, k = 2 and 3)",
            _convolutions([128, 128, "P", 256, 256], pooling="space_to_depth"),
            min_size=2,
            multiple=2,
        ),
        Architecture(
            "dgl-6x128",
            "6 convolutions of 128, 256, 256, 512, 512, 512 channels, 2 poolings "
            "(arXiv 1901.08164, auxiliary-network study)",
            _convolutions([128, "P", 256, 256, "P", 512, 512, 512]),
            min_size=4,
        ),
        Architecture(
            "resnet18",
            "3x3 stem and 8 residual units, 64 to 512 channels; each unit is one block",
            _resnet18,
            min_size=8,
        ),
        # for photographs; the smallest image leaves the last maps at least one pixel
        Architecture(
            "alexnet",
            "5 convolutions (11x11 with stride 4, 5x5, 3x3) of 64 to 384 channels, 3 poolings, "
            "dense 4096 twice; batch norm instead of dropout",
            _alexnet,
            min_size=32,
        ),
        Architecture(
            "vgg11-bn",
            "8 convolutions of 64 to 512 channels, 5 poolings, dense 4096 twice; batch norm",
            _convolutions(
                [64, "P", 128, "P", 256, 256, "P", 512, 512, "P", 512, 512, "P"], dense=(4096, 4096)
            ),
            min_size=32,
        ),
        Architecture(
            "layercnn-8x128",
            "8 convolutions of 128 to 1024 channels on an image of half the size, invertible "
            "downsampling before the first, third, fifth and seventh (arXiv 1812.11446, ImageNet)",
            # layers counted from 0, as in the released command for CIFAR-10
            _convolutions(
                ["P", 128, 128, "P", 256, 256, "P", 512, 512, "P", 1024, 1024],
                pooling="space_to_depth",
            ),
            min_size=16,
            multiple=16,
        ),
        *(
            Architecture(
                name, text, _torchvision(model), min_size=32, channels=3, torchvision=model
            )
            for name, model, text in (
                ("resnet18-imagenet", "resnet18", "7x7 stem, pooled, and 8 residual units"),
                ("resnet50-imagenet", "resnet50", "7x7 stem, pooled, and 16 bottleneck units"),
                (
                    "mobilenet-v3-small",
                    "mobilenet_v3_small",
                    "stem, 11 inverted residuals, 1x1",
                ),
            )
        ),
    ),
    family=stack,
)
