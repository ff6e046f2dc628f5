"""The options of a data set, a class for each kind: in memory, photographs, photographs in shards. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from resnet_repro.options import Auto, Count, Family, NotNegative, Options, Share, Text, option

FOLDER = "a folder; a name that is a number is quoted, '{key}=\"2024\"'"
Side = Annotated[int, Field(ge=224)]
"""Pixels of a shorter side at a crop of 224."""
PIXELS = "a whole number of pixels, at least "


def rising(values: tuple[int, ...]) -> tuple[int, ...]:
    """Return the values. Raise ValueError where they do not rise."""
    if list(values) != sorted(values):
        raise ValueError("the values do not rise")
    return values


class Data(Options):
    """What every kind of data has."""

    name: str = option("a name")
    num_train: Count = option("a whole number of images, at least 1")
    num_classes: Count = option("a whole number of classes, at least 1")
    image: tuple[Count, Count, Count] = option("channels, height and width, [3,32,32]", strict=False)
    flip: bool
    normalise: Literal["pixel", "channel"]
    top5: bool = option(default=False)
    """Whether evaluations count the top-5 error, too."""

    @property
    def measures_top5(self) -> bool:
        """Whether top-5 errors are counted: where the data asks for them and has more than five classes."""
        return self.top5 and self.num_classes > 5


class InMemory(Data):
    """Images small enough to live on the training device."""

    root: Text = option(FOLDER.format(key="data.root"), default="data")
    download: bool = option(default=False)
    val_size: int = option("a whole number of images, 0 for no validation split", ge=0)
    pad: int = option("a whole number of pixels", ge=0)
    loader: Literal["device", "dataloader"]
    num_workers: int = option("a whole number from 0 on", ge=0)

    @property
    def family(self) -> Family:
        return "cifar"

    @property
    def num_held_out(self) -> int:
        """Training images that are held out to validate on."""
        return self.val_size

    @property
    def printed_as(self) -> str:
        """The data of the papers that its errors stand beside."""
        return self.name


class AskedPhotographs(Data):
    """Photographs as they are asked for, `auto` where the protocol decides."""

    family: Family
    root: Text = option(FOLDER.format(key="data.root"))
    crop: Count = option(PIXELS + "1")
    augment: Auto | Literal["scale", "scale_aspect"]
    shorter_side: Annotated[tuple[Side, Side], AfterValidator(rising)] = option(
        "the smallest and the largest shorter side, [256,480], at least 224", strict=False
    )
    test_side: Side = option(PIXELS + "224")
    jitter: Auto | Share = option("auto or a number from 0 to 1")
    interpolation: Auto | Literal["bilinear", "bicubic"]
    colour: NotNegative = option("a number from 0 on")
    num_mean_images: Count = option("a whole number of images, at least 1")
    skip_damaged: bool
    num_threads: Auto | Count = option("auto or a whole number of threads, at least 1")


class Photographs(AskedPhotographs):
    """Image files that are read as training goes, each of its own size."""

    augment: Literal["scale", "scale_aspect"]
    jitter: Share = option("a number from 0 to 1")
    interpolation: Literal["bilinear", "bicubic"]

    @property
    def num_held_out(self) -> int:
        """None of the training images: there are validation images of their own."""
        return 0

    @property
    def printed_as(self) -> str:
        """The data of the papers that its errors stand beside."""
        return self.name


class InShards(Options):
    """What photographs in shards have beside the options of photographs."""

    same_as: str = option("a name")
    shuffle: Count = option("a whole number of images, at least 1")
    cache_gb: NotNegative = option("a number of GB of disk")
    cache_dir: Text | None = option("null or a folder")


class AskedShards(AskedPhotographs, InShards):
    """Photographs in shards as they are asked for."""


class Shards(Photographs, InShards):
    """Photographs packed in shards, which may lie in a bucket."""

    @property
    def printed_as(self) -> str:
        """The data of the papers that its errors stand beside."""
        return self.same_as


Kind = type[InMemory] | type[Photographs] | type[Shards]


def kind_of(values: Mapping[str, Any]) -> Kind:
    """Return the class of a data set with these options: each kind has one that no other has."""
    return Shards if "cache_gb" in values else Photographs if "crop" in values else InMemory


def asked_kind_of(values: Mapping[str, Any]) -> type[InMemory] | type[AskedPhotographs] | type[AskedShards]:
    """Return the class of a data set with these options, some of which may be `auto`."""
    return AskedShards if "cache_gb" in values else AskedPhotographs if "crop" in values else InMemory


@dataclass(frozen=True, kw_only=True)
class Batching:
    """What of a run's other options decides its batches."""

    batch_size: int
    """Images a step, over all devices."""
    eval_batch_size: int
    num_steps: int
    seed: int
    on_gpu: bool = False
    devices: int = 1
    """Of one node; the cores of its CPU are shared by as many processes."""
    steps_at_once: int | None = None
    """Steps whose random choices are handed out together, for steps recorded as CUDA graphs; None elsewhere."""
