"""Options of networks."""

from typing import Any

Config = dict[str, Any]

COMPARATORS = {
    "torchvision": ("alexnet", "squeezenet1_1", "vgg16", "googlenet"),
    "timm": ("resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224"),
}
"""Names to begin with of the libraries whose networks can be trained, `arch.source`."""


def family(config: Config) -> str:
    """Which of the papers' two families of networks the data asks for."""
    return str(config["data"].get("family", "cifar"))


def is_comparator(config: Config) -> bool:
    """Whether the network is another library's, which has no depth and none of our words."""
    return "source" in config["arch"]


def group_size(num_images: int, *, at_most: int | None) -> int:
    """Images that a batch norm's statistics are of, where a device holds `num_images`: all of them, or as few equal
    groups as there can be of `at_most`; the last group may be smaller.
    """
    num_groups = 1 if at_most is None else -(-num_images // at_most)
    return -(-num_images // num_groups)
