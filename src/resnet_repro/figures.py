"""Training curves as the papers draw them: plain and residual side by side. [v1 Fig. 6]"""

import math
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from resnet_repro.results import Cell, Protocol

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC3311", "#7B3294", "#333333", "#56B4E9", "#AA7744")  # one a depth
MAX_COLUMNS = 3
LIMITS = (2, 5, 10, 20, 30, 40, 60, 80, 100)  # %, the tops that the y axis may have
STYLE = {
    "train": {"linestyle": (0, (3, 1.5)), "linewidth": 0.9, "alpha": 0.9},
    "test": {"linestyle": "-", "linewidth": 2.0},
    "val": {"linestyle": "-", "linewidth": 2.0},
}


class Curve(NamedTuple):
    """Mean, lowest and highest error in % over seeds, at the steps that all seeds have measured."""

    steps: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def curve(cell: Cell, split: str) -> Curve:
    """The error of a cell on a split over the steps; empty where it has not been measured."""
    seeds = []
    for run in cell.runs:
        errors = run.curves.get(f"{split}/error", [])
        seeds.append({step: e for step, e in zip(run.curves["step"], errors, strict=False) if math.isfinite(e)})
    steps = sorted(set.intersection(*(set(seed) for seed in seeds)))
    columns = [[seed[step] for seed in seeds] for step in steps]
    return Curve(steps, [sum(column) / len(column) for column in columns], [*map(min, columns)], [*map(max, columns)])


def held_out_split(protocol: Protocol) -> str:
    """The split drawn bold beside the training error: test, val where there is no test set."""
    return "test" if any(curve(cell, "test").steps for cell in protocol.cells) else "val"


def top_error(protocol: Protocol) -> float:
    """Top of the y axis in %: 20 as in the paper for its own data and length, else what shows every final error."""
    if protocol.data == "cifar10" and protocol.steps == 64_000:
        return 20
    splits = ("train", held_out_split(protocol))
    curves = [curve(cell, split) for cell in protocol.cells for split in splits]
    last = max((c.high[-1] for c in curves if c.steps), default=100.0)
    return next((limit for limit in LIMITS if limit >= 1.1 * last), 100)


def training_curves(protocol: Protocol, *, columns: int = MAX_COLUMNS) -> Figure:
    """One panel an architecture, plain first, all with the same y axis; one colour a depth.

    Args:
        columns: panels side by side; 1 stacks them, for a narrow screen.
    """
    archs = list(dict.fromkeys(cell.arch for cell in protocol.cells))
    depths = sorted({cell.depth for cell in protocol.cells})
    columns = min(columns, len(archs))
    rows = math.ceil(len(archs) / columns)
    figure = Figure(figsize=(4.3 * columns + 0.5, 3.4 * rows + 0.75), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten().tolist()
    bold, top = held_out_split(protocol), top_error(protocol)
    for axes, arch in zip(grid, archs, strict=False):
        cells = [cell for cell in protocol.cells if cell.arch == arch]
        _panel(axes, cells, colors={d: COLORS[depths.index(d) % len(COLORS)] for d in depths}, bold=bold, top=top)
        axes.set_title(arch, fontsize=11, fontweight="bold")
        axes.set_xlim(0, protocol.steps)
        below = archs.index(arch) + columns >= len(archs)
        axes.tick_params(labelbottom=below)
        axes.set_xlabel("step" if below else "")
        if archs.index(arch) % columns == 0:
            axes.set_ylabel("error (%)")
    for axes in grid[len(archs) :]:
        axes.remove()
    figure.suptitle(protocol.title, fontsize=12)
    lines = [
        Line2D([], [], color="#444444", label="training error", **STYLE["train"]),  # type: ignore[arg-type]
        Line2D([], [], color="#444444", label={"test": "test error", "val": "validation error"}[bold], **STYLE[bold]),  # type: ignore[arg-type]
    ]
    if any(len(cell.runs) > 1 for cell in protocol.cells):
        lines[1].set_label(f"{lines[1].get_label()} (mean; band: lowest to highest seed)")
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, cells: list[Cell], *, colors: dict[int, str], bold: str, top: float) -> None:
    ends = []
    for cell in cells:
        for split in ("train", bold):
            c = curve(cell, split)
            if not c.steps:
                continue
            axes.plot(c.steps, c.mean, color=colors[cell.depth], **STYLE[split])  # type: ignore[arg-type]
            if len(cell.runs) > 1:
                axes.fill_between(c.steps, c.low, c.high, color=colors[cell.depth], alpha=0.15, linewidth=0)
            if split == bold or not curve(cell, bold).steps:
                ends.append((c.mean[-1], cell.depth))
    axes.set_ylim(0, top)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 10_000 else f"{step:g}")
    )
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    seen = [end for end in ends if end[0] <= top]
    for (_, depth), y in zip(seen, spread([error / top for error, _ in seen], gap=0.065), strict=True):
        _label(axes, f"{depth}-layer", (1, y), color=colors[depth], offset=5)
    for i, (error, depth) in enumerate(end for end in ends if end[0] > top):
        _label(axes, f"{depth}-layer ends at {error:.0f} %  ↑", (0.99, 0.96 - 0.065 * i), color=colors[depth], offset=0)


def _label(axes: Axes, text: str, xy: tuple[float, float], *, color: str, offset: int) -> None:
    axes.annotate(
        text, xy, xycoords="axes fraction", xytext=(offset, 0), textcoords="offset points", color=color,
        ha="left" if offset else "right", va="center", fontsize=9, fontweight="bold", annotation_clip=False,
    )  # fmt: skip


def spread(heights: list[float], *, gap: float) -> list[float]:
    """Heights of labels, pushed apart until they lie at least `gap` apart, in the same order and none below 0."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    y = [max(heights[i], 0.0) for i in order]
    for _ in range(100):  # neighbours that are too close give way by half each
        for i in range(1, len(y)):
            push = max(0.0, gap - (y[i] - y[i - 1])) / 2
            y[i - 1], y[i] = max(y[i - 1] - push, 0.0), y[i] + push
    for i in range(1, len(y)):
        y[i] = max(y[i], y[i - 1] + gap)
    return [y[order.index(i)] for i in range(len(heights))]


def save(figure: Figure, path: Path) -> None:
    """The figure as PNG (200 dots an inch) and PDF, to `path` with these suffixes; the same bits every time."""
    figure.savefig(path.with_suffix(".png"), dpi=200)
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
