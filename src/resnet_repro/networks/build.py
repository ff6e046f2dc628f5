"""The network that a run's options ask for."""

from torch import nn

from resnet_repro.networks.comparators import LIBRARIES, Resized
from resnet_repro.networks.options import Comparator, Network
from resnet_repro.networks.resnet import ResNet


def build(network: Network, *, image: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Return the network, with random weights from PyTorch's global generator.

    Args:
        image: channels, height and width of the images.
    """
    channels, size, _ = image
    if isinstance(network, Comparator):
        net = LIBRARIES[network.source].make(network.name, network.sees(size), num_classes)
        return Resized(net, image_size=network.image_size)
    return ResNet(**network.words, num_classes=num_classes, in_channels=channels, gate_bias=network.gate_bias)
