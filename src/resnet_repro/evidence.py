"""What a verdict rests on: quantities of our runs, each with its standard error, and which runs there are."""

import csv
import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from resnet_repro.config import family
from resnet_repro.finished import Run
from resnet_repro.results import Cell, Protocol

UNTRAINED = 50.0  # % training error above which a network has learned too little for a question about depth or units
DEPTHS = {"cifar": (20, 56), "imagenet": (18, 34)}  # whose degradation the papers show first [v1 Fig. 1, Fig. 4]
SPLITS = {"train": "training", "test": "test", "val": "validation"}


class NotEnough(Exception):
    """The runs that a claim needs are not there; the text says which, `options` makes them."""

    def __init__(self, what: str, options: str = "") -> None:
        super().__init__(what)
        self.options = options


class Estimate(NamedTuple):
    """A quantity of one cell: its mean over seeds and the standard error of that, NaN where one seed cannot tell it."""

    cell: Cell
    mean: float
    standard_error: float
    num_seeds: int
    text: str


class Difference(NamedTuple):
    """One estimate minus another, with its standard error, and how sure it is in words."""

    value: float
    standard_error: float
    text: str

    def exceeds(self, margin: float = 0.0) -> bool:
        """Whether it is more than the margin and 2 standard errors; an unknown one counts as 0."""
        return self.value > margin + 2 * (0.0 if math.isnan(self.standard_error) else self.standard_error)


def error(cell: Cell, split: str) -> Estimate:
    """The final error in % on a split; NotEnough where the cell has none."""
    if cell.error(split) is None:
        raise NotEnough(f"a {SPLITS[split]} error of {cell.name}")
    values = [run.results[f"{split}/error"] for run in cell.runs if run.results.get(f"{split}/error") is not None]
    (num_images, *_) = (run.results[f"num_{split}_images"] for run in cell.runs)
    return _estimate(cell, values, num_images=num_images)


def early_error(cell: Cell, *, part: float) -> Estimate:
    """The training error in %, averaged over the first part of the steps."""
    values, num_images = [], 0
    for run in cell.runs:
        last = part * run.config["schedule"]["steps"]
        rows = zip(run.curves["step"], run.curves["train/error"], strict=True)
        errors = [e for step, e in rows if step <= last and math.isfinite(e)]
        if not errors:
            raise NotEnough(f"a training error in the first {part:.0%} of {cell.name}'s steps")
        values.append(statistics.fmean(errors))
        num_images = int(last) * run.config["schedule"]["batch_size"]
    return _estimate(cell, values, num_images=num_images)


def quantity(cell: Cell, of: Callable[[Run], float | None]) -> Estimate:
    """Anything that has no known uncertainty within one run; NotEnough where a run has not measured it."""
    values = [of(run) for run in cell.runs]
    if None in values:
        raise NotEnough(f"a later version's runs of {cell.name}: these have not measured it")
    return _estimate(cell, [value for value in values if value is not None], num_images=None)


def layer_table(run: Run, name: str) -> dict[str, list[float]]:
    """The columns of responses.csv or gradients.csv, less the layers' names; empty where the run has none."""
    path = run.directory / name
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows] for key in (rows[0] if rows else ()) if key != "name"}


def _estimate(cell: Cell, values: list[float], *, num_images: int | None) -> Estimate:
    """With one seed the standard error is the binomial one of that many images."""
    mean, n = statistics.fmean(values), len(values)
    text, standard_error = f"{cell.name} {mean:.2f}", math.nan
    if n > 1:
        std = statistics.stdev(values)
        text, standard_error = f"{text} ± {std:.2f} ({n} seeds)", std / math.sqrt(n)
    elif num_images is not None:
        standard_error = math.sqrt(mean * (100 - mean) / num_images)
    diverged = f", {cell.num_diverged} of {len(cell.runs)} diverged" if cell.num_diverged else ""
    return Estimate(cell, mean, standard_error, n, text + diverged)


def difference(left: Estimate, right: Estimate, *, what: str, unit: str = " points") -> Difference:
    """`left` minus `right`; `what` is the quantity, as a sentence begins with it."""
    value, sigma = left.mean - right.mean, math.hypot(left.standard_error, right.standard_error)
    sure = (
        "one seed: no uncertainty known"
        if math.isnan(sigma)
        else f"standard error {sigma:.2f} ({_origin(left, right)})"
    )
    text = f"{what}: {left.text}, {right.text}; difference {value:+.2f}{unit}, {sure}."
    return Difference(value, sigma, text)


def error_of(split: str) -> str:
    """What a sentence about errors on a split begins with."""
    return f"{SPLITS[split].capitalize()} error in %"


def error_difference(left: Cell, right: Cell, split: str) -> Difference:
    """Of the final errors on a split."""
    return difference(error(left, split), error(right, split), what=error_of(split))


def is_untrained(cell: Cell) -> bool:
    """Two networks that have learned nothing are equally bad, which proves nothing."""
    return error(cell, "train").mean > UNTRAINED


def untrained(cell: Cell) -> str:
    """What a claim about such a network lacks."""
    return f"more steps: {cell.name} itself has {cell.error('train')} % training error"


def _origin(left: Estimate, right: Estimate) -> str:
    single = [estimate.cell.name for estimate in (left, right) if estimate.num_seeds == 1]
    return {
        0: "uncertainty from the seeds",
        1: f"{single[0] if single else ''} has one seed: its uncertainty is from the number of images only",
        2: "one seed each; uncertainty from the number of images only",
    }[len(single)]


# --- which runs there are ---------------------------------------------------------------------------------------------


def by_depth(protocol: Protocol, arch: str, *, split: str = "train", at_most: int | None = None) -> list[Cell]:
    """Cells of an architecture with an error on the split, shallowest first."""
    cells = [cell for cell in protocol.cells if cell.arch == arch and cell.error(split)]
    shallow = (cell for cell in cells if at_most is None or cell.num_layers <= at_most)
    return sorted(shallow, key=lambda cell: cell.num_layers)


def two_depths(protocol: Protocol, arch: str, *, split: str, at_most: int | None = None) -> tuple[Cell, Cell]:
    """The shallowest and the deepest cell; NotEnough where there is one depth only."""
    cells = by_depth(protocol, arch, split=split, at_most=at_most)
    if len(cells) < 2:
        raise NotEnough("two depths", f"depth={plain_depths(protocol)} arch={arch}")
    return cells[0], cells[-1]


def common_depths(protocol: Protocol, *archs: Sequence[str], split: str) -> list[dict[int, Cell]]:
    """For each architecture, by any of its names, its cells at the depths that all of them have, shallowest first."""
    found = [
        {cell.num_layers: cell for cell in protocol.cells if cell.arch in names and cell.error(split)}
        for names in archs
    ]
    depths = sorted(set.intersection(*(set(cells) for cells in found)))
    return [{depth: cells[depth] for depth in depths} for cells in found]


def first_depths(protocol: Protocol) -> tuple[int, int]:
    """A shallow and a deep network to begin with, of the family that the data asks for."""
    return DEPTHS[family(protocol.runs[0].config)]


def plain_depths(protocol: Protocol) -> str:
    """The depths to ask for: those to begin with and the plain networks' that are there."""
    there = {cell.num_layers for cell in protocol.cells if cell.arch == "plain"}
    return ",".join(map(str, sorted({*first_depths(protocol), *there})))


def at_depth(protocol: Protocol) -> str:
    """What to add to a command whose own depth, of CIFAR's networks, there is not on ImageNet; else nothing."""
    return "" if family(protocol.runs[0].config) == "cifar" else f" depth={first_depths(protocol)[1]}"


def held_out(protocol: Protocol) -> str:
    """The split that no network has seen: test, where that is not there val."""
    return "val" if "test" not in protocol.splits and "val" in protocol.splits else "test"
