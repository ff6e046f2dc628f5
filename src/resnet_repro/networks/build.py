"""Build the network of a run from its options."""

from importlib import import_module

from torch import nn

from resnet_repro.networks.options import Images, Network


def build(network: Network, images: Images) -> nn.Module:
    """Return the network with random weights from PyTorch's global generator. The module of its kind builds it."""
    net: nn.Module = import_module(network.module).build(network, images)
    return net
