"""Figures by layer: the standard deviation of the responses as in v1 Fig. 7, and the norms of the gradients."""

import statistics
from collections.abc import Iterable
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from resnet_repro.report.training_curves import COLORS, MAIN, headline
from resnet_repro.runs.finished import layer_table
from resnet_repro.runs.groups import Cell, Comparison

PAPER_TOP = 3.0  # top of v1 Fig. 7's y axis
SHADES = ("#9ecae1", "#6baed6", "#4292c6", "#2171b5", "#08306b")  # early to late


def responses(cell: Cell) -> list[float]:
    """Return the standard deviation of each 3x3 layer's response, mean over seeds; empty if not measured."""
    return _mean_over_seeds(layer_table(run, "responses.csv").get("std", []) for run in cell.runs)


def gradients(cell: Cell) -> dict[int, list[float]]:
    """Return the norm of each layer's gradient by measured step, mean over seeds; empty if a seed lacks it."""
    tables = [layer_table(run, "gradients.csv") for run in cell.runs]
    by_step = [
        {
            int(step): [norm for _, norm in rows]
            for step, rows in groupby(zip(t["step"], t["norm"], strict=True), key=lambda row: row[0])
        }
        for t in tables
        if t
    ]
    if len(by_step) < len(tables):
        return {}
    return {step: _mean_over_seeds(each[step] for each in by_step) for step in by_step[0]}


def _mean_over_seeds(seeds: Iterable[list[float]]) -> list[float]:
    return [statistics.fmean(layer) for layer in zip(*seeds, strict=True)]


def response_figure(comparison: Comparison) -> Figure | None:
    """Return v1 Fig. 7: above in the layers' order, below sorted; plain dashed, residual solid, one colour a depth.

    Each residual architecture has a column, beside the plain networks. Return None if nothing was measured.
    """
    cells = [cell for cell in comparison.cells if cell.arch in MAIN and responses(cell)]
    residual = [arch for arch in MAIN[1:] if any(cell.arch == arch for cell in cells)]
    if not cells:
        return None
    depths = sorted({cell.num_layers for cell in cells})
    highest = max((max(responses(cell)) for cell in cells if cell.arch != "plain"), default=0.0)
    top = max(PAPER_TOP, 1.1 * highest)
    columns = residual or ["plain"]
    figure = Figure(figsize=(5.2 * len(columns) + 0.5, 5.6), layout="constrained")
    grid = figure.subplots(2, len(columns), sharey=True, squeeze=False)
    for column, arch in enumerate(columns):
        drawn = [cell for cell in cells if cell.arch in ("plain", arch)]
        for axes, is_sorted in zip(grid[:, column], (False, True), strict=True):
            for cell in drawn:
                stds = sorted(responses(cell), reverse=True) if is_sorted else responses(cell)
                color = COLORS[depths.index(cell.num_layers) % len(COLORS)]
                style = (0, (3, 1.5)) if cell.arch == "plain" else "-"
                above = f", up to {max(stds):.3g}" if max(stds) > top else ""
                axes.plot(
                    range(1, len(stds) + 1), stds, color=color, linestyle=style, linewidth=1.4, label=cell.name + above
                )
            axes.set_ylim(0, top)
            axes.set_xlabel("layer, sorted by deviation" if is_sorted else "layer, from the image on")
            _plain_look(axes)
        grid[0, column].legend(frameon=False, fontsize=8, ncols=2)
    for axes in grid[:, 0]:
        axes.set_ylabel("standard deviation")
    headline(figure, f"{comparison.title}: responses of the 3x3 layers")
    return figure


def gradient_figure(comparison: Comparison) -> Figure | None:
    """Return a row for each architecture, a column for each depth, a line for each measured step; None without any."""
    cells = {(cell.arch, cell.num_layers): cell for cell in comparison.cells if cell.arch in MAIN and gradients(cell)}
    if not cells:
        return None
    archs = [arch for arch in MAIN if any(arch == each for each, _ in cells)]
    depths = sorted({depth for _, depth in cells})
    size = (2.9 * len(depths) + 0.9, 2.2 * len(archs) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(archs), len(depths), sharex="col", sharey="row", squeeze=False)
    steps: dict[int, str] = {}
    for row, arch in enumerate(archs):
        for column, depth in enumerate(depths):
            axes = grid[row, column]
            if (arch, depth) not in cells:
                axes.set_axis_off()
                continue
            by_step = gradients(cells[arch, depth])
            steps |= dict(zip(by_step, SHADES, strict=False))
            for step, norms in by_step.items():
                axes.plot(range(1, len(norms) + 1), norms, color=steps[step], linewidth=1.3, label=f"step {step:,}")
            axes.set_yscale("log")
            axes.set_title(f"{arch}-{depth}", fontsize=10, fontweight="bold")
            _plain_look(axes)
    for axes in grid[-1]:
        axes.set_xlabel("layer, from the image on")
    for axes in grid[:, 0]:
        axes.set_ylabel("gradient norm")
    handles = {line.get_label(): line for axes in grid.flat for line in axes.lines}
    ncols = min(5, 3 * grid.shape[1])
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)
    headline(figure, f"{comparison.title}: L2 norms of the layers' gradients")
    return figure


def _plain_look(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
