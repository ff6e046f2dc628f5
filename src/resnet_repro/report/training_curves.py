"""Training curves as the papers draw them: error over steps, networks side by side. [v1 Fig. 6, v2 Figs. 3 and 5]"""

import math
import textwrap
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from resnet_repro.runs.groups import Cell, Comparison

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC3311", "#7B3294", "#333333", "#56B4E9", "#AA7744")  # one a depth
MAX_COLUMNS = 3
MAIN = ("plain", "resnet_v1", "resnet_v2")  # names of cells without departures
LIMITS = (2, 5, 10, 20, 30, 40, 60, 80, 100)  # %: tops of the y axis
STYLE = {
    "train": {"linestyle": (0, (3, 1.5)), "linewidth": 0.9, "alpha": 0.9},
    "test": {"linestyle": "-", "linewidth": 2.0},
    "val": {"linestyle": "-", "linewidth": 2.0},
}


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


class Line(NamedTuple):
    """A cell's two curves in a panel."""

    cell: Cell
    label: str
    color: str


Panels = dict[str, list[Line]]
"""The lines of each panel by its title, in the order of drawing."""


def training_panels(comparison: Comparison) -> Panels:
    """Return a panel for each architecture, plain first, one colour a depth [v1 Fig. 6]; comparators share the last."""
    cells = [cell for cell in comparison.cells if cell.arch in MAIN]
    depths = sorted({cell.num_layers for cell in cells})
    panels = {
        arch: [
            Line(cell, f"{cell.depth}-layer", COLORS[depths.index(cell.num_layers) % len(COLORS)])
            for cell in cells
            if cell.arch == arch
        ]
        for arch in dict.fromkeys(cell.arch for cell in cells)
    }
    others = [cell for cell in comparison.cells if cell.depth is None]
    names = [cell.name.split()[0] for cell in others]
    labels = [name if names.count(name) == 1 else cell.name for name, cell in zip(names, others, strict=True)]
    lines = [Line(*of, COLORS[number % len(COLORS)]) for number, of in enumerate(zip(others, labels, strict=True))]
    return panels | ({"comparators": lines} if lines else {})


def constructed_panels(comparison: Comparison) -> Panels:
    """Return a panel for each architecture: a shallow network, a deep one, and the deep one built from the shallow."""
    panels: Panels = {}
    cells = {(cell.arch, cell.depth): cell for cell in comparison.cells}
    for begun in (cell for cell in comparison.cells if cell.init_from):
        arch = begun.arch.replace(f" init_from={begun.init_from}", "")
        shallow, deep = cells.get((arch, begun.init_from or 0)), cells.get((arch, begun.depth))
        lines = [Line(begun, "constructed", COLORS[2])]
        lines += [Line(deep, f"{begun.depth}-layer", COLORS[1])] if deep else []
        lines += [Line(shallow, f"{begun.init_from}-layer", COLORS[0])] if shallow else []
        panels[arch if arch not in panels else begun.name] = lines[::-1]
    return panels


def ablation_panels(comparison: Comparison) -> Panels:
    """Return a panel for each ablation, at its greatest depth, beside the network it departs from. [v2 Fig. 3]"""
    panels: Panels = {}
    cells = {(cell.arch, cell.depth): cell for cell in comparison.cells}
    ablations = [cell for cell in comparison.cells if cell.arch not in MAIN and cell.depth is not None]
    for cell in sorted(ablations, key=lambda cell: -cell.num_layers):
        name, _, rest = cell.arch.partition(" ")
        if cell.init_from or any(each.cell.arch == cell.arch for lines in panels.values() for each in lines):
            continue
        original = cells.get((name, cell.depth))
        before = [Line(original, name, COLORS[5])] if original else []
        panels[cell.name] = [*before, Line(cell, rest.split("=")[-1], COLORS[0])]
    return dict(sorted(panels.items()))


def curves(comparison: Comparison, panels: Panels, *, columns: int = MAX_COLUMNS) -> Figure:
    """Return training and test error over the steps, in panels side by side with the same y axis.

    Args:
        columns: panels side by side; 1 stacks them, for a narrow screen.
    """
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.3 * columns + 0.5, 3.4 * rows + 0.75), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten().tolist()
    cells = [line.cell for lines in panels.values() for line in lines]
    bold, top = held_out_split(comparison), top_error(comparison, cells)
    for number, (axes, (title, lines)) in enumerate(zip(grid, panels.items(), strict=False)):
        _panel(axes, lines, bold=bold, top=top)
        axes.set_title(title, fontsize=11, fontweight="bold")
        axes.set_xlim(0, comparison.steps)
        below = number + columns >= len(panels)
        axes.tick_params(labelbottom=below)
        axes.set_xlabel("step" if below else "")
        if number % columns == 0:
            axes.set_ylabel("error (%)")
    for axes in grid[len(panels) :]:
        axes.remove()
    headline(figure, comparison.title)
    legend = [
        Line2D([], [], color="#444444", label="training error", **STYLE["train"]),  # type: ignore[arg-type]
        Line2D([], [], color="#444444", label={"test": "test error", "val": "validation error"}[bold], **STYLE[bold]),  # type: ignore[arg-type]
    ]
    if any(len(cell.runs) > 1 for cell in cells):
        legend[1].set_label(f"{legend[1].get_label()} (mean; band: lowest to highest seed)")
    figure.legend(handles=legend, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, lines: list[Line], *, bold: str, top: float) -> None:
    ends = []
    for line in lines:
        for split in ("train", bold):
            c = curve(line.cell, split)
            if not c.steps:
                continue
            axes.plot(c.steps, c.mean, color=line.color, **STYLE[split])  # type: ignore[arg-type]
            if len(line.cell.runs) > 1:
                axes.fill_between(c.steps, c.low, c.high, color=line.color, alpha=0.15, linewidth=0)
            if split == bold or not curve(line.cell, bold).steps:
                ends.append((c.mean[-1], line))
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 10_000 else f"{step:g}")
    )
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    seen = [end for end in ends if end[0] <= top]
    for (_, line), y in zip(seen, spread([error / top for error, _ in seen], gap=0.065), strict=True):
        _label(axes, line.label, (1, y), color=line.color, offset=5)
    for i, (error, line) in enumerate(end for end in ends if end[0] > top):
        _label(axes, f"{line.label} ends at {error:.0f} %  ↑", (0.99, 0.96 - 0.065 * i), color=line.color, offset=0)


def _label(axes: Axes, text: str, xy: tuple[float, float], *, color: str, offset: int) -> None:
    axes.annotate(
        text, xy, xycoords="axes fraction", xytext=(offset, 0), textcoords="offset points", color=color,
        ha="left" if offset else "right", va="center", fontsize=9, fontweight="bold", annotation_clip=False,
    )  # fmt: skip


def spread(heights: list[float], *, gap: float) -> list[float]:
    """Return heights of labels at least `gap` apart, in the same order and none below 0."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    y = [max(heights[i], 0.0) for i in order]
    for _ in range(100):  # neighbours that are too close each give way by half
        for i in range(1, len(y)):
            push = max(0.0, gap - (y[i] - y[i - 1])) / 2
            y[i - 1], y[i] = max(y[i - 1] - push, 0.0), y[i] + push
    for i in range(1, len(y)):
        y[i] = max(y[i], y[i - 1] + gap)
    return [y[order.index(i)] for i in range(len(heights))]


def headline(figure: Figure, text: str) -> None:
    """Write the title over all panels, wrapped to the figure's width."""
    figure.suptitle(textwrap.fill(text, int(10 * figure.get_figwidth())), fontsize=12)  # 10 letters an inch


def save(figure: Figure, path: Path) -> None:
    """Save the figure as PNG (200 dots an inch) and PDF beside `path`; the same bits every time."""
    figure.savefig(path.with_suffix(".png"), dpi=200)
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
