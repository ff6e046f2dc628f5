"""The layers of a network as v1 Table 1 prints them: stage by stage, with parameters and multiply-adds."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from resnet_repro.networks.parts import parts
from resnet_repro.papers import rows as paper
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Run


def show(jobs: Iterable[Job], *, console: Console | None = None) -> int:
    """Print each network of the jobs once, with the papers' counts if they print any.

    Returns:
        Exit status 0.
    """
    console = console or Console(soft_wrap=True)
    networks = {(job.run.network, job.run.images): job.run for job in jobs}
    for run in networks.values():
        console.print(_table(run), highlight=False)
    return 0


def _table(run: Run) -> Table:
    network, data = run.network, run.data
    rows = parts(network, run.images)
    drawn = Table(title=f"{network.title}, on {' × '.join(map(str, data.image))} ({data.name})", show_lines=True)
    for heading in ("", "output", "layers"):
        drawn.add_column(heading, no_wrap=heading != "layers")  # may be narrower; a number is never cut off
    for heading in ("parameters", "multiply-adds"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        numbers = (f"{row.parameters:,}", f"{row.multiply_adds:,}")
        drawn.add_row(row.name, f"{row.size}×{row.size}", row.layers, *numbers)
    if len(rows) > 1:
        totals = (sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows))
        drawn.add_row("in all", "", "", *(f"{total:,}" for total in totals))
    if printed := [row for row in paper.registry() if _is_printed_of(row, run)]:
        millions = next((f"{row.params_m:g} M" for row in printed if row.params_m), "")
        giga = next((f"{row.multiply_adds_g:g} × 10⁹" for row in printed if row.multiply_adds_g), "")
        drawn.add_row("printed", "", ", ".join(dict.fromkeys(row.source for row in printed)), millions, giga)
    return drawn


def _is_printed_of(row: paper.Published, run: Run) -> bool:
    """Return whether a row counts this network, plain or residual: the papers give one number for any shortcut."""
    if not run.network.of_units or row.cell is None or not (row.params_m or row.multiply_adds_g):
        return False
    ours, theirs = run.cell.as_dict(), row.cell.as_dict()
    return all(theirs[key] == ours[key] for key in ("data", "depth", "order", "mix", "unit"))
