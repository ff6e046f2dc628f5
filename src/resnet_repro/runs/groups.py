"""Groups of finished runs that may be compared, and statistics over seeds."""

import hashlib
import json
import math
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from resnet_repro.runs.finished import FinishedRun, title
from resnet_repro.runs.job import flatten


class Seeds(NamedTuple):
    """A quantity over the n seeds of a recipe that did not diverge: an error in %, a loss, a response of a layer.

    `std` is the sample standard deviation, 0 for one seed; `best` is the lowest. All are NaN if every run diverged.
    """

    n: int
    mean: float
    std: float
    best: float
    median: float
    num_diverged: int = 0

    @property
    def num_runs(self) -> int:
        return self.n + self.num_diverged

    def statistic(self, name: str) -> float:
        """Return what a paper prints under this name: median or best, else the mean."""
        return {"median": self.median, "best": self.best}.get(name, self.mean)


def values_over_seeds(runs: Iterable[FinishedRun], quantity: Callable[[FinishedRun], float | None]) -> list[float]:
    """Return a quantity of each run that has one.

    A run that diverged is left out, whatever it has measured: it says nothing about its recipe. So is a value that is
    not finite. Whoever reports the values reports the number of runs that diverged beside them.
    """
    values = (quantity(run) for run in runs if not run.has_diverged)
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def over_seeds(values: Sequence[float], *, num_diverged: int = 0) -> Seeds:
    """Return the statistics of `values_over_seeds`."""
    if not values:
        return Seeds(0, math.nan, math.nan, math.nan, math.nan, num_diverged)
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return Seeds(len(values), statistics.fmean(values), std, min(values), statistics.median(values), num_diverged)


class Error(NamedTuple):
    """An error in %: mean and sample standard deviation (0 for one seed) over n seeds."""

    mean: float
    std: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.std:.2f}" if self.n > 1 else "")


def identity(manifest: dict[str, Any]) -> dict[str, str]:
    """Return the labels by which W&B can group runs as reports do.

    `network` and `architecture` are the report's names. Runs with the same `comparable` may be compared.
    """
    run = FinishedRun(Path(), manifest)
    comparable = hashlib.sha256(run.protocol.encode()).hexdigest()[:8]
    return {"network": Cell(run.arch, run.depth, [run]).name, "architecture": run.arch, "comparable": comparable}


@dataclass(frozen=True)
class Cell:
    """The runs that differ only in their seed: one architecture and depth (None: a comparator) by one recipe."""

    arch: str
    depth: int | None
    runs: list[FinishedRun]

    @property
    def name(self) -> str:
        if self.depth is None:
            return self.arch
        head, _, rest = self.arch.partition(" ")
        return f"{head}-{self.depth} {rest}".strip()

    @property
    def num_layers(self) -> int:
        """The depth as a sort key, 0 for a comparator."""
        return self.depth or 0

    @property
    def init_from(self) -> int | None:
        """Depth of the run whose weights these runs began with, None for random weights."""
        return self.runs[0].options.init_from

    @property
    def num_diverged(self) -> int:
        return sum(run.has_diverged for run in self.runs)

    @property
    def measured(self) -> list[FinishedRun]:
        """The runs that did not diverge, over which means are taken."""
        return [run for run in self.runs if not run.has_diverged]

    def errors(self, split: str) -> list[float]:
        """Return the final errors in % on `train`, `val` or `test`, as `values_over_seeds` does."""
        return values_over_seeds(self.runs, lambda run: run.results.get(f"{split}/error"))

    def error(self, split: str) -> Error | None:
        """Return mean and spread of the errors; None if there is none."""
        seeds = over_seeds(self.errors(split))
        return Error(seeds.mean, seeds.std, seeds.n) if seeds.n else None

    def mean(self, key: str) -> float | None:
        """Return the mean of a quantity in the manifests; None if a run lacks it or the machines differ."""
        manifests = [run.manifest for run in self.runs]
        values = [manifest.get(key) for manifest in manifests]
        machines = {json.dumps([m.get("machine"), m["config"].get("hardware")]) for m in manifests}
        return None if None in values or len(machines) > 1 else statistics.fmean(map(float, values))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Comparison:
    """Runs that may be compared with each other, because they share data and schedule."""

    title: str
    cells: list[Cell]

    @property
    def runs(self) -> list[FinishedRun]:
        return [run for cell in self.cells for run in cell.runs]

    @property
    def slug(self) -> str:
        return re.sub(r"[^a-z0-9]+", "_", self.title.lower().replace(",", "")).strip("_")

    @property
    def data(self) -> str:
        return self.runs[0].options.data.name

    @property
    def steps(self) -> int:
        return self.runs[0].options.schedule.steps

    @property
    def batch_size(self) -> int:
        return self.runs[0].options.schedule.batch_size

    @property
    def val_size(self) -> int:
        return self.runs[0].options.data.num_held_out

    @property
    def splits(self) -> list[str]:
        """The splits with a measured final error, in the order train, test, val."""
        return [split for split in ("train", "test", "val") if any(cell.error(split) for cell in self.cells)]


def differences(dicts: list[dict[str, Any]]) -> set[str]:
    """Return the keys whose values are not the same in all flat dictionaries."""
    keys = {key for each in dicts for key in each}
    return {key for key in keys if any(each.get(key) != dicts[0].get(key) for each in dicts)}


def group(runs: Iterable[FinishedRun]) -> list[Comparison]:
    """Group runs into comparisons and cells. Of several runs with the same cell and seed, only the newest counts."""
    cells: dict[str, dict[tuple[str, int | None], dict[int, FinishedRun]]] = {}
    for run in sorted(runs, key=lambda run: str(run.manifest.get("finished"))):
        cells.setdefault(run.protocol, {}).setdefault((run.arch, run.depth), {})[run.seed] = run
    configs = {key: dict(flatten(json.loads(key))) for key in cells}
    titles = {key: title(config) for key, config in configs.items()}
    comparisons = []
    for key in sorted(
        cells, key=lambda key: (configs[key]["data.name"], -configs[key]["schedule.steps"], titles[key], key)
    ):
        twins = [configs[other] for other in cells if titles[other] == titles[key]]
        extra = "".join(f", {name}={configs[key][name]}" for name in sorted(differences(twins)) if name in configs[key])
        # plain first, as the panels of v1 Fig. 6; comparators last
        order = sorted(
            cells[key], key=lambda cell: (cell[1] is None, not cell[0].startswith("plain"), cell[0], cell[1])
        )
        members = [Cell(*cell, [run for _, run in sorted(cells[key][cell].items())]) for cell in order]
        comparisons.append(Comparison(titles[key] + extra, members))
    return comparisons


def held_out(comparison: Comparison) -> str:
    """Return the split that no network has seen: `test`, or `val` if there is no test split."""
    return "val" if "test" not in comparison.splits and "val" in comparison.splits else "test"
