"""The network that a config asks for."""

from typing import Any

from torch import nn

from resnet_repro.networks.comparators import LIBRARIES, Comparator, _image_size
from resnet_repro.networks.options import family, is_comparator
from resnet_repro.networks.resnet import ResNet


def build(config: dict[str, Any]) -> nn.Module:
    """The network of a resolved config, with random weights from PyTorch's global generator."""
    arch, data = config["arch"], config["data"]
    if is_comparator(config):
        net = LIBRARIES[arch["source"]].make(arch["name"], _image_size(config), data["num_classes"])
        return Comparator(net, image_size=arch["image_size"])
    return ResNet(
        **words(config),
        num_classes=data["num_classes"],
        in_channels=data["image"][0],
        gate_bias=arch["gate_bias"],
    )


def words(config: dict[str, Any]) -> dict[str, Any]:
    """What tells a resolved config's network, one of ours, from the others, however many its classes."""
    arch = {key: config["arch"][key] for key in ("order", "shortcut", "mix", "unit", "stride_on")}
    return {"depth": config["depth"], "family": family(config), **arch}
