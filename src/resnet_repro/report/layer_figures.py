"""Charts by layer: the standard deviation of the responses as in v1 Fig. 7, and the norms of the gradients."""

import statistics
from collections.abc import Iterable
from itertools import groupby

from resnet_repro.report.charts import HUES, SHADES, Chart, Line, Panel
from resnet_repro.report.training_curves import MAIN
from resnet_repro.runs.finished import layer_table
from resnet_repro.runs.groups import Cell, Comparison

PAPER_TOP = 3.0  # top of v1 Fig. 7's y axis


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


def response_chart(comparison: Comparison, caption: str) -> Chart | None:
    """Return v1 Fig. 7: in the layers' order, then sorted; plain dashed, residual solid, one colour a depth.

    Each residual architecture has two panels, beside the plain networks. Return None if nothing was measured.
    """
    deviations = [(cell, stds) for cell in comparison.cells if cell.arch in MAIN and (stds := responses(cell))]
    if not deviations:
        return None
    residual = [arch for arch in MAIN[1:] if any(cell.arch == arch for cell, _ in deviations)]
    depths = sorted({cell.num_layers for cell, _ in deviations})
    highest = max((max(stds) for cell, stds in deviations if cell.arch != "plain"), default=0.0)
    top = max(PAPER_TOP, 1.1 * highest)
    panels = []
    for arch in residual or ["plain"]:
        networks = [(cell, stds) for cell, stds in deviations if cell.arch in ("plain", arch)]
        last = max(2, *(len(stds) for _, stds in networks))
        for is_sorted in (False, True):
            lines = [
                Line(
                    cell.name,
                    tuple(enumerate(sorted(stds, reverse=True) if is_sorted else stds, start=1)),
                    HUES[depths.index(cell.num_layers) % len(HUES)],
                    is_dashed=cell.arch == "plain",
                )
                for cell, stds in networks
            ]
            panels.append(Panel(f"{arch}, {'sorted' if is_sorted else 'in order'}", lines, (1, last), (0, top)))
    title = f"{comparison.title}: responses of the 3x3 layers"
    key = (("plain", True), ("residual", False))
    return Chart("layer_responses", title, caption, "layer", "standard deviation", panels, key=key, columns=2)


def gradient_chart(comparison: Comparison, caption: str) -> Chart | None:
    """Return a row for each architecture, a panel for each depth, a line for each measured step; None without any.

    The panels of a row have the same y axis. A norm of zero, of a dead network, has no place on it.
    """
    measured = [(cell, by_step) for cell in comparison.cells if cell.arch in MAIN and (by_step := gradients(cell))]
    panels, columns = [], 1
    for arch in MAIN:
        row = [(cell, by_step) for cell, by_step in measured if cell.arch == arch]
        positive = [norm for _, by_step in row for norms in by_step.values() for norm in norms if norm > 0]
        if positive:
            limits = (min(positive) / 1.2, max(positive) * 1.2)
            panels += [
                Panel(cell.name, _lines_by_step(by_step), (1, max(2, *map(len, by_step.values()))), limits, is_log=True)
                for cell, by_step in row
            ]
            columns = max(columns, len(row))
    title = f"{comparison.title}: L2 norms of the layers' gradients"
    return (
        Chart("gradient_norms", title, caption, "layer", "gradient norm", panels, columns=columns) if panels else None
    )


def _lines_by_step(by_step: dict[int, list[float]]) -> list[Line]:
    return [
        Line(
            f"step {step:,}",
            tuple((layer, norm) for layer, norm in enumerate(norms, start=1) if norm > 0),
            SHADES[min(index, len(SHADES) - 1)],
        )
        for index, (step, norms) in enumerate(by_step.items())
    ]
