"""The views of an image in the papers' four tests, and a network's average probabilities over them. [v1 Sec. 3.4]

A view is a uint8 image, cropped or whole. Sizes are the papers' for networks trained on crops of 224 pixels. For other
networks, sizes are in proportion to the crop: a network trained on crops of 112 is tested at half of every size.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int, UInt8
from torch import Tensor, nn

from resnet_repro.data.augment import CROP, centre_crop
from resnet_repro.data.jpeg import shorter_side

Image = UInt8[Tensor, "3 _ _"]

SCALES = (224, 256, 384, 480, 640)
"""Shorter sides of the whole images. [v1 Sec. 3.4]"""
LARGE = 320
"""Crop and shorter side of v2's test. [v2 Table 5]"""


def views(image: Image, *, test: str, crop: int, side: int, mode: str = "bilinear") -> list[Image]:
    """Return the views of an image in a test.

    Args:
        image: the stored image.
        test: `1crop`, `10crop`, `multiscale` or `320`.
        crop: width and height in pixels of the crops that the network was trained on.
        side: shorter side in pixels of the image from which one or ten crops are taken, at a crop of 224.
        mode: `bilinear` or `bicubic`, for resizing.

    [open: v1 does not say whether its several scales are of the image only or of its mirror image, too: here both, as
    in its reference 41, whose form of testing it takes]
    """
    if test == "multiscale":
        whole = [shorter_side(image, in_proportion(scale, crop), mode=mode) for scale in SCALES]
        return [*whole, *(image.flip(-1) for image in whole)]
    if test == "320":
        large = in_proportion(LARGE, crop)
        return [centre_crop(image, side=large, size=large, mode=mode)]
    if test == "1crop":
        return [centre_crop(image, side=in_proportion(side, crop), size=crop, mode=mode)]
    return ten_crops(shorter_side(image, in_proportion(side, crop), mode=mode), crop)


def in_proportion(size: int, crop: int) -> int:
    """Return a size of the papers, in pixels, for a network trained on crops of `crop` pixels."""
    return round(size * crop / CROP)


def ten_crops(image: Image, size: int) -> list[Image]:
    """Return the four corners and the centre, then those of the mirror image. [v1 Sec. 3.4, its reference 21]"""
    crops = []
    for each in (image, image.flip(-1)):
        crops += [each[:, :size, :size], each[:, :size, -size:], each[:, -size:, :size], each[:, -size:, -size:]]
        crops.append(centre_crop(each, side=min(each.shape[1:]), size=size))
    return crops


class Views(NamedTuple):
    """The views of a batch of images, grouped by shape."""

    groups: list[tuple[Tensor, Int[Tensor, " views"]]]
    """For each shape, the views [views, c, h, w], and for each view the number of its image in the batch."""
    labels: Int[Tensor, " images"]


def grouped(images: Iterable[list[Image]], labels: Int[Tensor, " images"]) -> Views:
    """Return the views of a batch, given the list of views of each image."""
    by_shape: dict[torch.Size, list[tuple[Image, int]]] = {}
    for number, image_views in enumerate(images):
        for view in image_views:
            by_shape.setdefault(view.shape, []).append((view, number))
    groups = []
    for group in by_shape.values():
        same_shape, numbers = zip(*group, strict=True)
        groups.append((torch.stack(same_shape), torch.tensor(numbers)))
    return Views(groups, labels)


def probabilities(net: nn.Module, batch: Views) -> Float64[Tensor, "images classes"]:
    """Return the softmax of the network's scores, averaged over the views of each image. [v1 Sec. 3.4]

    A whole image needs no other network. `net` pools over all positions before its linear layer. Up to rounding, that
    equals the linear layer as a 1 x 1 convolution, averaged over all positions. So positions are averaged before the
    softmax, scales and mirror images after the softmax, as in v1's reference 41. [open: v1 says "average the scores"]
    The softmax is in float64, so that it keeps the order of the scores.
    [open: v1 pools over all positions ("global average pooling"), but its released networks average windows of 7 x 7.
    On an image larger than a crop, these windows overlap, and positions at the border weigh less than here]
    """
    scores = torch.cat([net(x).double().softmax(1) for x, _ in batch.groups])
    of = torch.cat([image for _, image in batch.groups])
    total = scores.new_zeros(len(batch.labels), scores.shape[1]).index_add_(0, of, scores)
    return total / of.bincount(minlength=len(batch.labels))[:, None]
