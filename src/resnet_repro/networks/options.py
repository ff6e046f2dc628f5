"""The options of a network, two classes for each kind: as it is asked for, and decided. Imports no torch.

A new kind of network is a row of `KINDS`, the two classes that the row names, and a module with a function `build`.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from resnet_repro.networks import costs, depths
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


class Images(NamedTuple):
    """What a data set asks of a network."""

    image: tuple[int, int, int]
    """Channels, height and width."""
    num_classes: int
    family: Family = "cifar"


class Decided(NamedTuple):
    """A network, and what else its recipe depends on."""

    network: "Network"
    has_batch_norm: bool


class AskedNetwork(Options):
    """A network as `arch=` asks for it, `auto` where the papers' choice is meant."""

    name: Text | None = option("null or the name of a network")
    protocol: Paper
    """The paper whose recipe it has, unless `protocol=` says otherwise."""

    of_units: ClassVar[bool] = False
    """Whether it is made of residual units: then batch norms can be fused, inputs kept alone, identities inserted."""

    def decided(self, depth: object, images: Images) -> Decided:
        """Return the network for these images.

        Raises:
            UserError: if there is no such network; with the nearest ones.
        """
        raise NotImplementedError


class Network(AskedNetwork):
    """A network, decided. A kind overrides what it knows better or faster than these methods."""

    name: str
    module: ClassVar[str]
    """The module whose `build` makes the network."""
    depth: int | None = None
    """Weighted layers; None of a network that has no depth in the papers' sense."""
    takes_any_size: ClassVar[bool] = False
    """Whether it classifies images of any size, not of the training's alone."""

    @property
    def label(self) -> str:
        """What its runs' names begin with."""
        return self.name

    @property
    def kind(self) -> str:
        """A word beside the name that tells it from others, for tags."""
        return self.name

    @property
    def title(self) -> str:
        """The network in words."""
        return self.name

    @property
    def libraries(self) -> list[str]:
        """Libraries that make the network, beside torch."""
        return []

    @property
    def words(self) -> dict[str, Any]:
        """What tells this network from others of its kind, however many its classes."""
        return {key: value for key, value in self.record().items() if key not in ("name", "protocol")}

    @property
    def cell_words(self) -> dict[str, Any]:
        """The words by which runs are put into one cell of a table, without the depth."""
        return {key: value for key, value in self.words.items() if key not in ("depth", "family")}

    def count_multiply_adds(self, images: Images) -> int:
        """Return the multiply-adds of one image's forward pass."""
        count: int = import_module("resnet_repro.networks.parts").count_multiply_adds(self, images)
        return count

    def count_kept_activations(self, image_size: int, *, recompute: bool) -> int | None:
        """Return about how many numbers a training step keeps of an image; None if that is not known beforehand."""
        return None


class AskedResidual(AskedNetwork):
    """What `arch=plain`, `resnet_v1` and `resnet_v2` say of a network."""

    order: Order
    shortcut: Auto | Shortcut
    mix: Mix
    unit: Auto | Unit
    gate_bias: Number = option("a number", ge=-100, le=100, allow_inf_nan=False)
    stride_on: StrideOn

    of_units: ClassVar[bool] = True

    def decided(self, depth: object, images: Images) -> Decided:
        return Decided(self.at(depth, images.family), has_batch_norm=True)

    def at(self, depth: object, family: Family) -> "Residual":
        """Return the network of this depth, with the papers' choice for each `auto`.

        Raises:
            UserError: if there is no such depth; with the nearest ones.
        """
        unit = depths.unit_for(depth, family) if self.unit == "auto" else self.unit
        depths.stages(depth, family=family, unit=unit)
        shortcut = self.shortcut
        if shortcut == "auto":
            shortcut = "A" if family == "cifar" and unit != "bottleneck" else "B"  # [v1 Sec. 4.2], [v2 Appendix]
        values = self.record() | {"unit": unit, "shortcut": shortcut, "depth": depth, "family": family}
        return Residual.parse(values, group="arch.")


class Residual(Network, AskedResidual):
    """A plain or residual network: what `arch` says of it, its depth, and the family that its data asks for."""

    shortcut: Shortcut
    unit: Unit
    depth: int
    family: Family

    module: ClassVar[str] = "resnet_repro.networks.resnet"
    takes_any_size: ClassVar[bool] = True

    @property
    def is_plain(self) -> bool:
        return self.shortcut == "none"

    @property
    def label(self) -> str:
        return f"{self.name}-{self.depth}"

    @property
    def kind(self) -> str:
        return f"depth-{self.depth}"

    @property
    def title(self) -> str:
        words = (f"{key}={getattr(self, key)}" for key in ("order", "shortcut", "mix", "unit", "stride_on"))
        return f"{self.name}, {self.depth} layers, {', '.join(words)}"

    @property
    def words(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("depth", "family", "order", "shortcut", "mix", "unit", "stride_on")}

    @property
    def cell_words(self) -> dict[str, Any]:
        words: dict[str, Any] = {key: getattr(self, key) for key in ("order", "shortcut", "mix", "unit")}
        if "gate" in self.mix:
            words["gate_bias"] = float(self.gate_bias)
        if self.unit == "bottleneck":
            words["stride_on"] = self.stride_on
        return words

    def count_multiply_adds(self, images: Images) -> int:
        channels, size, _ = images.image
        words = {key: getattr(self, key) for key in ("family", "unit", "shortcut", "mix", "stride_on")}
        return costs.multiply_adds(
            self.depth, image_size=size, in_channels=channels, num_classes=images.num_classes, **words
        )

    def count_kept_activations(self, image_size: int, *, recompute: bool) -> int | None:
        words = {key: getattr(self, key) for key in ("family", "unit", "shortcut")}
        return costs.kept_activations(self.depth, image_size=image_size, recompute=recompute, **words)


class AskedComparator(AskedNetwork):
    """What `arch=torchvision` and `arch=timm` say of a network, to compare with ours."""

    source: Literal["torchvision", "timm"]
    image_size: Count | None = option("null or a whole number of pixels, at least 1")

    def decided(self, depth: object, images: Images) -> Decided:
        from resnet_repro.networks import comparators  # torch: only the library itself can tell

        assert self.name is not None
        size = self.image_size or images.image[1]
        facts = comparators.inspect(self.source, self.name, image_size=size, num_classes=images.num_classes)
        return Decided(Comparator(**self.record(), multiply_adds=facts.multiply_adds), facts.has_batch_norm)


class Comparator(Network, AskedComparator):
    """A network of another library. It has no depth, and none of our words."""

    multiply_adds: int
    """Of one image's forward pass, counted on the network itself when it was decided."""

    module: ClassVar[str] = "resnet_repro.networks.comparators"

    @property
    def label(self) -> str:
        return f"{self.source}-{self.name}"

    @property
    def kind(self) -> str:
        return self.source

    @property
    def libraries(self) -> list[str]:
        return [self.source]

    @property
    def cell_words(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in ("source", "name", "image_size")}

    def count_multiply_adds(self, images: Images) -> int:
        return self.multiply_adds


class Kind(NamedTuple):
    """A kind of network: an option that no other kind has, and the classes of its options."""

    mark: str
    asked: type[AskedNetwork]
    decided: type[Network]


KINDS = (Kind("order", AskedResidual, Residual), Kind("source", AskedComparator, Comparator))

assert get_args(Family) == tuple(depths.STEMS)
assert get_args(Unit) == tuple(depths.UNITS)


def kind_of(arch: Mapping[str, Any]) -> Kind:
    """Return the kind of a network with these options of `arch`."""
    return next((kind for kind in KINDS if kind.mark in arch), KINDS[0])


def of_record(arch: Mapping[str, Any], *, depth: int | None, family: Family) -> Network:
    """Return the network that a run's record holds."""
    kind = kind_of(arch).decided
    known = {"depth": depth, "family": family}
    beside = {key: value for key, value in known.items() if key in kind.model_fields and value is not None}
    return kind.parse({**arch, **beside}, group="arch.")


def group_size(num_images: int, *, at_most: int | None) -> int:
    """Return how many images a batch norm's statistics are of, where a device holds `num_images`.

    All of them; with `at_most`, as few equal groups as there can be, of which the last may be smaller.
    """
    num_groups = 1 if at_most is None else -(-num_images // at_most)
    return -(-num_images // num_groups)
