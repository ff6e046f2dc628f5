"""The views of tested images, and what a network makes of them. [v1 Sec. 3.4]"""

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor, nn


class Views(NamedTuple):
    """The views of a batch of images, those of one shape together, as a network takes them."""

    groups: list[tuple[Tensor, Int[Tensor, " views"]]]
    """[views, c, h, w] of one shape, and which image of the batch each is of."""
    labels: Int[Tensor, " images"]


def probabilities(net: nn.Module, batch: Views) -> Float64[Tensor, "images classes"]:
    """Softmax of the network's scores, averaged over the views of each image. [v1 Sec. 3.4]

    A whole image needs no other network: `net` pools over all positions and then has its linear layer, which is, but
    for rounding, the mean over the positions of what that layer makes of each as a 1 x 1 convolution. So positions are
    averaged before the softmax, scales and mirror images after it, as in v1's reference 41. [open: v1 says "average the
    scores"] In float64, where the order of the scores is that of their softmax.
    """
    scores = torch.cat([net(x).double().softmax(1) for x, _ in batch.groups])
    of = torch.cat([image for _, image in batch.groups])
    total = scores.new_zeros(len(batch.labels), scores.shape[1]).index_add_(0, of, scores)
    return total / of.bincount(minlength=len(batch.labels))[:, None]
