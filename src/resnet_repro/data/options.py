"""The options of a data set, a class for each kind: in memory, photographs, photographs in shards. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from resnet_repro.options import Auto, Count, Family, NotNegative, Options, Share, Text, option

FOLDER = "a folder; a name that is a number is quoted, '{key}=\"2024\"'"
PIXELS = "a whole number of pixels, at least "
Side = Annotated[int, Field(ge=224)]
"""Pixels of the shorter side that goes with a crop of 224; at another crop it is scaled in proportion."""


def rising(values: tuple[int, ...]) -> tuple[int, ...]:
    """Return the values. Raise ValueError if one is smaller than the value before it."""
    if list(values) != sorted(values):
        raise ValueError("the values do not rise")
    return values


class Data(Options):
    """The options that every kind of data has."""

    name: str = option("a name")
    num_train: Count = option("a whole number of images, at least 1")
    num_classes: Count = option("a whole number of classes, at least 1")
    image: tuple[Count, Count, Count] = option("channels, height and width, [3,32,32]", strict=False)
    flip: bool
    """Whether half of the training images are mirrored."""
    normalise: Literal["pixel", "channel"]
    """Subtract the mean of each pixel, or give each channel mean 0 and standard deviation 1."""
    top5: bool = option(default=False)
    """Whether evaluations count the top-5 error, too."""

    @property
    def measures_top5(self) -> bool:
        """Return whether to count top-5 errors: if the data asks for them and has more than five classes."""
        return self.top5 and self.num_classes > 5

    @property
    def num_held_out(self) -> int:
        """Return how many training images are held out to validate on."""
        return 0

    @property
    def printed_as(self) -> str:
        """Return the name of the data set whose errors the papers print."""
        return self.name


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
        return self.val_size


class AskedPhotographs(Data):
    """Photographs as a command asks for them: `auto` leaves an option to the protocol, or to the machine."""

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
    """Image files, read during training. What the protocol decides is decided; `num_threads` may be `auto`."""

    augment: Literal["scale", "scale_aspect"]
    jitter: Share = option("a number from 0 to 1")
    interpolation: Literal["bilinear", "bicubic"]


class InShards(Options):
    """The options that only photographs in shards have."""

    same_as: str = option("a name")
    """The data set that the shards hold: their errors stand beside the papers' for that data set."""
    shuffle: Count = option("a whole number of images, at least 1")
    cache_gb: NotNegative = option("a number of GB of disk")
    cache_dir: Text | None = option("null or a folder")


class AskedShards(AskedPhotographs, InShards):
    """Photographs in shards as a command asks for them."""


class Shards(Photographs, InShards):
    """Photographs packed in shards, in a folder or a bucket."""

    @property
    def printed_as(self) -> str:
        return self.same_as


def kind_of(values: Mapping[str, Any]) -> type[InMemory] | type[Photographs] | type[Shards]:
    """Return the class of a data set with these options, by an option that no other kind has."""
    return Shards if "cache_gb" in values else Photographs if "crop" in values else InMemory


def asked_kind_of(values: Mapping[str, Any]) -> type[InMemory] | type[AskedPhotographs] | type[AskedShards]:
    """Return the class of a data set as a command asks for it, by an option that no other kind has."""
    return AskedShards if "cache_gb" in values else AskedPhotographs if "crop" in values else InMemory


@dataclass(frozen=True, kw_only=True)
class Batching:
    """What decides a run's batches, beside the options of its data."""

    batch_size: int
    """Images a step, over all devices."""
    eval_batch_size: int
    num_steps: int
    seed: int
    on_gpu: bool = False
    devices: int = 1
    """Devices of one node. Each has a process of its own, and the processes share the CPU's cores."""
    steps_at_once: int | None = None
    """How many steps get their random choices together, for steps recorded as CUDA graphs; None for other steps."""
