"""Finished runs, as they lie on the disk: a record, curves, and what they are called."""

import csv
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from resnet_repro.errors import UserError
from resnet_repro.runs import options
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import flatten
from resnet_repro.runs.records import upgraded

# What changes no result, or is a coordinate of a cell. All else in a config is the protocol.
NOT_PROTOCOL = {"arch", "depth", "seed", "init_from", "hardware", "logger", "resume", "jobs", "outputs", "protocol"}
NOT_DATA = {"root", "download", "loader", "num_workers", "num_threads", "skip_damaged", "cache_gb", "cache_dir"}
NOT_SCHEDULE = {"warmup", "log_every", "eval_every", "eval_batch_size"}  # a warm-up belongs to an architecture
PAPERS = ("paper_v1", "paper_v2")  # on CIFAR their recipes differ in the warm-up alone: their runs stand side by side
DATA_TITLES = {
    "digits": "Digits",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet": "ImageNet",
    "imagenet_streaming": "ImageNet from shards",
}
IMAGENET_IMAGES = 1_281_167  # to train on; a tree with other numbers is other data
FIRST_COMMAND = "python train.py -m depth=20,56,110 arch=plain,resnet_v2 data=digits"


@dataclass(frozen=True)
class FinishedRun:
    """One finished run. `curves` holds the columns of metrics.csv; an empty cell is nan.

    `evaluations` is what `python evaluate.py` has found of its weights since, alone or in an ensemble, newest last.
    `has_weights`: a checkpoint is there to be tested, which runs that were kept in results/ lack.
    """

    directory: Path
    manifest: dict[str, Any] = field(repr=False)
    curves: dict[str, list[float]] = field(default_factory=dict, repr=False)
    evaluations: list[dict[str, Any]] = field(default_factory=list, repr=False)
    has_weights: bool = True

    @cached_property
    def options(self) -> options.Run:
        """What was asked, decided on the machine that trained."""
        return options.Run.of_record(self.manifest["config"])

    @property
    def results(self) -> dict[str, Any]:
        return self.manifest["results"]

    @property
    def depth(self) -> int | None:
        """None of a comparator: another library's network."""
        return self.options.depth

    @property
    def seed(self) -> int:
        return self.options.seed

    @property
    def has_diverged(self) -> bool:
        """Whether its loss was no number at some step: what it has after that is no result."""
        return self.results.get("diverged_at") is not None

    @property
    def label(self) -> str:
        """Data and name: where the run lies below outputs/."""
        return f"{self.directory.parent.name}/{self.directory.name}"

    @property
    def arch(self) -> str:
        return arch_label(self.manifest)

    def tested(self, test: str, split: str, *, batch_norm: str = "running") -> dict[str, Any] | None:
        """The `error` and `error_top5` in % on the `num_images` of a split, by one of the papers' ways to test.

        One crop is how a run measures its own errors. Of the other ways the newest evaluation counts that is of this
        run alone and on the same data; None where there is none.

        Args:
            batch_norm: `running`: only with the statistics of batch norms as trained. `average`: rather with those
                that `recompute_bn` makes, as the paper's are, and else with the former.
        """
        if test == "1crop":
            own = {key: self.results.get(f"{split}/{key}") for key in ("error", "error_top5")}
            return {**own, "num_images": self.results.get(f"num_{split}_images")}
        wanted = {
            "test": test,
            "split": split,
            "weights_sha256": [self.manifest.get("weights_sha256")],
            "data_checksum": self.manifest.get("data_checksum"),
        }
        alone = [each for each in reversed(self.evaluations) if wanted.items() <= each.items()]
        running = [each for each in alone if not each["num_bn_images"]]
        average = [each for each in alone if each["num_bn_images"]] if batch_norm == "average" else []
        return next(iter(average + running), None)

    @property
    def protocol(self) -> str:
        """Data, schedule and all else that must be equal before two runs may be averaged or compared."""
        rest = _without(self.options.record(), NOT_PROTOCOL)
        rest["data"] = _without(rest["data"], NOT_DATA)
        usual = set() if "schedule.lr" in self.manifest["departures"] else {"lr"}  # may belong to the architecture, too
        rest["schedule"] = _without(rest["schedule"], NOT_SCHEDULE | usual)
        if (name := self.options.protocol.name) not in PAPERS:
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


def title(config: dict[str, Any]) -> str:
    """`CIFAR-10, 400 steps, 5,000 images held out`, of a flat config or of a run's flat protocol."""
    data = DATA_TITLES.get(config["data.name"], config["data.name"])
    if (num_train := config.get("data.num_train", IMAGENET_IMAGES)) != IMAGENET_IMAGES:
        data = data.replace("ImageNet", f"{num_train:,} photographs of {config['data.num_classes']} classes")
    held_out = config.get("data.val_size") or 0
    protocol = f", {config['protocol']}" if "protocol" in config else ""
    return f"{data}{protocol}, {config['schedule.steps']:,} steps" + (
        f", {held_out:,} images held out" if held_out else ""
    )


DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError)
"""Whatever reading a run raises whose files are not what a run writes."""


def read(*folders: Path) -> tuple[list[FinishedRun], list[str]]:
    """All finished runs below `folders`, and the labels of those that are not finished; a copied run counts once.

    Raises UserError where no run is finished.
    """
    runs: list[FinishedRun] = []
    unfinished: list[str] = []
    for directory in [directory for folder in folders for directory in sorted(folder.glob("*/*/"))]:
        if directory.parent.name in {"report", "wandb", "benchmarks"} or directory.parent.name.startswith("."):
            continue
        try:
            run = _load(directory)
        except DAMAGED:
            unfinished.append(f"{directory.parent.name}/{directory.name} (damaged)")
            continue
        if run is None:
            unfinished.append(f"{directory.parent.name}/{directory.name}")
        elif all(run.manifest != other.manifest for other in runs):
            runs.append(run)
    if not runs:
        raise UserError(f"{folders[0]} holds no finished run, and a report needs one: run `{FIRST_COMMAND}` first.")
    return runs, unfinished


def read_record(directory: Path) -> FinishedRun | None:
    """The run in a directory without its curves, None where it is not finished. A damaged one raises one of DAMAGED."""
    folder = RunDir(directory)
    if not folder.is_done:
        return None
    manifest = upgraded(read_json(folder.manifest))
    if manifest["state"] != "done":
        return None
    ours = [each for each in folder.read_evaluations() if manifest.get("weights_sha256") in each["weights_sha256"]]
    return FinishedRun(directory, manifest, evaluations=ours, has_weights=bool(folder.checkpoint_files()))


def _load(directory: Path) -> FinishedRun | None:
    """The run in a directory, None where it is not finished. A damaged one raises one of DAMAGED."""
    run = read_record(directory)
    if run is None:
        return None
    with (directory / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    curves = {key: [float(row[key] or "nan") for row in rows] for key in (rows[0] if rows else ())}
    run = replace(run, curves=curves)
    # What the report rests on is asked for here, so that a manifest that lacks it is damaged and not a traceback.
    run.arch, run.protocol, run.seed, run.results, run.manifest["num_parameters"], curves["step"]
    title(dict(flatten(run.options.record())))
    return run


def duration(seconds: float) -> str:
    """`9.5 s`, `12 s`, `3 min 05 s`, `2 h 40 min`, `4 days`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole // 60 % 60:02d} min" if whole < 48 * 3600 else f"{whole / 86400:.0f} days"


SPLITS = {"train": "training", "test": "test", "val": "validation"}


def layer_table(run: FinishedRun, name: str) -> dict[str, list[float]]:
    """The columns of responses.csv or gradients.csv, less the layers' names; empty where the run has none."""
    path = run.directory / name
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else ()) if key != "name"}
