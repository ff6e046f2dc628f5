"""How the page's template writes a panel as SVG: filters that turn values into attributes.

A line's points are its data: `viewBox` alone scales them, so page.js reads steps and errors from the picture. Texts
stand outside of that box, at percentages of its size, and so keep their size at any width.
"""

from collections.abc import Sequence

from resnet_repro.report.charts import Line, Panel, Point

MAX_POINTS = 200
ROOMS = (8, 12, 16, 24)
"""Letters of a name that page.css has a margin for (`.room-8`)."""


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most MAX_POINTS of the points, evenly spaced, with the first and the last."""
    if len(points) <= MAX_POINTS:
        return list(points)
    stride = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(stride * i)] for i in range(MAX_POINTS)]


def view_box(panel: Panel) -> str:
    """Return the panel's axes as a viewBox, with y upwards once the lines are mirrored."""
    (first, last), (bottom, top) = panel.x, map(panel.scaled, panel.y)
    return f"{first:g} {-top:.6g} {last - first:.10g} {top - bottom:.6g}"


def polyline(line: Line, panel: Panel) -> str:
    """Return the points of a line, logarithms of y if the panel's axis is logarithmic."""
    return " ".join(f"{x:.10g},{panel.scaled(y):.6g}" for x, y in thinned(line.points))


def outline(line: Line) -> str:
    """Return the points around a line's band: along its lower edge and back along its upper edge."""
    low, high = thinned([(x, low) for x, low, _ in line.band]), thinned([(x, high) for x, _, high in line.band])
    return " ".join(f"{x:.10g},{y:.6g}" for x, y in [*low, *reversed(high)])


def percent(part: float) -> str:
    """Return a part of the panel's width or height as an attribute: 0.25 is `25%`."""
    return f"{100 * part:.4g}%"


def room(panels: Sequence[Panel]) -> int:
    """Return which of ROOMS the names at the lines' ends need."""
    longest = max((len(name.text) for panel in panels for name in panel.names if not name.is_beyond), default=0)
    return next((letters for letters in ROOMS if longest <= letters), ROOMS[-1])


def ends(panel: Panel, unit: str) -> str:
    """Return in words how each line ends, for whoever does not see the picture."""
    spec = ".2f" if unit else ".3g"
    parts = (
        f"{line.label}{', ' * bool(line.what)}{line.what} ends at {line.points[-1][1]:{spec}}{unit}"
        for line in panel.lines
        if line.points
    )
    return f"{panel.title}: {'; '.join(parts)}.".removeprefix(": ")
