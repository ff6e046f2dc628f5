"""What the judgement of a claim rests on: quantities of our runs, each with its spread, and which runs there are.

A difference has an interval of `intervals`, as the papers' rows do. An error in % has the spread of its seeds with a
floor, or, with one or two seeds, the binomial spread of its images. A loss or a response has no spread within one run.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from resnet_repro.papers import intervals
from resnet_repro.papers.intervals import Spread
from resnet_repro.runs.finished import SPLITS, FinishedRun
from resnet_repro.runs.groups import Cell, Comparison, over_seeds, values_over_seeds

UNTRAINED = 50.0  # % training error above which a network has learned too little for a question about depth or units
DEPTHS = {"cifar": (20, 56), "imagenet": (18, 34)}  # whose degradation the papers show first [v1 Fig. 1, Fig. 4]


class NotEnough(Exception):
    """The runs that would decide a claim are missing. The text says which; `options` are those that make them."""

    def __init__(self, what: str, options: str = "") -> None:
        super().__init__(what)
        self.options = options


class Estimate(NamedTuple):
    """A quantity of one cell: its mean over seeds and its spread, NaN if one seed cannot show it."""

    cell: Cell
    mean: float
    spread: Spread
    num_seeds: int
    text: str
    format: str = ".2f"


class Difference(NamedTuple):
    """One estimate minus another, its 95 % confidence interval (value ± half_width), and both in words."""

    value: float
    half_width: float
    text: str

    def exceeds(self, margin: float = 0.0) -> bool | None:
        """Return whether the difference is above the margin; None if its interval is unknown or contains the margin."""
        if self.value - self.half_width > margin:
            return True
        return False if self.value + self.half_width < margin else None


def error(cell: Cell, split: str) -> Estimate:
    """Return the final error in % on a split. Raise NotEnough if the cell has none."""
    if cell.error(split) is None:
        raise NotEnough(f"a {SPLITS[split]} error of {cell.name}")
    return _estimate(cell, cell.errors(split), num_images=cell.runs[0].results[f"num_{split}_images"])


def early_error(cell: Cell, *, part: float) -> Estimate:
    """Return the training error in %, averaged over the first `part` of the steps. Raise NotEnough if one lacks."""
    schedule = cell.runs[0].options.schedule
    last = part * schedule.steps

    def early(run: FinishedRun) -> float | None:
        rows = zip(run.curves["step"], run.curves["train/error"], strict=True)
        errors = [e for step, e in rows if step <= last and math.isfinite(e)]
        return statistics.fmean(errors) if errors else None

    values = values_over_seeds(cell.runs, early)
    if len(values) < len(cell.measured):
        raise NotEnough(f"a training error in the first {part:.0%} of {cell.name}'s steps")
    return _estimate(cell, values, num_images=int(last) * schedule.batch_size)


def quantity(cell: Cell, of: Callable[[FinishedRun], float | None]) -> Estimate:
    """Return a quantity without a known uncertainty within one run. Raise NotEnough if a run has not measured it."""
    values = values_over_seeds(cell.runs, of)
    if len(values) < len(cell.measured):
        raise NotEnough(f"a later version's runs of {cell.name}: these have not measured it")
    return _estimate(cell, values, num_images=None)


def _estimate(cell: Cell, values: list[float], *, num_images: int | None) -> Estimate:
    """Estimate from errors in % of `num_images` images; without a number of images one seed shows no spread."""
    seeds = over_seeds(values, num_diverged=cell.num_diverged)
    spec = "#.3g" if num_images is None else ".2f"
    text = f"{cell.name} {seeds.mean:{spec}}" + (f" ± {seeds.std:{spec}} ({seeds.n} seeds)" if seeds.n > 1 else "")
    if num_images is not None:
        spread = intervals.spread(seeds.std, seeds.n, error=seeds.mean, num_images=num_images)
    elif seeds.n > 1:
        spread = Spread(seeds.std, seeds.n - 1)
    else:
        spread = Spread(math.nan, math.nan)
    diverged = f", {seeds.num_diverged} of {len(cell.runs)} diverged" if seeds.num_diverged else ""
    return Estimate(cell, seeds.mean, spread, seeds.n, text + diverged, spec)


def difference(left: Estimate, right: Estimate, *, what: str, unit: str = " points") -> Difference:
    """Return `left` minus `right` with Welch's interval; the text begins with `what`, the quantity."""
    sides = ((each.spread, 1 / math.sqrt(each.num_seeds)) for each in (left, right))
    gap = intervals.interval(left.mean - right.mean, *sides)
    if math.isnan(gap.half_width):
        sure = f"{gap.difference:+{left.format}}{unit}, of unknown uncertainty: one seed does not tell it"
    else:
        width = format(gap.half_width, left.format)
        sure = f"{gap.difference:+{left.format}} ± {width}{unit} (95 % interval, {_origin(left, right)})"
    return Difference(gap.difference, gap.half_width, f"{what}: {left.text}, {right.text}; difference {sure}.")


def error_of(split: str) -> str:
    """Return the beginning of a sentence about errors on a split."""
    return f"{SPLITS[split].capitalize()} error in %"


def error_difference(left: Cell, right: Cell, split: str) -> Difference:
    """Return the difference of the final errors on a split."""
    return difference(error(left, split), error(right, split), what=error_of(split))


def negated(answer: bool | None) -> bool | None:
    """Return the opposite of an answer; None, not decided, stays None."""
    return None if answer is None else not answer


def all_of(answers: Iterable[bool | None]) -> bool | None:
    """Return whether all answers are True: one False decides, else one None leaves it open."""
    each = list(answers)
    return False if False in each else None if None in each else True


def is_untrained(cell: Cell) -> bool:
    """Return whether a network has learned too little: two such networks are equally bad, which proves nothing."""
    return error(cell, "train").mean > UNTRAINED


def untrained(cell: Cell) -> str:
    """Return what a claim about an untrained network lacks."""
    return f"more steps: {cell.name} itself has {cell.error('train')} % training error"


def _origin(left: Estimate, right: Estimate) -> str:
    few = [each.cell.name for each in (left, right) if math.isinf(each.spread.df)]
    return f"from the number of images for {' and '.join(few)}" if few else "from the seeds"


# --- which runs there are ---------------------------------------------------------------------------------------------


def by_depth(comparison: Comparison, arch: str, *, split: str = "train", at_most: int | None = None) -> list[Cell]:
    """Return the cells of an architecture with an error on the split, shallowest first."""
    cells = [cell for cell in comparison.cells if cell.arch == arch and cell.error(split)]
    shallow = (cell for cell in cells if at_most is None or cell.num_layers <= at_most)
    return sorted(shallow, key=lambda cell: cell.num_layers)


def two_depths(comparison: Comparison, arch: str, *, split: str, at_most: int | None = None) -> tuple[Cell, Cell]:
    """Return the shallowest and the deepest cell. Raise NotEnough if there is one depth only."""
    cells = by_depth(comparison, arch, split=split, at_most=at_most)
    if len(cells) < 2:
        raise NotEnough("two depths", f"depth={plain_depths(comparison)} arch={arch}")
    return cells[0], cells[-1]


def common_depths(
    comparison: Comparison, *archs: Sequence[str], split: str, at_most: int | None = None
) -> list[dict[int, Cell]]:
    """Return for each architecture, by any of its names, its cells at the depths that all have, shallowest first."""
    cells_of = [
        {cell.num_layers: cell for cell in comparison.cells if cell.arch in names and cell.error(split)}
        for names in archs
    ]
    common = set.intersection(*(set(cells) for cells in cells_of))
    depths = sorted(depth for depth in common if at_most is None or depth <= at_most)
    return [{depth: cells[depth] for depth in depths} for cells in cells_of]


def first_depths(comparison: Comparison) -> tuple[int, int]:
    """Return the depths of a shallow and a deep network to begin with, of the family that the data asks for."""
    return DEPTHS[comparison.runs[0].options.family]


def plain_depths(comparison: Comparison) -> str:
    """Return the depths to ask for: those to begin with, and those of the plain networks that there are."""
    there = {cell.num_layers for cell in comparison.cells if cell.arch == "plain"}
    return ",".join(map(str, sorted({*first_depths(comparison), *there})))


def at_depth(comparison: Comparison) -> str:
    """Return what to add to a command whose own depth is one of CIFAR's: on ImageNet a depth, else nothing."""
    return "" if comparison.runs[0].options.family == "cifar" else f" depth={first_depths(comparison)[1]}"
