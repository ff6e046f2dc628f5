"""Turn a composed Hydra config into a checked job with a run folder."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_repro.data import photos, shards
from resnet_repro.data.options import AskedPhotographs, AskedShards, InMemory, asked_kind_of
from resnet_repro.data.options import kind_of as data_kind_of
from resnet_repro.errors import UserError
from resnet_repro.networks import depths
from resnet_repro.networks.options import Comparator, Images, Network, Residual, kind_of
from resnet_repro.runs import rules
from resnet_repro.runs.options import (
    AskedProtocol,
    AskedSchedule,
    Hardware,
    Protocol,
    Run,
    Schedule,
    TopLevel,
    logger,
    rule_of,
)
from resnet_repro.runs.recipes import LR, LR_WITHOUT_BATCH_NORM, Recipe, recipe
from resnet_repro.runs.records import upgraded

Config = dict[str, Any]
"""A config composed by Hydra, as plain containers."""
Flat = dict[str, Any]
"""Options by their names on the command line: {"arch.shortcut": "B"}."""

# A result depends on these options. The others (folders, loggers, runs at a time) may change when a run is resumed.
RESULT_GROUPS = ("arch", "data", "schedule")
RESULT_HARDWARE = ("precision", "channels_last", "fused", "compile", "graph", "num_threads", "devices", "num_nodes")
RESULT_KEYS = ("depth", "seed", "init_from", "protocol.name", *(f"hardware.{key}" for key in RESULT_HARDWARE))
NOT_RESULT_KEYS = (
    *("data.root", "data.download", "data.num_workers", "data.num_threads", "data.skip_damaged"),
    *("data.cache_gb", "data.cache_dir"),
    "data.image",  # follows from the data, and from data.crop
    *("arch.protocol", "arch.multiply_adds"),  # protocol.name is the recipe in use
)


@dataclass(frozen=True, eq=False)
class Job:
    """A checked run to make, and the folder that it owns."""

    run: Run
    name: str
    dir: Path
    departures: Flat
    """Options that depart from the defaults of architecture, data and protocol: {"arch.shortcut": "B"}. The protocol is
    among them if it is not that of the architecture's paper: {"protocol": "official_lua"}."""
    begins_with: str | None = None
    """Name of the run, in the same parent folder, whose weights this run begins with; None for random weights."""
    group: str = ""
    """The sweep that began the run."""
    command: str = ""
    """The command line of that sweep."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The run's labels in W&B (`resnet_repro.runs.groups.identity`)."""
    paper_error: float | None = None
    """The paper's error in %, to compare the run's error with."""

    @classmethod
    def of_record(cls, record: Mapping[str, Any], folder: Path) -> "Job":
        """Return the job that a folder's job.json describes, whichever version wrote it."""
        record = dict(upgraded(record))
        return cls(run=Run.of_record(record.pop("config")), dir=folder, **record)

    @property
    def record(self) -> dict[str, Any]:
        """The content of job.json."""
        begins_with = {} if self.begins_with is None else {"begins_with": self.begins_with}
        return {
            "group": self.group,
            "command": self.command,
            "name": self.name,
            "config": self.run.record(),
            "departures": self.departures,
            "labels": dict(self.labels),
            "paper_error": self.paper_error,
            **begins_with,
        }

    @property
    def steps(self) -> int:
        return self.run.schedule.steps

    @property
    def waits_for(self) -> Path | None:
        """Folder of the run whose weights this run begins with."""
        return None if self.begins_with is None else self.dir.with_name(self.begins_with)

    @property
    def num_devices(self) -> int:
        """Devices, and so processes, on each node."""
        return self.run.hardware.devices


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nested mapping as ("schedule.lr", 0.1). `warmup` and `plateau` are one leaf each."""
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


# --- options, checked and decided -------------------------------------------------------------------------------------


def resolve(config: Config) -> Run:
    """Check a composed config, and decide each `auto` by the papers and the linear rule.

    Raises:
        UserError: if a value breaks a rule; names the first such value.
    """
    top_level = TopLevel.parse({key: config[key] for key in TopLevel.model_fields})
    data = asked_kind_of(config["data"]).parse(config["data"], group="data.")
    schedule = AskedSchedule.parse(config["schedule"], group="schedule.")
    hardware = Hardware.parse(config["hardware"], group="hardware.")
    arch = kind_of(config["arch"]).asked.parse(config["arch"], group="arch.")
    protocol = AskedProtocol.parse(config["protocol"], group="protocol.").name
    protocol = arch.protocol if protocol == "auto" else protocol
    usual = recipe(protocol, data.family)
    network, has_batch_norm = arch.decided(config["depth"], Images(data.image, data.num_classes, data.family))
    if not network.of_units:
        rules.check_without_units(network, init_from=top_level.init_from, hardware=hardware)
    lr = LR if has_batch_norm else LR_WITHOUT_BATCH_NORM
    run = Run(
        **top_level.record(),
        network=network,
        data=_decided_data(data, usual),
        schedule=_decided_schedule(schedule, usual, lr=lr, depth=network.depth),
        protocol=Protocol(name=protocol, devices=usual.devices),
        hardware=hardware if network.of_units else hardware.but(fused=False),
        logger=logger(config["logger"]),
    )
    rules.check(run)
    if run.init_from is not None and run.init_from == network.depth:
        return run.but(init_from=None)  # no layers to insert
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
    """Return the schedule. By the linear rule, the rate is in proportion to the batch, and the epochs are the recipe's.

    Args:
        lr: rate for the recipe's batch.
        depth: None for a comparator, which has no warm-up that depends on the depth.
    """
    values = asked.record()
    if values["protocol_steps"] == "auto":
        values["protocol_steps"] = usual.protocol_steps
    factor = asked.batch_size / (asked.protocol_batch_size or asked.batch_size)
    auto = {
        "lr": lr * factor,
        "steps": round(values["protocol_steps"] / factor),
        "shape": usual.shape,
        "warmup": usual.warmup and usual.warmup.record(),
    }
    values |= {key: value for key, value in auto.items() if values[key] == "auto"}
    warmup = values["warmup"]
    if warmup and "min_depth" in warmup and (depth is None or depth < warmup["min_depth"]):
        values["warmup"] = None
    return Schedule.parse(values, group="schedule.")


# --- folders ----------------------------------------------------------------------------------------------------------

FOLDERS = ("outputs", "results", "data.root", "data.cache_dir")
"""Options that name a folder; `data.root` may be the address of a bucket."""


def expanded(config: Config, *, may_be_null: tuple[str, ...] = ("data.cache_dir",)) -> Config:
    """Return the config of any command, with each `~` in its folders replaced by the home directory.

    Raises:
        UserError: if a folder is not a text or its home directory is unknown.
    """

    def expand(values: Config, prefix: str) -> Config:
        keys = {name: prefix + name for name in values if prefix + name in FOLDERS}
        return values | {
            name: folder(key, values[name])
            for name, key in keys.items()
            if values[name] is not None or key not in may_be_null
        }

    nested = {"data": expand(config["data"], "data.")} if "data" in config else {}
    return expand(config, "") | nested


def folder(key: str, value: Any) -> str:
    """Return the folder that an option names, with `~` replaced by the home directory.

    Raises:
        UserError: if the value is not a text, or the home directory is unknown.
    """
    if not isinstance(value, str) or not value:
        raise UserError(f"{key}={value} is not {rule_of(key) or 'a folder'}")
    try:
        return str(Path(value).expanduser()) if value.startswith("~") else value
    except RuntimeError:
        raise UserError(f"{key}={value}: there is no such home directory; give the whole path") from None


# --- jobs -------------------------------------------------------------------------------------------------------------


def make_job(config: Config, *, usual: Config, only_tells: bool = False) -> Job:
    """Return the job of a composed config.

    Args:
        usual: the config that its architecture, data and protocol compose to without other options.
        only_tells: whether the command only describes the job, so that its data need not be within reach.

    Raises:
        UserError: if the config breaks a rule.
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
    """Return the options that depart from the defaults of the run's architecture, data and protocol."""
    is_comparator = isinstance(run.network, Comparator)
    # values in proportion to the batch are no departures, so the defaults are taken for the run's own batch size
    schedule = usual["schedule"] | {"batch_size": run.schedule.batch_size}
    arch = config["arch"] if is_comparator else usual["arch"]
    needs_unit = isinstance(run.network, Residual) and depths.needs_unit(run.network.depth, run.network.family)
    if needs_unit:
        arch = arch | {"unit": config["arch"]["unit"]}
    expected = result_keys(resolve({**usual, "depth": config["depth"], "schedule": schedule, "arch": arch}))
    if needs_unit:  # the name says it, because other units make other networks of this depth
        del expected["arch.unit"]
    expected["schedule.batch_size"] = usual["schedule"]["batch_size"]
    if is_comparator:
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
        count = (shards if issubclass(kind, AskedShards) else photos).count_there(data["root"])
    except UserError:
        if not only_tells or "://" not in data["root"]:
            raise
        count = None  # a bucket that is out of reach here
    return data if count is None else {**data, "num_train": count.num_train, "num_classes": count.num_classes}


def run_name(network: Network, seed: int, departures: Flat) -> str:
    """Return the name of a run from network, seed and departures: `plain-56-s0`, `plain-56-s0__official_lua`,
    `plain-56-s0__steps=400`, `torchvision-alexnet-s0__image_size=64`.
    """
    protocol = [departures["protocol"]] if "protocol" in departures else []
    words = [f"{key.split('.')[-1]}={_plain(value)}" for key, value in departures.items() if key != "protocol"]
    return "__".join([f"{network.label}-s{seed}", *protocol, *words])[:180]


def _plain(value: Any) -> str:
    return re.sub(r"[^\w.+-]+", "-", str(value).strip("[]{}"))
