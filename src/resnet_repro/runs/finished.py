"""Finished runs on the disk: their records, curves and labels."""

import csv
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from resnet_repro.conf_dir import command
from resnet_repro.errors import UserError
from resnet_repro.runs import options
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import flatten
from resnet_repro.runs.records import upgraded

# Options that change no result or are a coordinate of a cell. All other options of a config are its protocol.
NOT_PROTOCOL = {
    *("arch", "depth", "seed", "init_from", "hardware", "logger", "resume", "jobs", "mps", "outputs", "protocol")
}
NOT_DATA = {"root", "download", "loader", "num_workers", "num_threads", "skip_damaged", "cache_gb", "cache_dir"}
NOT_SCHEDULE = {"warmup", "log_every", "eval_every", "eval_batch_size"}  # a warm-up belongs to an architecture
PAPERS = ("paper_v1", "paper_v2")  # on CIFAR these recipes differ only in the warm-up, so their runs are compared
DATA_TITLES = {
    "digits": "Digits",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
    "imagenet_streaming": "ImageNet from shards",
}
IMAGENET_IMAGES = 1_281_167  # training images; photographs of another number are other data
FIRST_COMMAND = f"{command('train')} -m depth=20,56,110 arch=plain,resnet_v2 data=digits"


@dataclass(frozen=True)
class FinishedRun:
    """One finished run. `curves` holds the columns of metrics.csv; an empty cell is nan.

    `evaluations` holds the entries of `python evaluate.py` for its weights, alone or in an ensemble, newest last.
    `has_weights`: there are weights to test; some runs kept in results/ have none. `is_kept`: the run is in such a
    folder, and not below the user's own outputs/.
    """

    directory: Path
    manifest: dict[str, Any] = field(repr=False)
    curves: dict[str, list[float]] = field(default_factory=dict, repr=False)
    evaluations: list[dict[str, Any]] = field(default_factory=list, repr=False)
    has_weights: bool = True
    is_kept: bool = False

    @cached_property
    def options(self) -> options.Run:
        """The run's options, with the hardware decided on the machine that trained."""
        return options.Run.of_record(self.manifest["config"])

    @property
    def results(self) -> dict[str, Any]:
        return self.manifest["results"]

    @property
    def depth(self) -> int | None:
        """The depth; None of a comparator, another library's network."""
        return self.options.depth

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def has_diverged(self) -> bool:
        """Whether the loss was not a number at some step. Numbers after that step are not results."""
        return self.results.get("diverged_at") is not None

    @property
    def label(self) -> str:
        """Data and name, which are also the run's path below outputs/."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def origin(self) -> tuple[str, ...]:
        """What only a run and its copies share."""
        keys = ("name", "started", "finished", "weights_sha256")
        return (self.options.data.name, *(str(self.manifest.get(key)) for key in keys))

    @property
    def arch(self) -> str:
        return arch_label(self.manifest)

    def tested(self, test: str, split: str, *, batch_norm: str = "running") -> dict[str, Any] | None:
        """Return `error` and `error_top5` in % on the `num_images` of a split, by one of the papers' ways to test.

        With one crop, these are the errors that the run measured itself. For other tests, they are the newest
        evaluation of this run alone on the same data; None if there is none.

        Args:
            batch_norm: `running`: only evaluations with the trained statistics of batch norms. `average`: preferably
                evaluations with `recompute_bn`, as in the paper, otherwise with the trained statistics.
        """
        if test == "1crop":
            own = {key: self.results.get(f"{split}/{key}") for key in ("error", "error_top5")}
            return {**own, "num_images": self.results.get(f"num_{split}_images")}
        conditions = {
            "test": test,
            "split": split,
            "weights_sha256": [self.manifest.get("weights_sha256")],
            "data_checksum": self.manifest.get("data_checksum"),
        }
        alone = [entry for entry in reversed(self.evaluations) if conditions.items() <= entry.items()]
        running = [entry for entry in alone if not entry["num_bn_images"]]
        average = [entry for entry in alone if entry["num_bn_images"]] if batch_norm == "average" else []
        return next(iter(average + running), None)

    @property
    def protocol(self) -> str:
        """Data, schedule and all other options that must be equal before runs are averaged or compared, as JSON."""
        options = _without(self.options.record(), NOT_PROTOCOL)
        options["data"] = _without(options["data"], NOT_DATA)
        # the rate counts only if it was given: otherwise it may follow from the architecture
        ignored = NOT_SCHEDULE if "schedule.lr" in self.manifest["departures"] else NOT_SCHEDULE | {"lr"}
        options["schedule"] = _without(options["schedule"], ignored)
        if (name := self.options.protocol.name) not in PAPERS:
            options["protocol"] = name
        return json.dumps(options, sort_keys=True)


def _without(mapping: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


def arch_label(manifest: dict[str, Any]) -> str:
    """Return the name of an architecture and its departures: `resnet_v1`, `resnet_v1 B`, `resnet_v1 paper_v2`.

    A comparator's name has its library: `alexnet (torchvision) image_size=64`.
    """
    extra = {
        key.split(".")[-1]: value
        for key, value in manifest["departures"].items()
        if key.startswith("arch.") or key in ("schedule.warmup", "init_from")
    }
    shortcut = [str(extra.pop("shortcut"))] if "shortcut" in extra else []
    words = [f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in extra.items()]
    other_paper = [name] if (name := manifest["departures"].get("protocol")) in PAPERS else []
    arch = manifest["config"]["arch"]
    source = [f"({arch['source']})"] if "source" in arch else []
    return " ".join([arch["name"], *source, *other_paper, *shortcut, *words])


def title(config: dict[str, Any]) -> str:
    """Return the title of a flat config or protocol, such as `CIFAR-10, 400 steps, 5,000 images held out`."""
    data = DATA_TITLES.get(config["data.name"], config["data.name"])
    if (num_train := config.get("data.num_train", IMAGENET_IMAGES)) != IMAGENET_IMAGES:
        data = data.replace("ImageNet", f"{num_train:,} photographs of {config['data.num_classes']} classes")
    held_out = config.get("data.val_size") or 0
    protocol = f", {config['protocol']}" if "protocol" in config else ""
    return f"{data}{protocol}, {config['schedule.steps']:,} steps" + (
        f", {held_out:,} images held out" if held_out else ""
    )


DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""Exceptions from reading a run whose files are damaged."""


def read(outputs: Path, *kept: Path) -> tuple[list[FinishedRun], list[str]]:
    """Return all finished runs below these folders, and the labels of unfinished runs. A copied run counts once.

    Raises UserError if no run is finished.
    """
    runs: list[FinishedRun] = []
    seen: set[tuple[str, ...]] = set()
    unfinished: list[str] = []
    found = [(directory, folder) for folder in (outputs, *kept) for directory in sorted(folder.glob("*/*/"))]
    for directory, folder in found:
        if directory.parent.name in {"report", "wandb"} or directory.parent.name.startswith("."):
            continue
        try:
            run = load(directory)
        except DAMAGED:
            unfinished.append(f"{directory.parent.name}/{directory.name} (damaged)")
            continue
        if run is None:
            unfinished.append(f"{directory.parent.name}/{directory.name}")
        elif run.origin not in seen:
            runs.append(replace(run, is_kept=folder is not outputs))
            seen.add(run.origin)
    if not runs:
        raise UserError(f"{outputs} holds no finished run for a report: run `{FIRST_COMMAND}` first")
    return runs, unfinished


def read_record(directory: Path) -> FinishedRun | None:
    """Return the run in a directory without its curves; None if it is not finished. Raise one of DAMAGED if damaged."""
    folder = RunDir(directory)
    if not folder.is_done:
        return None
    manifest = upgraded(read_json(folder.manifest))
    if manifest["state"] != "done":
        return None
    weights = manifest.get("weights_sha256")
    evaluations = [entry for entry in folder.read_evaluations() if weights in entry["weights_sha256"]]
    return FinishedRun(directory, manifest, evaluations=evaluations, has_weights=folder.has_weights)


def load(directory: Path) -> FinishedRun | None:
    """Return the run in a directory; None if it is not finished. Raise one of DAMAGED if damaged."""
    run = read_record(directory)
    if run is None:
        return None
    table = _read_table(directory / "metrics.csv")
    curves = {key: [float(cell or "nan") for cell in column] for key, column in table.items()}
    run = replace(run, curves=curves)
    # Read here what reports need, so that a manifest without it counts as damaged instead of ending in a traceback.
    run.arch, run.protocol, run.seed, run.results, run.manifest["num_parameters"], curves["step"]
    title(dict(flatten(run.options.record())))
    return run


def duration(seconds: float) -> str:
    """Return a duration in words: `9.5 s`, `12 s`, `3 min 05 s`, `2 h 40 min`, `4 days`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole // 60 % 60:02d} min" if whole < 48 * 3600 else f"{whole / 86400:.0f} days"


SPLITS = {"train": "training", "test": "test", "val": "validation"}


def layer_table(run: FinishedRun, name: str) -> dict[str, list[float]]:
    """Return the columns of responses.csv or gradients.csv except the layers' names; empty if there is no file."""
    path = run.directory / name
    if not path.exists():
        return {}
    return {key: [float(cell) for cell in column] for key, column in _read_table(path).items() if key != "name"}


def _read_table(path: Path) -> dict[str, list[str]]:
    """Return the columns of a CSV file; none if the file has no rows."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [row[key] for row in rows] for key in (rows[0] if rows else ())}
