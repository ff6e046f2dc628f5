"""The papers' four ways to look at an image that is tested, and what a network makes of them. [v1 Sec. 3.4]

A view is a uint8 image, cropped or whole. Sizes are the papers' for networks that were trained on crops of 224 pixels;
for others they grow or shrink in proportion: crops of 112 are tested at half of every size.
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
    """What a test has a network look at.

    Args:
        image: as it is stored.
        test: `1crop`, `10crop`, `multiscale` or `320`.
        crop: pixels of the crops that the network was trained on.
        side: shorter side of what one and ten crops are taken of, at a crop of 224.
        mode: how images are resized, bilinear or bicubic.

    [open: whether v1's several scales are those of the image alone or of its mirror image, too: both, as in its
    reference 41, whose form of testing it takes]
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
    """A size of the papers, in pixels, for a network that was trained on crops of `crop` pixels."""
    return round(size * crop / CROP)


def ten_crops(image: Image, size: int) -> list[Image]:
    """The four corners and the centre, then the same of the mirror image. [v1 Sec. 3.4, its reference 21]"""
    found = []
    for seen in (image, image.flip(-1)):
        found += [seen[:, :size, :size], seen[:, :size, -size:], seen[:, -size:, :size], seen[:, -size:, -size:]]
        found.append(centre_crop(seen, side=min(seen.shape[1:]), size=size))
    return found


class Views(NamedTuple):
    """The views of a batch of images, those of one shape together, as a network takes them."""

    groups: list[tuple[Tensor, Int[Tensor, " views"]]]
    """[views, c, h, w] of one shape, and which image of the batch each is of."""
    labels: Int[Tensor, " images"]


def grouped(images: Iterable[list[Image]], labels: Int[Tensor, " images"]) -> Views:
    """The views of each image, by their shapes."""
    by_shape: dict[torch.Size, list[tuple[Image, int]]] = {}
    for number, of_image in enumerate(images):
        for view in of_image:
            by_shape.setdefault(view.shape, []).append((view, number))
    groups = []
    for group in by_shape.values():
        of_one_shape, numbers = zip(*group, strict=True)
        groups.append((torch.stack(of_one_shape), torch.tensor(numbers)))
    return Views(groups, labels)


def probabilities(net: nn.Module, batch: Views) -> Float64[Tensor, "images classes"]:
    """Softmax of the network's scores, averaged over the views of each image. [v1 Sec. 3.4]

    A whole image needs no other network: `net` pools over all positions and then has its linear layer, which is, but
    for rounding, the mean over the positions of what that layer makes of each as a 1 x 1 convolution. So positions are
    averaged before the softmax, scales and mirror images after it, as in v1's reference 41. [open: v1 says "average the
    scores"] In float64, where the order of the scores is that of their softmax.
    [open: v1 pools over all positions ("global average pooling"), but its released networks average windows of 7 x 7.
    On an image larger than a crop, these windows overlap, and positions at the border weigh less than here]
    """
    scores = torch.cat([net(x).double().softmax(1) for x, _ in batch.groups])
    of = torch.cat([image for _, image in batch.groups])
    total = scores.new_zeros(len(batch.labels), scores.shape[1]).index_add_(0, of, scores)
    return total / of.bincount(minlength=len(batch.labels))[:, None]
