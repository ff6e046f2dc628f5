"""What a figure shows, as plain values. The page draws a chart as SVG; `picture` draws the same for PNG and PDF."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

COLORS = {
    **{"c0": "#0072b2", "c1": "#a66300", "c2": "#007a5a", "c3": "#c32f10", "c4": "#7b3294", "c5": "#333333"},
    **{"c6": "#a0307a", "c7": "#6b6b00"},
    **{"s0": "#9ecae1", "s1": "#6baed6", "s2": "#4292c6", "s3": "#2171b5", "s4": "#08306b"},
}
"""Colours on white by their names: c0 to c7 differ in hue, s0 to s4 go from early to late. page.css has them, too."""
HUES = tuple(name for name in COLORS if name.startswith("c"))
SHADES = tuple(name for name in COLORS if name.startswith("s"))
MAX_SPACES = 5
NAME_HEIGHT = 0.075
"""Height of a name at a line's end, as a part of the panel's height."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a panel."""

    label: str
    """Whom it shows: `56-layer`."""
    points: Sequence[Point]
    color: str
    """A key of COLORS."""
    what: str = ""
    """What it shows if lines of one panel share a label: `training error`."""
    is_dashed: bool = False
    is_named: bool = True
    """Whether its label stands at its end."""
    band: Sequence[tuple[float, float, float]] = ()
    """Lowest and highest y by x: (x, lowest, highest)."""


class Name(NamedTuple):
    """A label at the end of a line, placed in parts of the panel's width and height, from the left and the bottom."""

    text: str
    color: str
    x: float
    y: float
    is_beyond: bool = False
    """Whether the line ends above the panel; the name then stands at its right edge, at the top."""


@dataclass(frozen=True)
class Panel:
    """Lines over the same axes; lines are cut off at the edges of `x` and `y`."""

    title: str
    lines: Sequence[Line]
    x: tuple[float, float]
    y: tuple[float, float]
    is_log: bool = False
    """Whether the y axis is logarithmic."""

    def height(self, y: float) -> float:
        """Return how high a value is, 0 at the bottom and 1 at the top."""
        bottom, top = map(self.scaled, self.y)
        return (self.scaled(y) - bottom) / (top - bottom)

    def scaled(self, y: float) -> float:
        return math.log10(y) if self.is_log else y

    @property
    def x_ticks(self) -> list[float]:
        """Return both ends and the whole number in the middle."""
        first, last = self.x
        return sorted({first, float(round((first + last) / 2)), last})

    @property
    def y_ticks(self) -> list[float]:
        """Return round numbers; on a logarithmic axis powers of ten, or thirds of them, too, if there are few."""
        bottom, top = self.y
        if self.is_log:
            first, last = math.ceil(math.log10(bottom)), math.floor(math.log10(top))
            if last - first < 2:
                ticks = [factor * 10.0**exponent for exponent in range(first - 1, last + 1) for factor in (1, 3)]
            else:
                ticks = [10.0**exponent for exponent in range(first, last + 1, math.ceil((last - first + 1) / 5))]
            return [tick for tick in ticks if bottom <= tick <= top]
        spaces = (factor * 10**exponent for exponent in range(-1, 300) for factor in (1, 2, 5))
        space = next(space for space in spaces if (top - bottom) / space <= MAX_SPACES)
        return [bottom + number * space for number in range(math.floor((top - bottom) / space + 1e-9) + 1)]

    @property
    def names(self) -> list[Name]:
        """Return the labels at the lines' ends, moved apart where they would overlap."""
        ends = [(line, *line.points[-1]) for line in self.lines if line.is_named and line.points]
        beyond = [(line, y) for line, _, y in ends if y > self.y[1]]
        within = [end for end in ends if end[2] <= self.y[1]]
        heights = spread([self.height(max(y, self.y[0])) for _, _, y in within], gap=NAME_HEIGHT)
        first, last = self.x
        return [
            Name(f"{line.label} ends at {y:.3g} ↑", line.color, 1.0, 1 - NAME_HEIGHT * (index + 0.5), is_beyond=True)
            for index, (line, y) in enumerate(beyond)
        ] + [
            Name(line.label, line.color, (x - first) / (last - first), height)
            for (line, x, _), height in zip(within, heights, strict=True)
        ]


def round_number(tick: float) -> str:
    """Return a tick as text: `0.01`, `20`, and `10⁻⁶` for a power of ten of many digits."""
    if tick and not 1e-3 <= abs(tick) < 1e4:
        factor, _, exponent = f"{tick:e}".partition("e")
        power = "10" + str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return power if float(factor) == 1 else f"{float(factor):g}·{power}"
    return f"{tick:g}"


@dataclass(frozen=True)
class Chart:
    """A figure: panels with the same quantities on their axes."""

    name: str
    """The beginning of its files' names."""
    title: str
    caption: str
    x_label: str
    y_label: str
    panels: Sequence[Panel]
    unit: str = ""
    """What stands behind a value: ` %`."""
    key: Sequence[tuple[str, bool]] = ()
    """What dashed (True) and solid lines are."""
    columns: int = 3
    """Panels side by side, where there is room."""


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


# --- PNG and PDF ------------------------------------------------------------------------------------------------------


PLOT = 2.7, 1.9
"""Width and height of a panel's axes in inches."""
LEFT, TOP, BOTTOM = 0.75, 0.35, 0.5
"""What stands around the axes of each panel, in inches: numbers, title, and below numbers and their name."""
HEAD, FOOT, LETTER = 0.3, 0.3, 0.075
"""Height of the figure's title and of its key, and width of a letter, in inches."""


def picture(chart: Chart) -> Figure:
    """Return a chart as a figure of matplotlib, whose type has one size however many panels there are.

    Places are computed here: matplotlib's own layout takes as long as drawing.
    """
    columns = min(chart.columns, len(chart.panels))
    rows = math.ceil(len(chart.panels) / columns)
    letters = max((len(name.text) for panel in chart.panels for name in panel.names if not name.is_beyond), default=0)
    (width, height), right = PLOT, LETTER * letters + 0.15
    size = columns * (LEFT + width + right), HEAD + rows * (TOP + height + BOTTOM) + FOOT
    figure = Figure(figsize=size)
    places = {
        "left": LEFT / size[0],
        "right": 1 - right / size[0],
        "top": 1 - (HEAD + TOP) / size[1],
        "bottom": (BOTTOM + FOOT) / size[1],
        "wspace": (LEFT + right) / width,
        "hspace": (TOP + BOTTOM) / height,
    }
    grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw=places).flatten().tolist()
    for axes, panel in zip(grid, chart.panels, strict=False):
        _draw(axes, panel)
        axes.set_xlabel(chart.x_label, fontsize=9)
        axes.set_ylabel(chart.y_label, fontsize=9)
        axes.xaxis.set_label_coords(0.5, -0.28 / height)
        axes.yaxis.set_label_coords(-0.5 / width, 0.5)
    for axes in grid[len(chart.panels) :]:
        axes.remove()
    title = textwrap.fill(chart.title, int(size[0] / LETTER))
    figure.suptitle(title, y=1 - 0.05 / size[1], va="top", fontsize=9)
    if chart.key:
        handles = [Line2D([], [], color="#444444", label=text, **_stroke(is_dashed)) for text, is_dashed in chart.key]  # type: ignore[arg-type]
        figure.legend(handles=handles, loc="lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _stroke(is_dashed: bool) -> dict[str, object]:
    return {"linestyle": (0, (3, 1.5)), "linewidth": 1.0} if is_dashed else {"linestyle": "-", "linewidth": 1.8}


def _draw(axes: Axes, panel: Panel) -> None:
    if panel.is_log:
        axes.set_yscale("log")
        axes.minorticks_off()
    for line in panel.lines:
        color = COLORS[line.color]
        axes.plot(*zip(*line.points, strict=True), color=color, label=line.label, **_stroke(line.is_dashed))  # type: ignore[arg-type]
        if line.band:
            steps, low, high = zip(*line.band, strict=True)
            axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_xlim(panel.x)
    axes.set_ylim(panel.y)
    axes.set_xticks(panel.x_ticks, [f"{tick:,.0f}" for tick in panel.x_ticks])
    axes.set_yticks(panel.y_ticks, [round_number(tick) for tick in panel.y_ticks])
    axes.tick_params(labelsize=9)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(panel.title, y=1.0, fontsize=10, fontweight="bold")
    for name in panel.names:
        axes.annotate(
            name.text, (name.x, name.y), xycoords="axes fraction", xytext=(0 if name.is_beyond else 4, 0),
            textcoords="offset points", color=COLORS["c5" if name.color in SHADES else name.color],
            ha="right" if name.is_beyond else "left", va="center", fontsize=9, annotation_clip=False,
        )  # fmt: skip


def save(figure: Figure, path: Path) -> None:
    """Save the figure as PNG (200 dots an inch) and PDF beside `path`; the same bits every time."""
    figure.savefig(path.with_suffix(".png"), dpi=200)
    figure.savefig(path.with_suffix(".pdf"), metadata={"CreationDate": None})
