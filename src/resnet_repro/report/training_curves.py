"""Training curves as the papers draw them: error over steps, networks side by side. [v1 Fig. 6, v2 Figs. 3 and 5]"""

import math
from typing import NamedTuple

from resnet_repro.report.charts import HUES, Chart, Line, Panel
from resnet_repro.runs.finished import SPLITS
from resnet_repro.runs.groups import Cell, Comparison

MAIN = ("plain", "resnet_v1", "resnet_v2")  # names of cells without departures
LIMITS = (2, 5, 10, 20, 30, 40, 60, 80, 100)  # %: tops of the y axis


class Curve(NamedTuple):
    """Mean, lowest and highest error in % over seeds, at the steps that all seeds measured."""

    steps: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def curve(cell: Cell, split: str) -> Curve:
    """Return the error of a cell on a split over the steps; empty if it was not measured."""
    seeds = []
    for run in cell.runs:
        errors = run.curves.get(f"{split}/error", [])
        seeds.append({step: e for step, e in zip(run.curves["step"], errors, strict=False) if math.isfinite(e)})
    steps = sorted(set.intersection(*(set(seed) for seed in seeds)))
    columns = [[seed[step] for seed in seeds] for step in steps]
    return Curve(steps, [sum(column) / len(column) for column in columns], [*map(min, columns)], [*map(max, columns)])


def held_out_split(comparison: Comparison) -> str:
    """Return the split drawn bold beside the training error: test, or val if there is no test set."""
    return "test" if any(curve(cell, "test").steps for cell in comparison.cells) else "val"


def top_error(comparison: Comparison, cells: list[Cell]) -> float:
    """Return the top of the y axis in %: the paper's 20 for its data and length, else above every final error."""
    if comparison.data == "cifar10" and comparison.steps == 64_000:
        return 20
    curves = [curve(cell, split) for cell in cells for split in ("train", held_out_split(comparison))]
    last = max((c.high[-1] for c in curves if c.steps), default=100.0)
    return next((limit for limit in LIMITS if limit >= 1.1 * last), 100)


class Network(NamedTuple):
    """A cell whose curves a panel shows, under a label that tells it from the panel's others."""

    cell: Cell
    label: str
    color: str


Networks = dict[str, list[Network]]
"""The networks of each panel by its title, in the order of drawing."""


def by_architecture(comparison: Comparison) -> Networks:
    """Return a panel for each architecture without departures, plain first, one colour a depth. [v1 Fig. 6]"""
    cells = [cell for cell in comparison.cells if cell.arch in MAIN]
    depths = sorted({cell.num_layers for cell in cells})
    return {
        arch: [
            Network(cell, f"{cell.depth}-layer", HUES[depths.index(cell.num_layers) % len(HUES)])
            for cell in cells
            if cell.arch == arch
        ]
        for arch in dict.fromkeys(cell.arch for cell in cells)
    }


def comparators(comparison: Comparison) -> Networks:
    """Return one panel for all networks of other libraries; empty if there are none."""
    others = [cell for cell in comparison.cells if cell.depth is None]
    names = [cell.name.split()[0] for cell in others]
    labels = [name if names.count(name) == 1 else cell.name for name, cell in zip(names, others, strict=True)]
    networks = [Network(*of, HUES[number % len(HUES)]) for number, of in enumerate(zip(others, labels, strict=True))]
    return {"comparators": networks} if networks else {}


def constructed(comparison: Comparison) -> Networks:
    """Return a panel for each architecture: a shallow network, a deep one, and the deep one built from the shallow."""
    panels: Networks = {}
    cells = {(cell.arch, cell.depth): cell for cell in comparison.cells}
    for begun in (cell for cell in comparison.cells if cell.init_from):
        arch = begun.arch.replace(f" init_from={begun.init_from}", "")
        shallow, deep = cells.get((arch, begun.init_from or 0)), cells.get((arch, begun.depth))
        networks = [Network(shallow, f"{begun.init_from}-layer", "c0")] if shallow else []
        networks += [Network(deep, f"{begun.depth}-layer", "c1")] if deep else []
        panels[arch if arch not in panels else begun.name] = [*networks, Network(begun, "constructed", "c2")]
    return panels


def ablations(comparison: Comparison) -> Networks:
    """Return a panel for each ablation, at its greatest depth, beside the network it departs from. [v2 Fig. 3]"""
    panels: Networks = {}
    cells = {(cell.arch, cell.depth): cell for cell in comparison.cells}
    candidates = [cell for cell in comparison.cells if cell.arch not in MAIN and cell.depth is not None]
    for cell in sorted(candidates, key=lambda cell: -cell.num_layers):
        name, _, rest = cell.arch.partition(" ")
        if cell.init_from or any(each.cell.arch == cell.arch for networks in panels.values() for each in networks):
            continue
        original = cells.get((name, cell.depth))
        before = [Network(original, name, "c5")] if original else []
        panels[cell.name] = [*before, Network(cell, rest.split("=")[-1], "c0")]
    return dict(sorted(panels.items()))


def chart(comparison: Comparison, networks: Networks, *, name: str, caption: str) -> Chart:
    """Return training and held-out error over the steps, in panels with the same y axis."""
    cells = [network.cell for each in networks.values() for network in each]
    bold, top = held_out_split(comparison), top_error(comparison, cells)
    panels = [
        Panel(title, [line for network in each for line in lines(network, bold)], (0, comparison.steps), (0, top))
        for title, each in networks.items()
    ]
    has_seeds = any(len(cell.runs) > 1 for cell in cells)
    seeds = " (mean; band: lowest to highest seed)" if has_seeds else ""
    key = (("training error", True), (f"{SPLITS[bold]} error{seeds}", False))
    return Chart(name, comparison.title, caption, "step", "error, %", panels, " %", key)


def lines(network: Network, bold: str) -> list[Line]:
    """Return the curves of a network that were measured: training error dashed, held-out error solid."""
    drawn = []
    curves = {split: curve(network.cell, split) for split in ("train", bold)}
    for split, (steps, mean, low, high) in curves.items():
        if steps:
            band = tuple(zip(steps, low, high, strict=True)) if len(network.cell.runs) > 1 else ()
            is_last = split == bold or not curves[bold].steps
            drawn.append(
                Line(
                    network.label,
                    tuple(zip(steps, mean, strict=True)),
                    network.color,
                    f"{SPLITS[split]} error",
                    is_dashed=split == "train",
                    is_named=is_last,
                    band=band,
                )
            )
    return drawn
