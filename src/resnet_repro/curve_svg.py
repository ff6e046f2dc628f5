"""A run's curves as a small drawing in the page itself: a few kB, in the page's own colours."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from resnet_repro.evidence import SPLITS
from resnet_repro.figures import LIMITS
from resnet_repro.finished import Run

MAX_POINTS = 200
WIDTH, HEIGHT = 440, 190  # pixels, of the whole
LEFT, TOP, RIGHT, BOTTOM = 36, 10, 12, 34  # margins
SPACES = (0.5, 1, 2, 5, 10, 20)  # %, between the lines across
MAX_SPACES = 5


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MAX_POINTS of them, evenly over their order, the first and the last among them."""
    if len(points) <= MAX_POINTS:
        return list(points)
    stride = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(stride * i)] for i in range(MAX_POINTS)]


def top_of(lines: dict[str, list[tuple[float, float]]]) -> float:
    """Top of the y axis in %: over what comes after the first quarter of the points, so that the end can be read."""
    late = [error for points in lines.values() for _, error in points[len(points) // 4 :]]
    return next((limit for limit in LIMITS if limit >= max(late, default=100.0)), 100)


def draw(run: Run) -> Markup:
    """Error in % over steps, a line a split; what is above the y axis is cut off. Empty where nothing was measured."""
    lines = {}
    for split in SPLITS:
        errors = zip(run.curves["step"], run.curves.get(f"{split}/error", []), strict=False)
        if points := [(step, error) for step, error in errors if math.isfinite(error)]:
            lines[split] = thinned(points)
    if not lines:
        return Markup()
    top, last = top_of(lines), max(step for points in lines.values() for step, _ in points) or 1
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    grid, paths = [], []
    space = next(space for space in SPACES if top / space <= MAX_SPACES)
    for level in range(round(top / space) + 1):
        y = TOP + height * (1 - level * space / top)
        grid.append(f'<path class="grid" d="M{LEFT} {y:g}h{width}"/>')
        grid.append(f'<text x="{LEFT - 5}" y="{y + 4:g}" text-anchor="end">{level * space:g}</text>')
    for part, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        x = LEFT + part * width
        grid.append(f'<text x="{x:g}" y="{HEIGHT - 18}" text-anchor="{anchor}">{part * last:,.0f}</text>')
    for split, points in lines.items():
        places = [f"{step / last * width:.0f} {(1 - error / top) * height:.1f}" for step, error in points]
        paths.append(f'<path class="curve {split}" d="M{"L".join(places)}"/>')
    ends = ", ".join(f"{SPLITS[split]} error {points[-1][1]:.2f} %" for split, points in lines.items())
    label = f"Error over {last:,.0f} steps, at the end: {ends}."
    return Markup(
        f'<svg class="curves" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(grid)}'
        f'<text x="{LEFT + width / 2:g}" y="{HEIGHT - 4}" text-anchor="middle">step</text>'
        # an svg in the svg cuts off what lies outside it
        f'<svg x="{LEFT}" y="{TOP}" width="{width}" height="{height}">{"".join(paths)}</svg></svg>'
    )
