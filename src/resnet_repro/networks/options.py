"""The options of a network. Each kind of network has two classes: the options as asked for, and as decided.

A new kind of network is a row of `KINDS`, the two classes in that row, and a module with a function `build`.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from resnet_repro.errors import UserError
from resnet_repro.networks import costs, depths, libraries
from resnet_repro.options import Auto, Count, Family, Number, Options, Text, option

Order = Literal["original", "bn_after_add", "relu_before_add", "relu_only_preact", "full_preact"]
Shortcut = Literal["A", "B", "C", "dropout", "none"]
Mix = Literal["add", "half_shortcut", "half_both", "exclusive_gate", "shortcut_gate"]
Unit = Literal["basic", "bottleneck", "one_layer"]
StrideOn = Literal["first", "3x3"]
Paper = Literal["paper_v1", "paper_v2"]


class Images(NamedTuple):
    """The facts about a data set's images that shape a network."""

    image: tuple[int, int, int]
    """Channels, height and width."""
    num_classes: int
    family: Family = "cifar"


class Decided(NamedTuple):
    """A decided network, and the fact about it that its recipe depends on."""

    network: "Network"
    has_batch_norm: bool


class AskedNetwork(Options):
    """A network as `arch=` asks for it; `auto` stands for the papers' choice."""

    name: Text | None = option("null or the name of a network")
    protocol: Paper
    """The paper whose recipe trains the network, unless `protocol=` names another recipe."""

    of_units: ClassVar[bool] = False
    """Whether the network consists of residual units: only such networks can fuse batch norms, recompute activations or
    begin with a shallower network's weights."""

    @abstractmethod
    def decided(self, depth: object, images: Images) -> Decided:
        """Return the network for these images.

        Raises:
            UserError: if there is no such network; names the nearest networks.
        """


class Network(AskedNetwork):
    """A decided network. A kind overrides the methods for which it has a better or faster answer."""

    name: str
    module: ClassVar[str]
    """The module whose `build` makes the network."""
    depth: int | None = None
    """Number of weighted layers; None if the network has no depth in the papers' sense."""
    takes_any_size: ClassVar[bool] = False
    """Whether the network classifies images of any size, not only of the training's size."""

    @property
    def label(self) -> str:
        """The beginning of its runs' names."""
        return self.name

    @property
    def kind(self) -> str:
        """A tag beside the name that groups networks."""
        return self.name

    @property
    def title(self) -> str:
        """A description of the network."""
        return self.name

    @property
    def libraries(self) -> list[str]:
        """Libraries besides torch that the network comes from."""
        return []

    @property
    def words(self) -> dict[str, Any]:
        """The options that tell the network from others of its kind, whatever the number of classes."""
        return {key: value for key, value in self.record().items() if key not in ("name", "protocol")}

    @property
    def cell_words(self) -> dict[str, Any]:
        """The options, apart from the depth, that runs in one cell of a table share."""
        return {key: value for key, value in self.words.items() if key not in ("depth", "family")}

    def _values(self, *keys: str) -> dict[str, Any]:
        return {key: getattr(self, key) for key in keys}

    def known_multiply_adds(self, images: Images) -> int | None:
        """Return the multiply-adds of one image's forward pass; None if they must be counted on the network itself."""
        return None

    def count_kept_activations(self, image_size: int, *, recompute: bool) -> int | None:
        """Return about how many numbers a training step keeps of an image; None if that is unknown."""
        return None


class AskedResidual(AskedNetwork):
    """The options of `arch=plain`, `resnet_v1` and `resnet_v2`."""

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
            UserError: if the depth is not legal; names the nearest legal depths.
        """
        unit = depths.unit_for(depth, family) if self.unit == "auto" else self.unit
        depths.stages(depth, family=family, unit=unit)
        shortcut = self.shortcut
        if shortcut == "auto":
            shortcut = "A" if family == "cifar" and unit != "bottleneck" else "B"  # [v1 Sec. 4.2], [v2 Appendix]
        values = self.record() | {"unit": unit, "shortcut": shortcut, "depth": depth, "family": family}
        return Residual.parse(values, group="arch.")


class Residual(Network, AskedResidual):
    """A plain or residual network: the options of `arch`, the depth, and the family that its data asks for."""

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
        words = self._values("order", "shortcut", "mix", "unit", "stride_on")
        return ", ".join([self.name, f"{self.depth} layers", *(f"{key}={word}" for key, word in words.items())])

    @property
    def words(self) -> dict[str, Any]:
        return self._values("depth", "family", "order", "shortcut", "mix", "unit", "stride_on")

    @property
    def cell_words(self) -> dict[str, Any]:
        words = self._values("order", "shortcut", "mix", "unit")
        if "gate" in self.mix:
            words["gate_bias"] = float(self.gate_bias)
        if self.unit == "bottleneck":
            words["stride_on"] = self.stride_on
        return words

    def known_multiply_adds(self, images: Images) -> int:
        channels, size, _ = images.image
        words = self._values("depth", "family", "unit", "shortcut", "mix", "stride_on")
        return costs.multiply_adds(image_size=size, in_channels=channels, num_classes=images.num_classes, **words)

    def count_kept_activations(self, image_size: int, *, recompute: bool) -> int | None:
        words = self._values("depth", "family", "unit", "shortcut")
        return costs.kept_activations(image_size=image_size, recompute=recompute, **words)


class AskedComparator(AskedNetwork):
    """The options of `arch=torchvision` and `arch=timm`, networks to compare with ours."""

    source: Literal["torchvision", "timm"]
    image_size: Count | None = option("null or a whole number of pixels, at least 1")

    def decided(self, depth: object, images: Images) -> Decided:
        if self.name is None:
            choices = "one of " if self.source == "torchvision" else "any of timm.list_models(), for example "
            examples = ", ".join(libraries.LIBRARIES[self.source].examples)
            raise UserError(f"arch={self.source} needs arch.name=..., {choices}{examples}")
        size = self.image_size or images.image[1]
        facts = libraries.inspect(self.source, self.name, image_size=size, num_classes=images.num_classes)
        return Decided(Comparator(**self.record(), multiply_adds=facts.multiply_adds), facts.has_batch_norm)


class Comparator(Network, AskedComparator):
    """A network of another library, without a depth or words of ours."""

    multiply_adds: int
    """Multiply-adds of one image's forward pass, counted on the network when it was decided."""

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
        return self._values("source", "name", "image_size")

    def known_multiply_adds(self, images: Images) -> int:
        return self.multiply_adds


class Kind(NamedTuple):
    """A kind of network: `mark` is an option that no other kind has; the classes hold its options."""

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
    """Return the network in a run's record."""
    kind = kind_of(arch).decided
    values = {"depth": depth, "family": family}
    fields = {key: value for key, value in values.items() if key in kind.model_fields and value is not None}
    return kind.parse({**arch, **fields}, group="arch.")


def group_size(num_images: int, *, at_most: int | None) -> int:
    """Return the number of images in a group that batch norm normalises by itself, on a device with `num_images`.

    The groups are as few as `at_most` allows, and of equal size except for a smaller last group. None: a single group.
    """
    num_groups = 1 if at_most is None else -(-num_images // at_most)
    return -(-num_images // num_groups)
