"""From a composed Hydra config to a checked job with a run directory. Imports no torch: a mistake shows at once."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_repro.data import photos, shards
from resnet_repro.data.options import is_streamed, of_photos
from resnet_repro.errors import UserError
from resnet_repro.networks import depths
from resnet_repro.networks.options import family, is_comparator
from resnet_repro.runs import options

Config = dict[str, Any]

# What a result depends on; the rest (folders, loggers, how many at a time) may differ between two commands for a run.
RESULT_GROUPS = ("arch", "data", "schedule")
RESULT_HARDWARE = ("precision", "channels_last", "fused", "compile", "graph", "num_threads", "devices", "num_nodes")
RESULT_KEYS = ("depth", "seed", "init_from", "protocol.name", *(f"hardware.{key}" for key in RESULT_HARDWARE))
NOT_RESULT_KEYS = (
    *("data.root", "data.download", "data.num_workers", "data.num_threads", "data.skip_damaged"),
    *("data.cache_gb", "data.cache_dir"),
    "data.image",  # follows from the data, and from data.crop
    *("arch.protocol", "arch.lr", "arch.multiply_adds"),  # protocol.name and schedule.lr are what is used
)

LR, LR_WITHOUT_BATCH_NORM = 0.1, 0.01
"""What a comparator begins with. [v1 Sec. 4.2] [deviates: without batch norm a tenth, at which AlexNet and VGG were
trained; 0.1 may make such networks diverge]"""


BEFORE = {"decay": "all", "ghost_batch_size": None}
"""What runs did before these options of `schedule` existed: weight decay on every parameter, batch norm over all images
of a device."""
BEFORE_OF_PHOTOS = {"jitter": 0, "interpolation": "bilinear"}
"""As `BEFORE`, options of `data`; the papers' protocols do the same today."""


def completed(record: dict[str, Any]) -> dict[str, Any]:
    """A run's job or manifest, with the options that are younger than the record, and how those depart from the papers'
    protocols.
    """
    config = record["config"]
    missing = {key: value for key, value in BEFORE.items() if key not in config["schedule"]}
    departs = config["protocol"]["name"].startswith("paper_")
    departures = {f"schedule.{key}": value for key, value in missing.items() if departs}
    data = (BEFORE_OF_PHOTOS if of_photos(config["data"]) else {}) | config["data"]
    return {
        **record,
        "config": {**config, "schedule": missing | config["schedule"], "data": data},
        "departures": record["departures"] | departures,
    }


@dataclass(frozen=True, eq=False)
class Job:
    """One run to make: what Hydra composed, resolved and checked, and the folder that the run owns."""

    config: Config
    name: str
    dir: Path
    departures: Config
    """What departs from the defaults of its architecture, data and protocol, flat: {"arch.shortcut": "B"}; the protocol
    itself, where it is not the one of the architecture's paper: {"protocol": "official_lua"}."""
    begins_with: str | None = None
    """Name of the run beside it whose weights it begins with, None where it begins with random ones."""

    @property
    def steps(self) -> int:
        return int(self.config["schedule"]["steps"])

    @property
    def waits_for(self) -> Path | None:
        """Folder of the run whose weights it begins with."""
        return None if self.begins_with is None else self.dir.with_name(self.begins_with)

    @property
    def description(self) -> dict[str, Any]:
        """What a run's process has to know."""
        about = {"name": self.name, "config": self.config, "departures": self.departures}
        return about if self.begins_with is None else about | {"begins_with": self.begins_with}

    @property
    def num_devices(self) -> int:
        """Of one node; a process each."""
        return int(self.config["hardware"]["devices"])


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping as ("schedule.lr", 0.1); `warmup` and `plateau` are a leaf each, as each is one
    choice.
    """
    for key, value in config.items():
        if isinstance(value, Mapping) and key not in ("warmup", "plateau"):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def result_keys(config: Config) -> Config:
    """The flat part of a config that its result depends on."""
    return {
        key: value
        for key, value in flatten(config)
        if (key.split(".")[0] in RESULT_GROUPS or key in RESULT_KEYS) and key not in NOT_RESULT_KEYS
    }


def resolve(config: Config) -> Config:
    """Check a config and settle its `auto` values that follow from the papers.

    Raises:
        UserError: at the first value that breaks a rule.
    """
    if is_comparator(config):
        config = _resolve_comparator(config)
        options.check(dict(flatten(config)))
        return config
    config = {**config, "schedule": _proportional(config["schedule"], lr=LR)}
    options.check(dict(flatten(config)))
    depth, schedule = config["depth"], dict(config["schedule"])
    arch = settled(config["arch"], depth=depth, family=family(config))
    init_from = config["init_from"] if config["init_from"] != depth else None  # nothing to insert
    if init_from is not None:
        options.check_construction(
            init_from, depth=depth, family=family(config), arch=arch, asked_unit=config["arch"]["unit"]
        )
    warmup = schedule["warmup"]
    if warmup and depth < warmup.get("min_depth", 0):
        schedule["warmup"] = None
    return {**config, "arch": arch, "schedule": schedule, "init_from": init_from}


def _proportional(schedule: Config, *, lr: float) -> Config:
    """A schedule whose `auto` values are settled by the linear rule: the rate is in proportion to the batch, the steps
    are those of as many epochs as the recipe has. `lr` is for the recipe's batch.
    """
    batch_size = schedule["batch_size"]
    recipe = {"protocol_batch_size": batch_size} | schedule
    options.check_values(
        {f"schedule.{key}": recipe[key] for key in ("batch_size", "protocol_batch_size", "protocol_steps")}
    )
    times = batch_size / recipe["protocol_batch_size"]
    auto = {"lr": lr * times, "steps": round(schedule["protocol_steps"] / times)}
    return schedule | {key: value for key, value in auto.items() if schedule[key] == "auto"}


def _resolve_comparator(config: Config) -> Config:
    """What holds for another library's network: no depth, its own rate, no warm-up for depth, no fused batch norm."""
    options.check_comparator(dict(flatten(config)))
    from resnet_repro.networks import (
        comparators,  # torch: the only configs that ask for it before a run's own process
    )

    arch = config["arch"]
    facts = comparators.inspect(config)
    schedule = _proportional(config["schedule"], lr=LR if facts.has_batch_norm else LR_WITHOUT_BATCH_NORM)
    warmup = None if schedule["warmup"] and "min_depth" in schedule["warmup"] else schedule["warmup"]
    return {
        **config,
        "depth": None,
        "arch": {**arch, "multiply_adds": facts.multiply_adds},
        "schedule": {**schedule, "warmup": warmup},
        "hardware": {**config["hardware"], "fused": False},
    }


def settled(arch: Config, *, depth: Any, family: str) -> Config:
    """An architecture at a depth, with the papers' choice for each `auto`; refuses what is no depth.

    Raises:
        UserError: with the nearest legal depths.
    """
    unit, shortcut = arch["unit"], arch["shortcut"]
    if unit == "auto":
        unit = depths.unit_for(depth, family)
    depths.stages(depth, family=family, unit=unit)
    if shortcut == "auto":
        shortcut = "A" if family == "cifar" and unit != "bottleneck" else "B"  # [v1 Sec. 4.2], [v2 Appendix]
    return {**arch, "unit": unit, "shortcut": shortcut}


def cell(*, arch: Config, depth: int | None, data: str, augment: str | None, protocol: str) -> Config:
    """What runs share that differ in their seed alone, in whatever words they were asked for: equal if and only if
    network, data, the photographs' augmentation (None: there is no choice) and protocol are. `arch` is a settled one,
    whose own name does not count, as in `resnet_v2 arch.order=original`; of a comparator it does.
    """
    about = {"data": data, **({} if augment is None else {"augment": augment})}
    if "source" in arch:
        words = {key: arch[key] for key in ("source", "name", "image_size")}
        return {**about, "depth": None, **words, "protocol": protocol}
    words = {key: arch[key] for key in ("order", "shortcut", "mix", "unit")}
    if "gate" in arch["mix"]:
        words["gate_bias"] = float(arch["gate_bias"])
    if arch["unit"] == "bottleneck":
        words["stride_on"] = arch["stride_on"]
    return {**about, "depth": depth, **words, "protocol": protocol}


FOLDERS = ("outputs", "results", "data.root", "data.cache_dir")
"""Options that name a folder; `data.root` may be the address of a bucket."""


def expanded(config: Config, *, may_be_null: tuple[str, ...] = ("data.cache_dir",)) -> Config:
    """The config of any command, with home directories written out in the folders that it names.

    Raises:
        UserError: as `folder` does.
    """

    def walked(config: Config, prefix: str) -> Config:
        values = ((name, prefix + name, value) for name, value in config.items())
        return {name: folder(key, value) if is_folder(key, value) else value for name, key, value in values}

    def is_folder(key: str, value: Any) -> bool:
        return key in FOLDERS and not (value is None and key in may_be_null)

    nested = {"data": walked(config["data"], "data.")} if "data" in config else {}
    return walked(config, "") | nested


def folder(key: str, value: Any) -> str:
    """What an option says of a folder, its `~` written out.

    Raises:
        UserError: where it is no text, or somebody's home directory is not known.
    """
    if not isinstance(value, str) or not value:
        raise UserError(f"{key}={value} is not {options.folder_rule(key)}")
    try:
        return str(Path(value).expanduser()) if value.startswith("~") else value
    except RuntimeError:
        raise UserError(f"{key}={value}: there is no such home directory; give the whole path") from None


def make_job(config: Config, *, usual: Config, only_tells: bool = False) -> Job:
    """The job of a composed config; `usual` is what its architecture, data and protocol alone compose to.

    Args:
        only_tells: whether the job is not run, so that its data need not be within reach.

    Raises:
        UserError: where the config breaks a rule.
    """
    options.check_values(dict(flatten(config)), settled=False)  # before anything is made of one
    config = expanded(config)
    config = resolve({**config, "data": _counted(config["data"], only_tells=only_tells)})
    like = {"arch": config["arch"] | {"lr": usual["arch"]["lr"]}} if is_comparator(config) else {}
    asked = result_keys(config)
    batch_size = {"batch_size": config["schedule"]["batch_size"]}  # what is in proportion to it departs from nothing
    expected = result_keys(
        resolve({**usual, "depth": config["depth"], **like, "schedule": usual["schedule"] | batch_size})
    )
    expected["schedule.batch_size"] = usual["schedule"]["batch_size"]
    if like:
        expected["arch.image_size"] = usual["arch"]["image_size"]
    departures = {
        key: value for key, value in asked.items() if value != expected.get(key) and key not in ("depth", "seed")
    }
    if (protocol := config["protocol"]["name"]) != config["arch"]["protocol"]:
        departures = {"protocol": protocol, **departures}
    name = run_name(config, departures)
    begins_with = None
    if config["init_from"] is not None:
        others = {key: value for key, value in departures.items() if key != "init_from"}
        begins_with = run_name({**config, "depth": config["init_from"]}, others)
    return Job(config, name, Path(config["outputs"]) / config["data"]["name"] / name, departures, begins_with)


def _counted(data: Config, *, only_tells: bool) -> Config:
    """Of photographs the numbers of classes and training images that there are; where there are none, as it says."""
    if not of_photos(data):
        return data
    try:
        found = (shards if is_streamed(data) else photos).count_there(data["root"])
    except UserError:
        if not only_tells or "://" not in data["root"]:
            raise
        found = None  # a bucket that is out of reach here
    if found is None:
        return data
    return {**data, "num_train": found.num_train, "num_classes": found.num_classes}


def run_name(config: Config, departures: Config) -> str:
    """`plain-56-s0`, and what departs from the defaults: `plain-56-s0__steps=400`, `plain-56-s0__official_lua`;
    `torchvision-alexnet-s0__image_size=64`.
    """
    words = (f"{key.split('.')[-1]}={_plain(value)}" for key, value in departures.items() if key != "protocol")
    extra = "".join(f"__{word}" for word in ([departures["protocol"]] if "protocol" in departures else []) + [*words])
    arch = config["arch"]
    network = f"{arch['source']}-{arch['name']}" if is_comparator(config) else f"{arch['name']}-{config['depth']}"
    return f"{network}-s{config['seed']}{extra}"[:180]


def _plain(value: Any) -> str:
    return re.sub(r"[^\w.+-]+", "-", str(value).strip("[]{}"))
