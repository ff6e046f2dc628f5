"""What becomes of a photograph on its way into the network: cut out and resized on the host, the rest on the device."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from resnet_repro.data.batches import Normalisation
from resnet_repro.data.decode import resize, shorter_side

CROP = 224  # pixels: what the papers' networks see, and what their shorter sides refer to
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""Of an aspect-ratio crop: its share of the image, its width over its height. [v2 Table 5, reference GoogLeNet]"""
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Of the colours of ImageNet's pixels, 0 to 1; a row a channel, a column a component. [fb.resnet.torch, imagenet.lua]

[open: v1's reference, AlexNet, multiplies by the eigenvalues of the covariance, which depend on the pixels' unit, and
prints none. These are what the authors' laboratory released ResNets with]
"""


class Box(NamedTuple):
    """A rectangle of an image, in its own pixels."""

    top: int
    left: int
    height: int
    width: int


class Crop(NamedTuple):
    """A training image as it is sent to the device, and what is left to do with it there."""

    pixels: UInt8[Tensor, "3 size size"]
    mirrored: bool
    colour: Float[np.ndarray, "3"]
    """Added to red, green and blue, in units of the full range."""


def generator(seed: int, step: int, position: int) -> np.random.Generator:
    """Of one sample's random choices: a function of its place in the run, whoever makes it and when."""
    return np.random.Generator(np.random.PCG64([seed, step, position]))


def scale_box(height: int, width: int, rng: np.random.Generator, *, shorter_side: tuple[int, int]) -> Box:
    """Where a 224 x 224 crop comes from of the image resized to a random shorter side. [v1 Sec. 3.4]

    [deviates: cut out before it is resized, at a whole pixel of the source: off by up to half of one, and what is
    beyond its edge does not shine in]
    """
    short = min(height, width)
    side = max(1, round(short * CROP / int(rng.integers(shorter_side[0], shorter_side[1] + 1))))
    return Box(int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side)


def scale_aspect_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """A rectangle of random area and aspect ratio, as torchvision's RandomResizedCrop and fb.resnet.torch choose it."""
    for _ in range(10):
        area = height * width * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return Box(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    h, w = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))  # the largest in the middle
    return Box((height - h) // 2, (width - w) // 2, h, w)


def chooser(data: dict[str, Any]) -> Callable[[int, int, np.random.Generator], Box]:
    """What `data.augment` names, as a function of height, width and generator."""
    if data["augment"] == "scale_aspect":
        return scale_aspect_box
    low, high = data["shorter_side"]
    return lambda height, width, rng: scale_box(height, width, rng, shorter_side=(low, high))


def crop(image: UInt8[Tensor, "3 h w"], box: Box, size: int) -> UInt8[Tensor, "3 size size"]:
    """The rectangle of an image, resized to a square."""
    top, left, height, width = box
    return resize(image[:, top : top + height, left : left + width], size, size)


def centre_crop(image: UInt8[Tensor, "3 h w"], *, side: int, size: int) -> UInt8[Tensor, "3 size size"]:
    """The middle of the image resized to a shorter side."""
    resized = shorter_side(image, side)
    top, left = ((length - size) // 2 for length in resized.shape[1:])
    return resized[:, top : top + size, left : left + size]


def augment(
    image: UInt8[Tensor, "3 h w"],
    rng: np.random.Generator,
    *,
    choose: Callable[[int, int, np.random.Generator], Box],
    size: int,
    flip: bool,
    colour: float,
) -> Crop:
    """The random crop of an image; half are to be mirrored, and shifted along the principal components of colour.

    Args:
        colour: standard deviation of a component's share, 0.1 in AlexNet. [v1 Sec. 3.4, reference 21]
    """
    height, width = image.shape[1:]
    pixels = crop(image, choose(height, width, rng), size)
    mirrored = flip and rng.random() < 0.5
    shares = colour * rng.standard_normal(3) * EIGENVALUES
    return Crop(pixels, bool(mirrored), np.asarray(EIGENVECTORS) @ shares)


def finish(
    pixels: UInt8[Tensor, "n 3 size size"],
    mirrored: Bool[Tensor, " n"],
    colour: Float[Tensor, "n 3"],
    normalisation: Normalisation,
) -> Float[Tensor, "n 3 size size"]:
    """What the device does: colour, normalisation, mirroring; float32.

    [open: whether the mean is subtracted before or after mirroring: before. It is the same for an image's mirror]
    """
    x = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    if colour.any():
        x = x + 255 * colour[:, :, None, None]
    x = x / normalisation.scale - normalisation.mean
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)
