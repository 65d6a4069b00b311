"""From the file of a photograph to the pixels that are wanted, and no others.

Two crops: the standard one of evaluation, to the bit what torchvision's `Resize` and `CenterCrop`
give with Pillow; and one of random size and shape, as torchvision's `RandomResizedCrop` draws
it, for which a JPEG file is decoded at the smallest of the scales 1/8, 1/4, 1/2 and 1 that leaves
it enough pixels.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from suites.images.folders import DatasetError

Pixels = NDArray[np.uint8]
BROKEN = (OSError, EOFError, SyntaxError, ValueError, Image.DecompressionBombError)

EVAL_RESIZE = 256 / 224  # the shorter side, by that of the crop
AREA, RATIO, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # torchvision's
N_DRAWS = 2 * TRIES + 2


def evaluation_crop(path: Path, size: int) -> Pixels:
    """The middle of a photograph, (size, size, 3).

    Its shorter side is resized to size · 256 / 224 pixels, bilinearly with antialiasing.

    Raises:
        DatasetError: the file cannot be decoded, or ends too early.
    """
    with _opened(path) as file:
        image = _colours(file)
        width, height = image.size
        short = round(size * EVAL_RESIZE)
        if width <= height:
            resized = short, int(short * height / width)
        else:
            resized = int(short * width / height), short
        left, top = (round((side - size) / 2.0) for side in resized)
        image = image.resize(resized, Image.Resampling.BILINEAR)
        return np.asarray(image.crop((left, top, left + size, top + size)))


def random_crop(path: Path, size: int, draws: NDArray[np.float64]) -> Pixels:
    """A part of a photograph, of random size and shape, resized to (size, size, 3).

    Args:
        draws: (N_DRAWS,), see `crop_boxes`; one number more tells by `mirrored` whether the part is
            mirrored.

    Raises:
        DatasetError: the file cannot be decoded, or ends too early.
    """
    with _opened(path) as file:
        full = file.size
        left, top, width, height = crop_boxes(draws[None], *full)[0]
        spare, scaled = min(width, height) // size, None
        if spare >= 2:  # for JPEG files; others ignore it
            scaled = file.draft(None, (full[0] // spare, full[1] // spare))
        # where the photograph ends, which may be within the last pixel of the scaled one
        end = scaled[1][2:] if scaled else full
        across, down = end[0] / full[0], end[1] / full[1]
        box = left * across, top * down, (left + width) * across, (top + height) * down
        part = _colours(file).resize((size, size), Image.Resampling.BILINEAR, box=box)
        pixels = np.asarray(part)
        turned = len(draws) > N_DRAWS and mirrored(draws[None])[0]
        return pixels[:, ::-1] if turned else pixels


def mirrored(draws: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which images are mirrored, each with probability one half, (B,); draws: (B, N_DRAWS + 1)."""
    return draws[:, N_DRAWS] < 0.5


def crop_boxes(draws: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """Left, top, width and height of random crops, in whole pixels, (B, 4).

    A share of the area from 0.08 to 1 and a ratio of the sides from 3/4 to 4/3, uniform in its
    logarithm: the first of ten tries that fits into the image. Where none does, the largest crop
    in the middle whose ratio is allowed.

    Args:
        draws: uniform in [0, 1), (B, N_DRAWS): areas and ratios of all tries, and the position.
    """
    area, ratio = draws[:, :TRIES], draws[:, TRIES : 2 * TRIES]
    wanted = width * height * (AREA[0] + (AREA[1] - AREA[0]) * area)
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    aspect = np.exp(low + (high - low) * ratio)
    w, h = np.rint(np.sqrt(wanted * aspect)), np.rint(np.sqrt(wanted / aspect))
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    row, first = np.arange(len(draws)), fits.argmax(axis=1)
    w, h, found = w[row, first], h[row, first], fits[row, first]
    left = np.floor(draws[:, 2 * TRIES] * (width - w + 1))
    top = np.floor(draws[:, 2 * TRIES + 1] * (height - h + 1))
    boxes = np.stack((left, top, w, h), axis=1)
    whole_w = min(width, round(height * RATIO[1]))
    whole_h = min(height, round(width / RATIO[0]))
    boxes[~found] = (width - whole_w) // 2, (height - whole_h) // 2, whole_w, whole_h
    return boxes


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    try:
        with Image.open(path) as image:
            yield image
    except BROKEN as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError(f"image {path} cannot be decoded: {told}") from error


def _colours(image: Image.Image) -> Image.Image:
    """Red, green and blue, whatever the file has: grey levels, CMYK, a palette."""
    return image if image.mode == "RGB" else image.convert("RGB")
