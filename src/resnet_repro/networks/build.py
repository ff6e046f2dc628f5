"""The network that a run's options ask for."""

from importlib import import_module

from torch import nn

from resnet_repro.networks.options import Images, Network


def build(network: Network, images: Images) -> nn.Module:
    """Return the network, with random weights from PyTorch's global generator, built by the module of its kind."""
    net: nn.Module = import_module(network.module).build(network, images)
    return net
