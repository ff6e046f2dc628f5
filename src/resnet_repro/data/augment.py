"""Photographs on their way into the network: cut out and resized on the host, the rest on the device."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from resnet_repro.data.device_batches import Normalisation
from resnet_repro.data.jpeg import Box, Choose, resize, shorter_side
from resnet_repro.data.options import Photographs

CROP = 224  # pixels of the papers' crops; their shorter sides go with this crop
NUM_ATTEMPTS = 10  # at drawing a rectangle that fits, before the middle is taken
NUM_UNIFORM = 3 + 2 * NUM_ATTEMPTS
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
"""The range of an aspect-ratio crop's share of the image, and of its width over its height.
[v2 Table 5, reference GoogLeNet]"""
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
"""Principal components of the colours of ImageNet's pixels, 0 to 1; a row is a channel, a column a component.
[fb.resnet.torch, imagenet.lua]

[open: v1's reference, AlexNet, multiplies by the eigenvalues of the covariance, which depend on the pixels' unit, and
prints none. Facebook AI Research trained its ResNets with these values; the papers' authors were at Microsoft]
"""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey image. [fb.resnet.torch, transforms.lua]"""
UNCHANGED = np.array([[1, 0, 0]] * 3, np.float32)
"""The jitter that leaves an image as it is."""


class Draw(NamedTuple):
    """The random choices of one sample."""

    uniform: list[float]
    """`NUM_UNIFORM` numbers in [0, 1) that decide mirroring, corner and shape of the rectangle."""
    colour: np.ndarray
    """float32 [3], added to red, green and blue, in units of the full range."""
    jitter: np.ndarray = UNCHANGED
    """float32 [3, 3], three changes in order. A row holds the weights of the image, of its grey image and of the grey
    image's mean in the changed image."""


class Crop(NamedTuple):
    """A training image as it is sent to the device, and what the device has yet to do."""

    pixels: UInt8[Tensor, "3 size size"]
    mirrored: bool
    colour: np.ndarray
    """As in `Draw`."""
    jitter: np.ndarray = UNCHANGED
    """As in `Draw`."""


def draws(seed: int, step: int, *, batch_size: int, colour: float, jitter: float = 0.0) -> list[Draw]:
    """Return the draws of batch `step`. A draw is a function of (seed, step, position in the batch), whoever makes it.

    Args:
        colour: standard deviation of a component's weight, 0.1 in AlexNet. [v1 Sec. 3.4, reference 21]
        jitter: brightness, contrast and saturation change by up to this share. [fb.resnet.torch, imagenet.lua: 0.4]
    """
    rng = np.random.Generator(np.random.PCG64([seed, step]))
    uniform = rng.random((batch_size, NUM_UNIFORM)).tolist()
    weights = colour * rng.standard_normal((batch_size, 3)) * EIGENVALUES
    colours = (weights @ np.array(EIGENVECTORS).T).astype(np.float32)
    if not jitter:
        return [*map(Draw, uniform, colours)]
    factors = rng.uniform(1 - jitter, 1 + jitter, (batch_size, 3))  # of brightness, contrast and saturation
    changes = np.stack([_change(factors[:, i], i) for i in range(3)], axis=1)
    order = rng.permuted(np.tile(np.arange(3), (batch_size, 1)), axis=1)
    return [*map(Draw, uniform, colours, np.take_along_axis(changes, order[:, :, None], axis=1))]


def _change(factor: np.ndarray, kind: int) -> np.ndarray:
    """Return a row of `Draw.jitter` for each factor: the image has that weight, and 1 - factor is the weight of black
    (kind 0: brightness), of the grey image's mean (1: contrast) or of the grey image (2: saturation).
    """
    rest, none = 1 - factor, np.zeros_like(factor)
    return np.stack([factor, rest if kind == 2 else none, rest if kind == 1 else none], axis=-1).astype(np.float32)


Chooser = Callable[[int, int, list[float]], Box]
"""Takes an image's height, its width and its draw's `uniform`; returns the rectangle to cut out."""


def scale_box(height: int, width: int, uniform: list[float], *, shorter_side: tuple[int, int]) -> Box:
    """Return the square of the source that becomes a 224 x 224 crop of the image resized to a random shorter side.
    [v1 Sec. 3.4]

    [deviates: the square is cut out before it is resized, at whole pixels of the source: it is off by up to half a
    pixel, and pixels beyond its edge do not shine in]
    """
    low, high = shorter_side
    short = min(height, width)
    side = max(1, round(short * CROP / (low + int(uniform[3] * (high - low + 1)))))
    return _placed(height, width, side, side, uniform)


def scale_aspect_box(height: int, width: int, uniform: list[float]) -> Box:
    """Return a rectangle of random area and aspect ratio, as torchvision's RandomResizedCrop chooses it.

    [deviates: fb.resnet.torch draws the ratio evenly from 3/4 to 4/3 and then swaps the sides of every other rectangle.
    10,000 such rectangles do not tell the two apart. If none fits, fb.resnet.torch takes the centre square]
    """
    low, high = (math.log(ratio) for ratio in RATIO)
    for attempt in range(NUM_ATTEMPTS):
        area = height * width * (AREA[0] + uniform[3 + 2 * attempt] * (AREA[1] - AREA[0]))
        ratio = math.exp(low + uniform[4 + 2 * attempt] * (high - low))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            return _placed(height, width, h, w, uniform)
    h, w = min(height, round(width / RATIO[0])), min(width, round(height * RATIO[1]))  # the largest in the middle
    return Box((height - h) // 2, (width - w) // 2, h, w)


def _placed(height: int, width: int, h: int, w: int, uniform: list[float]) -> Box:
    return Box(int(uniform[1] * (height - h + 1)), int(uniform[2] * (width - w + 1)), h, w)


def chooser(data: Photographs) -> Chooser:
    """Return the chooser that `data.augment` names."""
    if data.augment == "scale_aspect":
        return scale_aspect_box
    low, high = data.shorter_side
    return partial(scale_box, shorter_side=(low, high))


def centre_crop(
    image: UInt8[Tensor, "3 h w"], *, side: int, size: int, mode: str = "bilinear"
) -> UInt8[Tensor, "3 size size"]:
    """Return the middle `size` x `size` pixels of the image resized to a shorter side of `side` pixels."""
    resized = shorter_side(image, side, mode=mode)
    top, left = ((length - size) // 2 for length in resized.shape[1:])
    return resized[:, top : top + size, left : left + size]


class Augmentation(NamedTuple):
    """How a photograph becomes a training sample."""

    choose: Chooser
    size: int
    flip: bool
    """Whether half of the crops are mirrored."""
    mode: str = "bilinear"
    """The interpolation of `jpeg.resize`."""

    def box(self, draw: Draw) -> Choose:
        """Return a function from an image's height and width to the rectangle that the draw cuts out."""
        return lambda height, width: self.choose(height, width, draw.uniform)

    def crop(self, pixels: UInt8[Tensor, "3 h w"], draw: Draw) -> Crop:
        """Return the pixels of that rectangle as they are sent to the device."""
        resized = resize(pixels, self.size, self.size, mode=self.mode)
        return Crop(resized, self.flip and draw.uniform[0] < 0.5, draw.colour, draw.jitter)


def finish(
    pixels: UInt8[Tensor, "n 3 size size"],
    mirrored: Bool[Tensor, " n"],
    colour: Float[Tensor, "n 3"] | None,
    jitter: Float[Tensor, "n 3 3"] | None,
    normalisation: Normalisation,
) -> Float[Tensor, "n 3 size size"]:
    """Return the network's input, float32: do jitter, colour (None: none), normalisation and mirroring on the device.

    [open: whether the mean is subtracted before or after mirroring: before. The mean image equals its own mirror]
    """
    x = pixels.to(torch.float32, memory_format=torch.contiguous_format)
    if jitter is not None:
        x = jittered(x, jitter)
    if colour is not None:
        x = x + 255 * colour[:, :, None, None]
    x = x / normalisation.scale - normalisation.mean
    return torch.where(mirrored[:, None, None, None], x.flip(-1), x)


def jittered(x: Float[Tensor, "n 3 h w"], jitter: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 3 h w"]:
    """Return images after their three changes of colour, which may leave the range of pixels, as in fb.resnet.torch."""
    weights = x.new_tensor(GREY)[:, None, None]
    for of_image, of_grey, of_mean in jitter[..., None, None, None].permute(1, 2, 0, 3, 4, 5):
        grey = (weights * x).sum(1, keepdim=True)
        x = of_image * x + of_grey * grey + of_mean * grey.mean((2, 3), keepdim=True)
    return x
