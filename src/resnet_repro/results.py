"""Finished runs: read from disk, grouped by protocol, averaged over seeds."""

import csv
import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from resnet_repro.config import flatten
from resnet_repro.errors import UserError

# What changes no result, or is a coordinate of a cell. All else in a config is the protocol.
NOT_PROTOCOL = {"arch", "depth", "seed", "init_from", "hardware", "logger", "resume", "jobs", "outputs", "protocol"}
NOT_DATA = {"root", "download", "loader", "num_workers"}
NOT_SCHEDULE = {"warmup", "log_every", "eval_every", "eval_batch_size"}  # a warm-up belongs to an architecture
PAPERS = ("paper_v1", "paper_v2")  # their recipes differ in the warm-up alone: their runs stand side by side
DATA_TITLES = {"digits": "Digits", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
FIRST_COMMAND = "python train.py -m depth=20,56,110 arch=plain,resnet_v2 data=digits"


class Error(NamedTuple):
    """An error in %: mean and sample standard deviation (0 for one seed) over n seeds."""

    mean: float
    std: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.std:.2f}" if self.n > 1 else "")


@dataclass(frozen=True)
class Run:
    """One finished run. `curves` holds the columns of metrics.csv; an empty cell is nan."""

    directory: Path
    manifest: dict[str, Any] = field(repr=False)
    curves: dict[str, list[float]] = field(repr=False)

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]

    @property
    def results(self) -> dict[str, Any]:
        return self.manifest["results"]

    @property
    def depth(self) -> int | None:
        """None of a comparator: another library's network."""
        return self.config["depth"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def label(self) -> str:
        """Data and name: where the run lies below outputs/."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def arch(self) -> str:
        return arch_label(self.manifest)

    @property
    def protocol(self) -> str:
        """Data, schedule and all else that must be equal before two runs may be averaged or compared."""
        rest = _without(self.config, NOT_PROTOCOL)
        rest["data"] = _without(rest["data"], NOT_DATA)
        usual = set() if "schedule.lr" in self.manifest["departures"] else {"lr"}  # may belong to the architecture, too
        rest["schedule"] = _without(rest["schedule"], NOT_SCHEDULE | usual)
        if (name := self.config["protocol"]["name"]) not in PAPERS:
            rest["protocol"] = name
        return json.dumps(rest, sort_keys=True)


def _without(mapping: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


def arch_label(manifest: dict[str, Any]) -> str:
    """Name of an architecture: `resnet_v1`, and what departs from it: `resnet_v1 B`, `resnet_v1 paper_v2`; a
    comparator's with the library that it is from: `alexnet (torchvision) image_size=64`.
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


def identity(manifest: dict[str, Any]) -> dict[str, str]:
    """By what runs are told apart and put together outside of here, where a config's groups cannot say it.

    `network` and `architecture` as the report names them; runs may be compared where `comparable` is the same.
    """
    run = Run(Path(), manifest, {})
    comparable = hashlib.sha256(run.protocol.encode()).hexdigest()[:8]
    return {"network": Cell(run.arch, run.depth, [run]).name, "architecture": run.arch, "comparable": comparable}


@dataclass(frozen=True)
class Cell:
    """The runs that differ in their seed only: one architecture and depth (None: a comparator) under one protocol."""

    arch: str
    depth: int | None
    runs: list[Run]

    @property
    def name(self) -> str:
        if self.depth is None:
            return self.arch
        head, _, rest = self.arch.partition(" ")
        return f"{head}-{self.depth} {rest}".strip()

    @property
    def num_layers(self) -> int:
        """The depth, or 0 of a comparator: to sort by."""
        return self.depth or 0

    @property
    def init_from(self) -> int | None:
        """Depth of the run whose weights these began with, None for random weights."""
        return self.runs[0].config.get("init_from")

    @property
    def num_diverged(self) -> int:
        return sum(run.results.get("diverged_at") is not None for run in self.runs)

    def error(self, split: str) -> Error | None:
        """Final error in % on `train`, `val` or `test`; None where no run has measured it."""
        values = [run.results.get(f"{split}/error") for run in self.runs]
        measured = [float(value) for value in values if value is not None and math.isfinite(value)]
        if not measured:
            return None
        std = statistics.stdev(measured) if len(measured) > 1 else 0.0
        return Error(statistics.fmean(measured), std, len(measured))

    def mean(self, key: str) -> float | None:
        """Mean of a measured quantity of the manifest; None where one is missing or the machines differ."""
        values = [run.manifest.get(key) for run in self.runs]
        machines = {json.dumps([run.manifest.get("machine"), run.config.get("hardware")]) for run in self.runs}
        return None if None in values or len(machines) > 1 else statistics.fmean(map(float, values))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Protocol:
    """All runs that may be compared with each other: same data, same schedule."""

    title: str
    cells: list[Cell]

    @property
    def runs(self) -> list[Run]:
        return [run for cell in self.cells for run in cell.runs]

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "_", self.title.lower().replace(",", "")).strip("_")

    @property
    def data(self) -> str:
        return self.runs[0].config["data"]["name"]

    @property
    def steps(self) -> int:
        return self.runs[0].config["schedule"]["steps"]

    @property
    def batch_size(self) -> int:
        return self.runs[0].config["schedule"]["batch_size"]

    @property
    def val_size(self) -> int:
        return self.runs[0].config["data"].get("val_size") or 0

    @property
    def splits(self) -> list[str]:
        """The splits with a measured final error, in the order train, test, val."""
        return [split for split in ("train", "test", "val") if any(cell.error(split) for cell in self.cells)]


def differences(dicts: list[dict[str, Any]]) -> set[str]:
    """The keys whose values are not the same in all flat dictionaries."""
    keys = {key for each in dicts for key in each}
    return {key for key in keys if any(each.get(key) != dicts[0].get(key) for each in dicts)}


def group(runs: Iterable[Run]) -> list[Protocol]:
    """Runs by protocol and cell; of two runs of a cell with the same seed only the one finished last counts."""
    cells: dict[str, dict[tuple[str, int | None], dict[int, Run]]] = {}
    for run in sorted(runs, key=lambda run: str(run.manifest.get("finished"))):
        cells.setdefault(run.protocol, {}).setdefault((run.arch, run.depth), {})[run.seed] = run
    configs = {key: dict(flatten(json.loads(key))) for key in cells}
    titles = {key: _title(config) for key, config in configs.items()}
    protocols = []
    for key in sorted(
        cells, key=lambda key: (configs[key]["data.name"], -configs[key]["schedule.steps"], titles[key], key)
    ):
        twins = [configs[other] for other in cells if titles[other] == titles[key]]
        extra = "".join(f", {name}={configs[key][name]}" for name in sorted(differences(twins)) if name in configs[key])
        # plain first: the figure's panels stand as in v1 Fig. 6; comparators last
        order = sorted(
            cells[key], key=lambda cell: (cell[1] is None, not cell[0].startswith("plain"), cell[0], cell[1])
        )
        members = [Cell(*cell, [run for _, run in sorted(cells[key][cell].items())]) for cell in order]
        protocols.append(Protocol(titles[key] + extra, members))
    return protocols


def _title(config: dict[str, Any]) -> str:
    data = DATA_TITLES.get(config["data.name"], config["data.name"])
    held_out = config.get("data.val_size") or 0
    protocol = f", {config['protocol']}" if "protocol" in config else ""
    return f"{data}{protocol}, {config['schedule.steps']:,} steps" + (
        f", {held_out:,} images held out" if held_out else ""
    )


def read(*folders: Path) -> tuple[list[Run], list[str]]:
    """All finished runs below `folders`, and the labels of those that are not finished; a copied run counts once.

    Raises UserError where no run is finished.
    """
    runs: list[Run] = []
    unfinished: list[str] = []
    for directory in [directory for folder in folders for directory in sorted(folder.glob("*/*/"))]:
        if directory.parent.name in {"report", "wandb"} or directory.parent.name.startswith("."):
            continue
        try:
            run = _load(directory)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            unfinished.append(f"{directory.parent.name}/{directory.name} (damaged)")
            continue
        if run is None:
            unfinished.append(f"{directory.parent.name}/{directory.name}")
        elif all(run.manifest != other.manifest for other in runs):
            runs.append(run)
    if not runs:
        raise UserError(f"{folders[0]} holds no finished run, and a report needs one: run `{FIRST_COMMAND}` first.")
    return runs, unfinished


def _load(directory: Path) -> Run | None:
    """The run in a directory, None where it is not finished. A damaged one raises whatever reading it raises."""
    manifest_file = directory / "manifest.json"
    if not manifest_file.exists():
        return None
    manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
    if manifest["state"] != "done":
        return None
    with (directory / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    curves = {key: [float(row[key] or "nan") for row in rows] for key in (rows[0] if rows else ())}
    run = Run(directory, manifest, curves)
    # What the report rests on is asked for here, so that a manifest that lacks it is damaged and not a traceback.
    run.arch, run.protocol, run.seed, run.results, run.manifest["num_parameters"], curves["step"]
    _title(dict(flatten(run.config)))
    return run
