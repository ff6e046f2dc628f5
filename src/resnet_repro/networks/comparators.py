"""Networks of torchvision and timm, to compare with ours."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from resnet_repro.networks.libraries import LIBRARIES
from resnet_repro.networks.options import Comparator, Images


class Resized(nn.Module):
    """Another library's network for colour images, with that library's random weights.

    Images are resized bilinearly to `image_size` pixels, on their device and after augmentation; None leaves their size
    alone. Grey images become three equal channels, so that the network stays as published.
    """

    def __init__(self, net: nn.Module, *, image_size: int | None) -> None:
        super().__init__()
        self.net, self.image_size = net, image_size

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n num_classes"]:
        if self.image_size is not None and x.shape[-2:] != (self.image_size, self.image_size):
            x = F.interpolate(x, size=self.image_size, mode="bilinear", align_corners=False)
        return self.net(x.expand(-1, 3, -1, -1))


def build(network: Comparator, images: Images) -> Resized:
    """Return the network for these images, with its library's random weights."""
    size = network.image_size or images.image[1]
    net = LIBRARIES[network.source].make(network.name, size, images.num_classes)
    return Resized(net, image_size=network.image_size)
