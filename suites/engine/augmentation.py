"""What is done to a training image before a network sees it: crops and mirrors, one draw a sample.

The random numbers of a mini-batch are drawn for all of its images, before any is read: so each of
several processes can take its own rows of them, and who decodes a photograph knows beforehand what
part of it is wanted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suites.engine.seeds import generator
from suites.images.decoding import N_DRAWS, crop_boxes, mirrored

# padded by so many pixels and cropped back at random; a part of random size and shape, resized;
# mirrored at random
AUGMENTATIONS = (
    "none", "crop2", "crop2+flip", "crop4", "crop4+flip", "resized-crop", "resized-crop+flip",
)  # fmt: skip
RESIZED = "resized"  # the draws that whoever decodes photographs may make use of


def draw(kind: str, n: int, device: torch.device, *stream: str | int) -> dict[str, Tensor]:
    """The random numbers of an augmentation for n images, a row each, on their device.

    Args:
        kind: one of AUGMENTATIONS. stream: what the numbers are derived from.
    """
    drawn: dict[str, Tensor] = {}
    if kind == "none":
        return drawn
    flips = kind.endswith("+flip")
    if kind.startswith("resized-crop"):
        rng = generator("cpu", *stream, RESIZED)
        drawn[RESIZED] = torch.rand(n, N_DRAWS + flips, generator=rng, dtype=torch.float64)
        return drawn
    rng = generator(device, *stream)
    if kind.startswith("crop"):
        drawn["top"] = torch.randint(2 * _pad(kind) + 1, (n, 1), generator=rng, device=device)
        drawn["left"] = torch.randint(2 * _pad(kind) + 1, (n, 1), generator=rng, device=device)
    if flips:
        drawn["flip"] = torch.rand(n, 1, 1, 1, generator=rng, device=device) < 0.5
    return drawn


def apply(images: Tensor, kind: str, drawn: dict[str, Tensor]) -> Tensor:
    """The augmented images, uint8 (B, C, H, W), by random numbers that `draw` gave for `kind`."""
    if "top" in drawn:
        images = shifted(images, drawn["top"], drawn["left"], _pad(kind))
    if RESIZED in drawn:
        images = resized(images, drawn[RESIZED])
    if "flip" in drawn:
        images = torch.where(drawn["flip"], images.flip(3), images)
    return images


def _pad(kind: str) -> int:
    return int(kind[4])


def shifted(images: Tensor, top: Tensor, left: Tensor, pad: int) -> Tensor:
    """A window of each zero-padded image, (B, C, H, W) to the same shape.

    Args:
        top, left: (B, 1), the corner of each window, from 0 to 2 · pad.
    """
    b, c, h, w = images.shape
    padded = F.pad(images, (pad, pad, pad, pad))
    device = images.device
    rows = (top + torch.arange(h, device=device))[:, None, :, None]
    columns = (left + torch.arange(w, device=device))[:, None, None, :]
    sample = torch.arange(b, device=device)[:, None, None, None]
    channel = torch.arange(c, device=device)[None, :, None, None]
    return padded[sample, channel, rows, columns]


def resized(images: Tensor, draws: Tensor) -> Tensor:
    """A random part of each image, resized bilinearly to the size of the whole, (B, C, H, W).

    Args:
        draws: (B, N_DRAWS), see `crop_boxes`; on the CPU. One number more tells by `mirrored`
            which images are mirrored.
    """
    n, _, h, w = images.shape
    boxes = torch.from_numpy(crop_boxes(draws.numpy(), w, h)).to(images.device, torch.float32)
    left, top, wide, high = boxes.view(n, 4, 1).unbind(1)
    # the middles of the new pixels among those of the old, from −1 to 1 between the outer edges
    across = (2 * left + wide * _middles(w, images.device)) / w - 1
    down = (2 * top + high * _middles(h, images.device)) / h - 1
    if draws.shape[1] > N_DRAWS:
        turned = torch.from_numpy(mirrored(draws.numpy())).to(images.device)
        across = torch.where(turned[:, None], across.flip(1), across)
    grid = torch.stack(
        (across[:, None, :].expand(n, h, w), down[:, :, None].expand(n, h, w)), dim=3
    )
    out = F.grid_sample(
        images.to(torch.float32), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return out.add_(0.5).to(torch.uint8)  # to the nearest: means of levels are levels


def _middles(n: int, device: torch.device) -> Tensor:
    """The middles of n pixels on a line of length 2, (1, n)."""
    return ((2 * torch.arange(n, device=device) + 1) / n)[None]
