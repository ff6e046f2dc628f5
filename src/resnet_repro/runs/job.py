"""From a composed Hydra config to a checked job with a run directory. Imports no torch: a mistake shows at once."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_repro.data import photos, shards
from resnet_repro.data.options import AskedPhotographs, AskedShards, InMemory, asked_kind_of
from resnet_repro.data.options import kind_of as data_kind_of
from resnet_repro.errors import UserError
from resnet_repro.networks.options import AskedComparator, Comparator, Images, Network, Residual, kind_of
from resnet_repro.runs import rules
from resnet_repro.runs.options import (
    AskedProtocol,
    AskedSchedule,
    Choices,
    Hardware,
    Protocol,
    Run,
    Schedule,
    logger,
    rule_of,
)
from resnet_repro.runs.recipes import LR, LR_WITHOUT_BATCH_NORM, Recipe, recipe
from resnet_repro.runs.records import upgraded

Config = dict[str, Any]
"""What Hydra composed, as plain containers."""
Flat = dict[str, Any]
"""Options by their names on the command line: {"arch.shortcut": "B"}."""

# What a result depends on; the rest (folders, loggers, how many at a time) may differ between two commands for a run.
RESULT_GROUPS = ("arch", "data", "schedule")
RESULT_HARDWARE = ("precision", "channels_last", "fused", "compile", "graph", "num_threads", "devices", "num_nodes")
RESULT_KEYS = ("depth", "seed", "init_from", "protocol.name", *(f"hardware.{key}" for key in RESULT_HARDWARE))
NOT_RESULT_KEYS = (
    *("data.root", "data.download", "data.num_workers", "data.num_threads", "data.skip_damaged"),
    *("data.cache_gb", "data.cache_dir"),
    "data.image",  # follows from the data, and from data.crop
    *("arch.protocol", "arch.multiply_adds"),  # protocol.name is what is used
)


@dataclass(frozen=True, eq=False)
class Job:
    """One run to make, checked, and the folder that it owns."""

    run: Run
    name: str
    dir: Path
    departures: Flat
    """What departs from the defaults of its architecture, data and protocol: {"arch.shortcut": "B"}; the protocol
    itself, where it is not the one of the architecture's paper: {"protocol": "official_lua"}."""
    begins_with: str | None = None
    """Name of the run beside it whose weights it begins with, None where it begins with random ones."""
    group: str = ""
    """The sweep that began it."""
    command: str = ""
    """The command line of the sweep that began it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What reports say of such a run, for W&B (`resnet_repro.runs.groups.identity`)."""
    paper_error: float | None = None
    """The printed error in % to set beside its own."""

    @classmethod
    def of_record(cls, record: Mapping[str, Any], folder: Path) -> "Job":
        """Return the job that a folder's job.json describes, whichever version wrote it."""
        record = dict(upgraded(record))
        return cls(run=Run.of_record(record.pop("config")), dir=folder, **record)

    @property
    def record(self) -> dict[str, Any]:
        """What job.json holds."""
        parts: dict[str, Any] = {"group": self.group, "command": self.command}
        parts |= {"name": self.name, "config": self.run.record()}
        parts |= {"departures": self.departures, "labels": dict(self.labels), "paper_error": self.paper_error}
        return parts if self.begins_with is None else parts | {"begins_with": self.begins_with}

    @property
    def steps(self) -> int:
        return self.run.schedule.steps

    @property
    def waits_for(self) -> Path | None:
        """Folder of the run whose weights it begins with."""
        return None if self.begins_with is None else self.dir.with_name(self.begins_with)

    @property
    def num_devices(self) -> int:
        """Of one node; a process each."""
        return self.run.hardware.devices


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested mapping as ("schedule.lr", 0.1); `warmup` and `plateau` are a leaf each, as each is
    one choice.
    """
    for key, value in config.items():
        if isinstance(value, Mapping) and key not in ("warmup", "plateau"):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def result_keys(run: Run) -> Flat:
    """Return the options that a run's result depends on."""
    return {
        key: value
        for key, value in flatten(run.record())
        if (key.split(".")[0] in RESULT_GROUPS or key in RESULT_KEYS) and key not in NOT_RESULT_KEYS
    }


# --- what a command asks for, decided ---------------------------------------------------------------------------------


def resolve(config: Config) -> Run:
    """Check what Hydra composed, and decide what is `auto` by the papers and the linear rule.

    Raises:
        UserError: at the first value that breaks a rule.
    """
    choices = Choices.parse({key: config[key] for key in Choices.model_fields})
    asked = asked_kind_of(config["data"]).parse(config["data"], group="data.")
    schedule = AskedSchedule.parse(config["schedule"], group="schedule.")
    hardware = Hardware.parse(config["hardware"], group="hardware.")
    words = kind_of(config["arch"]).asked.parse(config["arch"], group="arch.")
    protocol = AskedProtocol.parse(config["protocol"], group="protocol.").name
    protocol = words.protocol if protocol == "auto" else protocol
    usual = recipe(protocol, asked.family)
    if isinstance(words, AskedComparator):
        rules.check_comparator(words, init_from=choices.init_from, hardware=hardware)
    images = Images(asked.image, asked.num_classes, asked.family)
    network, has_batch_norm = words.decided(config["depth"], images)
    lr = LR if has_batch_norm else LR_WITHOUT_BATCH_NORM
    run = Run(
        **choices.record(),
        network=network,
        data=_decided_data(asked, usual),
        schedule=_decided_schedule(schedule, usual, lr=lr, depth=network.depth),
        protocol=Protocol(name=protocol, devices=usual.devices),
        hardware=hardware if network.of_units else hardware.but(fused=False),
        logger=logger(config["logger"]),
    )
    rules.check(run)
    if run.init_from is not None and run.init_from == network.depth:
        return run.but(init_from=None)  # nothing to insert
    if isinstance(network, Residual) and run.init_from is not None:
        rules.check_construction(run.init_from, network, asked_unit=config["arch"]["unit"])
    return run


def _decided_data(asked: InMemory | AskedPhotographs, usual: Recipe) -> Any:
    values = asked.record()
    if isinstance(asked, AskedPhotographs):
        auto = {"augment": usual.augment, "jitter": usual.jitter, "interpolation": usual.interpolation}
        values |= {key: value for key, value in auto.items() if values[key] == "auto"}
    return data_kind_of(values).parse(values, group="data.")


def _decided_schedule(asked: AskedSchedule, usual: Recipe, *, lr: float, depth: int | None) -> Schedule:
    """Return the schedule by the linear rule: the rate is in proportion to the batch, the steps are those of as many
    epochs as the recipe has.

    Args:
        lr: rate for the recipe's batch.
        depth: None of a comparator, which gets no warm-up that depends on the depth.
    """
    values = asked.record()
    if values["protocol_steps"] == "auto":
        values["protocol_steps"] = usual.protocol_steps
    times = asked.batch_size / (asked.protocol_batch_size or asked.batch_size)
    auto = {"lr": lr * times, "steps": round(values["protocol_steps"] / times), "shape": usual.shape}
    auto["warmup"] = usual.warmup and usual.warmup.record()
    values |= {key: value for key, value in auto.items() if values[key] == "auto"}
    warmup = values["warmup"]
    if warmup and "min_depth" in warmup and (depth is None or depth < warmup["min_depth"]):
        values["warmup"] = None
    return Schedule.parse(values, group="schedule.")


# --- folders ----------------------------------------------------------------------------------------------------------

FOLDERS = ("outputs", "results", "data.root", "data.cache_dir")
"""Options that name a folder; `data.root` may be the address of a bucket."""


def expanded(config: Config, *, may_be_null: tuple[str, ...] = ("data.cache_dir",)) -> Config:
    """Return the config of any command, with home directories written out in the folders that it names.

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
    """Return what an option says of a folder, its `~` written out.

    Raises:
        UserError: where it is no text, or somebody's home directory is not known.
    """
    if not isinstance(value, str) or not value:
        raise UserError(f"{key}={value} is not {rule_of(key) or 'a folder'}")
    try:
        return str(Path(value).expanduser()) if value.startswith("~") else value
    except RuntimeError:
        raise UserError(f"{key}={value}: there is no such home directory; give the whole path") from None


# --- jobs -------------------------------------------------------------------------------------------------------------


def make_job(config: Config, *, usual: Config, only_tells: bool = False) -> Job:
    """Return the job of a composed config; `usual` is what its architecture, data and protocol alone compose to.

    Args:
        only_tells: whether the job is not run, so that its data need not be within reach.

    Raises:
        UserError: where the config breaks a rule.
    """
    config = expanded(config)
    run = resolve({**config, "data": _counted(config["data"], only_tells=only_tells)})
    departures = _departures(run, config, usual)
    begins_with = None
    if run.init_from is not None:
        others = {key: value for key, value in departures.items() if key != "init_from"}
        begins_with = run_name(run.network.but(depth=run.init_from), run.seed, others)
    name = run_name(run.network, run.seed, departures)
    return Job(run, name, Path(run.outputs) / run.data.name / name, departures, begins_with)


def _departures(run: Run, config: Config, usual: Config) -> Flat:
    """Return what departs from the defaults of the run's architecture, data and protocol."""
    batch_size = {"batch_size": run.schedule.batch_size}  # what is in proportion to it departs from nothing
    like = {**usual, "depth": config["depth"], "schedule": usual["schedule"] | batch_size}
    if isinstance(run.network, Comparator):
        like["arch"] = config["arch"]
    expected = result_keys(resolve(like))
    expected["schedule.batch_size"] = usual["schedule"]["batch_size"]
    if isinstance(run.network, Comparator):
        expected["arch.image_size"] = usual["arch"]["image_size"]
    departures = {
        key: value
        for key, value in result_keys(run).items()
        if value != expected.get(key) and key not in ("depth", "seed", "protocol.name")
    }
    is_usual = run.protocol.name == run.network.protocol
    return departures if is_usual else {"protocol": run.protocol.name, **departures}


def _counted(data: Config, *, only_tells: bool) -> Config:
    """Count classes and training images on disk; keep the config's numbers if the tree does not exist yet."""
    kind = asked_kind_of(data)
    if not issubclass(kind, AskedPhotographs):
        return data
    try:
        found = (shards if issubclass(kind, AskedShards) else photos).count_there(data["root"])
    except UserError:
        if not only_tells or "://" not in data["root"]:
            raise
        found = None  # a bucket that is out of reach here
    if found is None:
        return data
    return {**data, "num_train": found.num_train, "num_classes": found.num_classes}


def run_name(network: Network, seed: int, departures: Flat) -> str:
    """Return `plain-56-s0`, and what departs from the defaults: `plain-56-s0__steps=400`, `plain-56-s0__official_lua`;
    `torchvision-alexnet-s0__image_size=64`.
    """
    words = (f"{key.split('.')[-1]}={_plain(value)}" for key, value in departures.items() if key != "protocol")
    extra = "".join(f"__{word}" for word in ([departures["protocol"]] if "protocol" in departures else []) + [*words])
    return f"{network.label}-s{seed}{extra}"[:180]


def _plain(value: Any) -> str:
    return re.sub(r"[^\w.+-]+", "-", str(value).strip("[]{}"))
