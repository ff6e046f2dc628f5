"""The papers' tables and figures, and which of our runs belong to which of their rows. The rows are in paper.yaml."""

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from resnet_repro.conf_dir import config_dir
from resnet_repro.networks.options import AskedResidual, group_size
from resnet_repro.options import Family
from resnet_repro.runs.options import CellKey, Run, cell_key
from resnet_repro.runs.recipes import recipe

NOT_RECIPE = (
    *("arch.", "data.augment", "hardware.", "protocol"),
    *("schedule.log_every", "schedule.eval_", "schedule.ghost_batch_size"),
)
"""Departures that a cell or `conditions` tells, or that change no result."""


@dataclass(frozen=True)
class Published:
    """One printed row: its errors in %, where it is printed, what they are, and the options that reproduce it."""

    source: str
    what: str
    printed: str
    overrides: tuple[str, ...] = ()
    why: str = ""
    statistic: str = ""
    runs: int | None = None
    error: float | None = None
    above: float | None = None
    mean: float | None = None
    std: float | None = None
    top5: float | None = None
    test: str = "1crop"
    batch_norm: str = "running"
    """Statistics of batch norm at test time: running averages, or plain averages over training images."""
    params_m: float | None = None
    multiply_adds_g: float | None = None

    @property
    def number(self) -> float | None:
        """What ours is set against: the printed mean, where there is none the printed error."""
        return self.error if self.mean is None else self.mean

    @property
    def has_number(self) -> bool:
        """Whether there is an error to set ours against; a curve has none."""
        return self.number is not None or self.above is not None

    @property
    def way(self) -> list[str]:
        """The options of `python evaluate.py` that test as the paper did."""
        return [f"test={self.test}", *(["recompute_bn=true"] if self.batch_norm == "average" else [])]

    @property
    def split(self) -> str:
        """The images that its error is of: ImageNet's test labels are not public."""
        return "val" if self.options.get("data") == "imagenet" else "test"

    @property
    def compared(self) -> str:
        """The number that ours is set against, as text: `6.61 ± 0.16`, `8.75`, `over 20`."""
        return str(self) if self.mean is None else f"{self.mean:.2f} ± {self.std:.2f}"

    @property
    def about(self) -> str:
        """What the printed error is: `median of 5`, `best of 5`; empty where the paper is silent."""
        return self.statistic + (f" of {self.runs}" if self.runs else "")

    @property
    def headline(self) -> str:
        """The printed number without a mean: `6.43`, `over 20`, `22.85, top-5 6.71`, `3.8 G`, `curve`; empty where no
        number is kept, as of other tasks.
        """
        if self.above is not None:
            return f"over {self.above:g}"
        parts = [] if self.error is None else [f"{self.error:.2f}"]
        parts += [] if self.top5 is None else [f"top-5 {self.top5:.2f}"]
        parts += [] if self.multiply_adds_g is None else [f"{self.multiply_adds_g:g} G"]
        return ", ".join(parts) or ("" if self.why else "curve")

    def __str__(self) -> str:
        """As printed: `6.43 (6.61 ± 0.16)`; the mean alone where it is what is printed, and else the headline."""
        if self.mean is None:
            return self.headline
        mean = f"{self.mean:.2f} ± {self.std:.2f}"
        return mean if self.mean == self.error else f"{self.headline} ({mean})"

    @property
    def options(self) -> dict[str, Any]:
        """The overrides by name: {"arch": "resnet_v1", "depth": 110, "arch.mix": "half_both", ...}."""
        return {key: yaml.safe_load(value) for key, value in (o.split("=", 1) for o in self.overrides)}

    @property
    def cell(self) -> CellKey | None:
        """Network, data and protocol that the overrides compose to, as `Run.cell`; None of another's network.

        What Hydra would say too (tested), a hundred times as fast: a report asks it of every row.
        """
        return _cell(self.overrides) if self.overrides else None

    @property
    def experiment(self) -> str:
        """The word that runs its table: `v1_table6`, `v2_fig1`."""
        return re.sub(r"\W+", "", self.source.lower().replace(" ", "_", 1))


@cache
def _cell(overrides: tuple[str, ...]) -> CellKey:
    options = Published("", "", "", overrides).options
    name, data = options["protocol"], options["data"]
    family: Family = "imagenet" if data == "imagenet" else "cifar"
    words = _group("arch", options["arch"]) | _group("protocol", name).get("arch", {})
    words |= {k.removeprefix("arch."): v for k, v in options.items() if k.startswith("arch.")}
    network = AskedResidual.parse(words, group="arch.").at(options["depth"], family)
    augment = options.get("data.augment", recipe(name, family).augment) if family == "imagenet" else None
    return cell_key(network, data=data, augment=augment, protocol=name)


@cache
def _group(group: str, option: str) -> dict[str, Any]:
    return dict(yaml.safe_load((config_dir() / group / f"{option}.yaml").read_text(encoding="utf-8")))


@cache
def registry() -> tuple[Published, ...]:
    """Every printed row, in the order of paper.yaml."""
    entries = yaml.safe_load(resources.files("resnet_repro.papers").joinpath("paper.yaml").read_text(encoding="utf-8"))
    rows = []
    for entry in entries:
        shared = {key: value for key, value in entry.items() if key not in ("rows", "overrides")}
        for row in entry["rows"]:
            overrides = [*(() if "why" in row else entry.get("overrides", ())), *row.get("overrides", ())]
            by_name = {override.split("=")[0]: override for override in overrides}
            rows.append(Published(**{**shared, **row, "overrides": tuple(by_name.values())}))
    return tuple(rows)


def tables() -> dict[str, list[Published]]:
    """The rows of every table and figure by its source, `v1 Table 1` first."""
    found: dict[str, list[Published]] = {}
    for row in registry():
        found.setdefault(row.source, []).append(row)
    return found


def why_not(rows: list[Published]) -> str:
    """Why none of a table's rows can be reproduced here; empty where one can."""
    if not all(row.why for row in rows):
        return ""
    own = [row for row in rows if row.overrides] or rows[-1:]  # the authors' networks come last
    return ", ".join(dict.fromkeys(row.why for row in own))


def published(run: Run, *, test: str = "1crop") -> Published | None:
    """The printed row of a run and way of testing (`python evaluate.py test=`); of several, one with a mean
    over runs is preferred, then one with a top-5 error, then the first number.
    """
    ours = run.cell
    rows = [row for row in registry() if row.has_number and row.test == test and row.cell == ours]
    return max(rows, key=lambda row: (row.mean is not None, row.top5 is not None), default=None)


def deviations(manifest: dict[str, Any]) -> list[str]:
    """How a run departs from its protocol, which keeps its number from being compared with a printed one."""
    parts = []
    for key, value in manifest["departures"].items():
        if key == "schedule.steps":
            parts.append(f"{value:,} of {manifest['config']['schedule']['protocol_steps']:,} steps")
        elif key == "data.val_size":
            parts.append(f"{value:,} training images held out")
        elif not key.startswith(NOT_RECIPE):
            parts.append(f"{key}={value}")
    return parts


def conditions(run: Run) -> list[str]:
    """What differs from the papers' machines and protocol and leaves a number comparable: to be told beside it."""
    hardware, schedule = run.hardware, run.schedule
    ours = group_size(schedule.batch_size // hardware.world_size, at_most=schedule.ghost_batch_size)
    theirs = (schedule.protocol_batch_size or schedule.batch_size) // run.protocol.devices
    parts = [f"batch norm over {ours} images, not {theirs}"] if ours != theirs else []
    return parts + ([hardware.precision] if hardware.precision != "32-true" else [])


def printed_error(manifest: dict[str, Any]) -> float | None:
    """The printed error in % to set beside a run's own; None where there is none or it may not be compared.

    Config and departures are all that is read of the manifest.
    """
    row = None if deviations(manifest) else published(Run.of_record(manifest["config"]))
    return None if row is None else row.number


def printed_errors(manifest: dict[str, Any] | None, *, test: str) -> dict[str, float | None]:
    """The printed errors in % to set beside a run that was tested in this way; None where there are none."""
    row = None if manifest is None or deviations(manifest) else published(Run.of_record(manifest["config"]), test=test)
    return (
        {"paper_error": None, "paper_error_top5": None}
        if row is None
        else {"paper_error": row.number, "paper_error_top5": row.top5}
    )


TESTS = {
    "1crop": "one centre crop",
    "10crop": "corners and centre, mirrored too: ten crops averaged",
    "multiscale": "whole images at five scales, mirrored too: averaged",
    "320": "one centre crop of 320 from shorter side 320",
}
"""The papers' ways to test. [v1 Sec. 3.4, v2 Table 5]"""
