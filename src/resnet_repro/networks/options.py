"""The options of a network: one of ours, plain or residual, or another library's. Imports no torch."""

from typing import Any, Literal, get_args

from resnet_repro.networks import depths
from resnet_repro.options import Auto, Count, Family, Number, Options, Text, option

Order = Literal["original", "bn_after_add", "relu_before_add", "relu_only_preact", "full_preact"]
Shortcut = Literal["A", "B", "C", "dropout", "none"]
Mix = Literal["add", "half_shortcut", "half_both", "exclusive_gate", "shortcut_gate"]
Unit = Literal["basic", "bottleneck", "one_layer"]
StrideOn = Literal["first", "3x3"]
Paper = Literal["paper_v1", "paper_v2"]

COMPARATORS = {
    "torchvision": ("alexnet", "squeezenet1_1", "vgg16", "googlenet"),
    "timm": ("resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224"),
}
"""Libraries whose networks can be trained, each with some of its names to begin with."""


class ResidualWords(Options):
    """What `arch=plain`, `resnet_v1` and `resnet_v2` say of a network, `auto` where the papers' choice is meant."""

    name: Text | None = option("null or the name of a network")
    order: Order
    shortcut: Auto | Shortcut
    mix: Mix
    unit: Auto | Unit
    gate_bias: Number = option("a number", ge=-100, le=100, allow_inf_nan=False)
    stride_on: StrideOn
    protocol: Paper
    """The paper of the architecture, whose recipe it has unless `protocol=` says otherwise."""

    def at(self, depth: object, family: Family) -> "Residual":
        """Return the network of this depth, with the papers' choice for each `auto`.

        Raises:
            UserError: where there is no such depth; with the nearest ones.
        """
        unit = depths.unit_for(depth, family) if self.unit == "auto" else self.unit
        depths.stages(depth, family=family, unit=unit)
        shortcut = self.shortcut
        if shortcut == "auto":
            shortcut = "A" if family == "cifar" and unit != "bottleneck" else "B"  # [v1 Sec. 4.2], [v2 Appendix]
        values = self.record() | {"unit": unit, "shortcut": shortcut, "depth": depth, "family": family}
        return Residual.parse(values, group="arch.")


class Residual(ResidualWords):
    """A plain or residual network: what `arch` says of it, its depth, and the family that its data asks for."""

    name: str
    shortcut: Shortcut
    unit: Unit
    depth: int
    family: Family

    @property
    def is_plain(self) -> bool:
        return self.shortcut == "none"

    @property
    def words(self) -> dict[str, Any]:
        """What tells this network from the others, however many its classes."""
        return {key: getattr(self, key) for key in ("depth", "family", "order", "shortcut", "mix", "unit", "stride_on")}

    @property
    def label(self) -> str:
        """`plain-56`: what its runs' names begin with."""
        return f"{self.name}-{self.depth}"


class ComparatorWords(Options):
    """What `arch=torchvision` and `arch=timm` say of a network, to compare with ours."""

    source: Literal["torchvision", "timm"]
    name: Text | None = option("null or the name of a network")
    image_size: Count | None = option("null or a whole number of pixels, at least 1")
    protocol: Paper


class Comparator(ComparatorWords):
    """A network of another library. It has no depth, and none of our words."""

    name: str
    multiply_adds: int
    """Of one image's forward pass, counted on the network itself."""

    @property
    def label(self) -> str:
        """`torchvision-alexnet`: what its runs' names begin with."""
        return f"{self.source}-{self.name}"

    def sees(self, image_size: int) -> int:
        """Return the pixels, across, of an image as the network itself sees it."""
        return self.image_size or image_size


Network = Residual | Comparator

assert get_args(Family) == tuple(depths.STEMS)
assert get_args(Unit) == tuple(depths.UNITS)


def group_size(num_images: int, *, at_most: int | None) -> int:
    """Return how many images a batch norm's statistics are of, where a device holds `num_images`.

    All of them; with `at_most`, as few equal groups as there can be, of which the last may be smaller.
    """
    num_groups = 1 if at_most is None else -(-num_images // at_most)
    return -(-num_images // num_groups)
