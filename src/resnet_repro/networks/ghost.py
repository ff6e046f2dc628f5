"""Ghost batch norm: statistics over groups of a device's images, each group as large as on one of the papers' GPUs.

The papers trained CIFAR with 128 images on two GPUs and ImageNet with 256 on eight. Each GPU normalised its own images:
64 and 32. [v1 Sec. 3.4, 4.2] A device that holds several such groups normalises each group by itself. It keeps the
running statistics of the first group, as `process_group.share_buffers` keeps those of the first device.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnet_repro.networks.fused import FusedBatchNorm
from resnet_repro.networks.options import group_size


def group_batch_norms(net: nn.Module, *, at_most: int) -> None:
    """Have every batch norm of `net`, in training, take its statistics over groups of at most this many images.

    Parameters and buffers keep their names. Evaluation does not change.
    """
    for norm in [module for module in net.modules() if isinstance(module, _BatchNorm)]:
        if isinstance(norm, FusedBatchNorm):
            norm.group_at_most = at_most
        else:
            norm.forward = partial(_by_groups, norm, norm.forward, at_most)  # type: ignore[method-assign]


def _by_groups(norm: _BatchNorm, forward: Callable[[Tensor], Tensor], at_most: int, x: Tensor) -> Tensor:
    size = group_size(len(x), at_most=at_most)
    if not norm.training or size == len(x):
        return forward(x)
    first, *others = x.split(size)
    outputs = [forward(first)]
    norm.track_running_stats = False  # the other groups' statistics normalise, but do not enter the running averages
    outputs += [forward(each) for each in others]
    norm.track_running_stats = True
    return torch.cat(outputs)
