"""A run as a typed, frozen value: its network, data, schedule, protocol and hardware."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field, model_validator

from resnet_repro.data.options import (
    FOLDER,
    AskedPhotographs,
    AskedShards,
    Batching,
    InMemory,
    Photographs,
    Shards,
    kind_of,
    rising,
)
from resnet_repro.errors import UserError
from resnet_repro.networks import options as networks
from resnet_repro.networks.options import Images, Network
from resnet_repro.options import Auto, Count, Family, NotNegative, Options, Share, Text, allows, option, rule
from resnet_repro.runs.records import of_today

IMAGES = "a whole number of images, at least 1"
STEPS = "a whole number of steps, at least 1"
WARMUP = "null, {lr: 0.01, steps: 400} or {lr: 0.01, until_error: 80.0}"

ProtocolName = Literal["paper_v1", "paper_v2", "official_lua", "fb_resnet", "modern"]
Shape = Literal["steps", "plateau", "cosine"]
"""How the learning rate falls."""


# --- schedule ---------------------------------------------------------------------------------------------------------


class Warmup(Options):
    """A start at another rate: for a number of steps [v2 Appendix], or until the training error falls [v1 Sec. 4.2]."""

    lr: NotNegative
    steps: NotNegative | None = None
    until_error: NotNegative | None = None
    """The warm-up ends when the training error in % is below this."""
    min_depth: NotNegative = 0
    """Shallower networks have no warm-up."""

    @model_validator(mode="after")
    def _ends(self) -> "Warmup":
        if self.steps is None and self.until_error is None:
            raise ValueError("a warm-up ends after steps or below an error")
        return self


class PlateauRule(Options):
    """The rate drops after more than `patience` evaluations on end that are no better by a share of `threshold`."""

    patience: Annotated[int, Field(ge=0)]
    threshold: Share


class AskedSchedule(Options):
    """The recipe of a run as asked for; `auto` leaves a value to the papers' protocol or the linear rule."""

    protocol_steps: Auto | Count = option("auto or " + STEPS)
    """Length of the published recipe, in whose steps milestones and warm-up are given."""
    protocol_batch_size: Count | None = option(IMAGES, default=None)
    """Images per step of the published recipe; by default those of the run."""
    steps: Auto | Count = option(STEPS)
    batch_size: Count = option(IMAGES)
    """Images per step, over all devices."""
    lr: Auto | NotNegative = option("a number from 0 on")
    shape: Auto | Shape
    milestones: Annotated[tuple[Count, ...], AfterValidator(rising)] = option(
        "a rising list of steps, [32000,48000]", strict=False
    )
    plateau: PlateauRule | None = option(
        "{patience: 5, threshold: 0.001}: evaluations, and a share of the error", default=None
    )
    momentum: Share = option("a number from 0 to 1")
    nesterov: bool
    weight_decay: NotNegative = option("a number from 0 on")
    decay: Literal["weights", "all"]
    """The parameters on which weight decay acts."""
    ghost_batch_size: Count | None = option(
        "a whole number of images to a batch norm, at least 1, or null for all that a device holds"
    )
    warmup: Auto | Warmup | None = option(WARMUP)
    log_every: Count = option(STEPS)
    eval_every: Count = option(STEPS)
    eval_batch_size: Count = option(IMAGES)


class Schedule(AskedSchedule):
    """The recipe of a run, decided."""

    protocol_steps: Count = option(STEPS)
    steps: Count = option(STEPS)
    lr: NotNegative = option("a number from 0 on")
    shape: Shape
    warmup: Warmup | None = option(WARMUP)


class AskedProtocol(Options):
    """The name of a recipe; `auto` stands for the recipe of the architecture's own paper."""

    name: Auto | ProtocolName


class Protocol(AskedProtocol):
    """The name of a recipe, decided."""

    name: ProtocolName
    devices: Count = option("a whole number of devices, at least 1")
    """Number of GPUs over which the recipe's authors divided a batch."""


# --- hardware and logger ----------------------------------------------------------------------------------------------

Switch = Literal["auto"] | bool
SWITCH = "one of auto, true, false"


class Hardware(Options):
    """The hardware of a run as asked for; `auto` leaves a value to the machine that trains."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: Count = option("a whole number of devices a node, a process each, at least 1")
    num_nodes: Count = option("a whole number of machines, at least 1")
    precision: Literal["auto", "32-true", "bf16-mixed"]
    channels_last: Switch = option(SWITCH)
    fused: Switch = option(SWITCH)
    compile: Switch = option(SWITCH)
    graph: Switch = option(SWITCH)
    recompute: bool
    deterministic: bool
    num_threads: Count = option("a whole number of CPU threads a job, at least 1")
    checkpoint_minutes: NotNegative = option("a number of minutes")
    checkpoint_steps: Count | None = option("a whole number of steps, at least 1, or null")

    @property
    def world_size(self) -> int:
        """Number of processes of a run, one for each device."""
        return self.devices * self.num_nodes


class SettledHardware(Hardware):
    """The hardware of a run, decided on the machine that trains."""

    accelerator: Literal["cpu", "gpu"]
    precision: Literal["32-true", "bf16-mixed"]
    channels_last: bool
    fused: bool
    compile: bool
    graph: bool

    @property
    def on_gpu(self) -> bool:
        return self.accelerator == "gpu"


CHOSEN = "true; choose loggers with logger=wandb,tensorboard"


class Loggers(Options):
    """Where a run's numbers go besides metrics.csv, which has them in any case."""

    csv: Literal[True] | None = option(CHOSEN, default=None)
    """Whether metrics.csv was asked for by name."""
    tensorboard: Literal[True] | None = option(CHOSEN, default=None)

    @property
    def choice(self) -> str:
        """The loggers as on the command line: `wandb,tensorboard`."""
        return ",".join(name for name, value in self.record().items() if value is True)


class Wandb(Loggers):
    """The same, with Weights & Biases."""

    wandb: Literal[True] = option(CHOSEN)
    project: Text = option("a name")
    entity: Text | None = option("null or a name")
    mode: Literal["auto", "online", "offline"]
    upload_seconds: Annotated[NotNegative, Field(ge=1)] = option("a number of seconds, at least 1")


# --- the run ----------------------------------------------------------------------------------------------------------


class CellKey(NamedTuple):
    """The key that runs share if they differ only in their seed.

    Two keys are equal if and only if network, data, augmentation of photographs and protocol are equal, however they
    were asked for. The name of our architectures does not count, because `resnet_v2 arch.order=original` is a v1.
    """

    data: str
    augment: str | None
    """The augmentation of photographs; None for other data, which have no choice."""
    depth: int | None
    protocol: str
    words: tuple[tuple[str, object], ...]
    """The network's `cell_words`."""

    def as_dict(self) -> dict[str, object]:
        """Return the parts of the key by name."""
        augment = {} if self.augment is None else {"augment": self.augment}
        return {"data": self.data, **augment, "depth": self.depth, **dict(self.words), "protocol": self.protocol}


def cell_key(network: Network, *, data: str, augment: str | None, protocol: str) -> CellKey:
    """Return the key of a network on this data under this protocol."""
    return CellKey(data, augment, network.depth, protocol, tuple(network.cell_words.items()))


class TopLevel(Options):
    """Options of `python train.py` outside of any group."""

    init_from: Count | None = option("null or the depth of a shallower run")
    """Depth of a finished run; the run begins with its weights and inserts identity layers. [v1 Sec. 1]"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = option("a whole number from 0 on")
    jobs: Auto | Count = option("auto or a whole number of runs at a time, at least 1")
    mps: bool = option(default=False)
    """Whether runs that share a GPU do so through NVIDIA's Multi-Process Service."""
    outputs: Text = option(FOLDER.format(key="outputs"))
    resume: bool


class Run(TopLevel):
    """All options of one run, decided by everything except the machine that trains."""

    network: Network
    data: InMemory | Photographs | Shards
    schedule: Schedule
    protocol: Protocol
    hardware: Hardware
    logger: Wandb | Loggers

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Run":
        """Return the run of a record, as job.json and manifests of any version hold it.

        Raises:
            UserError: names the first option that is unknown, missing or breaks its rule.
        """
        record = of_today(record)
        rest = {key: value for key, value in record.items() if key not in ("arch", "depth")}
        data = kind_of(record["data"]).parse(record["data"], group="data.")
        network = networks.of_record(record["arch"], depth=record["depth"], family=data.family)
        hardware = record["hardware"]
        # job.json may have `auto`; checkpoints and manifests have the hardware that trained
        is_settled = "auto" not in (hardware.get(key) for key in SettledHardware.__annotations__)
        groups = {
            "schedule": Schedule.parse(record["schedule"], group="schedule."),
            "protocol": Protocol.parse(record["protocol"], group="protocol."),
            "hardware": (SettledHardware if is_settled else Hardware).parse(hardware, group="hardware."),
            "logger": logger(record["logger"]),
        }
        return cls.parse({**rest, "network": network, "data": data, **groups})

    def record(self) -> dict[str, Any]:
        """Return the options by the names of conf/, as plain containers for job.json and the manifest."""
        arch = self.network.record()
        depth = arch.pop("depth", None)
        arch.pop("family", None)
        top_level = {key: getattr(self, key) for key in TopLevel.model_fields}
        groups = {key: getattr(self, key).record() for key in ("data", "schedule", "protocol", "hardware", "logger")}
        return {"depth": depth, **top_level, "arch": arch, **groups}

    @property
    def depth(self) -> int | None:
        """The depth of the network; None of a comparator."""
        return self.network.depth

    @property
    def family(self) -> Family:
        """The one of the papers' two families of networks that the data asks for."""
        return self.data.family

    @property
    def images(self) -> Images:
        """The facts about the images that shape the network."""
        return Images(self.data.image, self.data.num_classes, self.data.family)

    @property
    def cell(self) -> CellKey:
        augment = self.data.augment if isinstance(self.data, Photographs) else None
        return cell_key(self.network, data=self.data.printed_as, augment=augment, protocol=self.protocol.name)

    def batching(self, *, steps_at_once: int | None = None) -> Batching:
        """Return the options that decide the batches."""
        return Batching(
            batch_size=self.schedule.batch_size,
            eval_batch_size=self.schedule.eval_batch_size,
            num_steps=self.schedule.steps,
            seed=self.seed,
            on_gpu=self.hardware.accelerator == "gpu",
            devices=self.hardware.devices,
            steps_at_once=steps_at_once,
        )


def logger(values: Mapping[str, Any]) -> Wandb | Loggers:
    """Return the typed options of a run's loggers."""
    return (Wandb if "wandb" in values else Loggers).parse(values, group="logger.")


# --- rules of single options ------------------------------------------------------------------------------------------


class CommandOptions(Options):
    """Options that ask something of a command and belong to no run."""

    plan: bool
    summary: bool
    results: Text = option(FOLDER.format(key="results"))
    wandb: bool


GROUPS: dict[str, tuple[type[Options], ...]] = {
    "": (TopLevel, CommandOptions),
    "arch": tuple(kind.asked for kind in networks.KINDS),
    "data": (InMemory, AskedPhotographs, AskedShards),
    "schedule": (AskedSchedule,),
    "protocol": (AskedProtocol,),
    "hardware": (Hardware,),
    "logger": (Wandb,),
}
"""The classes of the options of each group, as asked for."""


def _field(key: str) -> tuple[type[Options], str] | None:
    """Return the class and the field of an option; None if no rule covers the option by itself."""
    group, _, name = key.rpartition(".")
    return next(((kind, name) for kind in GROUPS.get(group, ()) if name in kind.model_fields), None)


def rule_of(key: str) -> str | None:
    """Return the rule of an option in words; None if no rule covers the option by itself."""
    field = _field(key)
    return None if field is None else rule(*field)


def check_values(flat: Mapping[str, Any]) -> None:
    """Check each value by the rule of its option, without regard to other options.

    Args:
        flat: values by the options' names on the command line, such as `schedule.lr`.

    Raises:
        UserError: names the first value that breaks its rule, and the rule.
    """
    for key, value in flat.items():
        field = _field(key)
        if field and not allows(*field, value):
            raise UserError(f"{key}={value} is not {rule(*field)}")
