"""Finished runs as tables, figures, claims and one HTML page in outputs/report/."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resnet_repro.papers import judgement, rows, verdict_text, verdicts
from resnet_repro.papers.verdicts import Tables, Verdict
from resnet_repro.report import figures as gallery
from resnet_repro.report import page, training_curves
from resnet_repro.runs.finished import FinishedRun, read
from resnet_repro.runs.groups import Cell, Comparison, group
from resnet_repro.runs.options import CellKey
from resnet_repro.runs.recipes import LR, LR_WITHOUT_BATCH_NORM

COLORS = {"holds": "green", "does not hold": "red", "not decided": "yellow"}


def write(outputs: Path, console: Console, *, kept: Sequence[Path] = ()) -> Path:
    """Print tables and verdicts of the runs below `outputs` and `kept`, write outputs/report/, return its page's path.

    Raises:
        UserError: if no run is finished.
    """
    runs, unfinished = read(outputs, *kept)
    comparisons = group(runs)
    folder = outputs / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (path for name in gallery.NAMES for path in folder.glob(f"{name}_*")):
        stale.unlink()
    cells = verdicts.cells_of_rows(comparisons)
    judged = verdicts.judge_cells(cells)
    sections = [section(comparison, cells, judged) for comparison in comparisons]
    for comparison, part in zip(comparisons, sections, strict=True):
        part["figures"] = list(gallery.draw(comparison))
        for drawn in part["figures"]:
            training_curves.save(drawn.wide, folder / f"{drawn.name}_{comparison.slug}")
        _print_section(part, console)
    if tables := verdicts.with_numbers(judged):
        verdict_text.show(tables, console)
    notes = _notes(runs, comparisons, unfinished, kept=kept) + _rates(comparisons)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    (folder / "report.json").write_text(_to_json(sections, tables, notes), encoding="utf-8")
    file = folder / "index.html"
    html = page.render(file, sections=sections, judged=judged, cells=cells, comparisons=comparisons, notes=notes)
    file.write_text(html, encoding="utf-8")
    return file


def _notes(
    runs: list[FinishedRun], comparisons: list[Comparison], unfinished: list[str], *, kept: Sequence[Path]
) -> list[str]:
    """Return a line for each reason to leave runs out, and for each folder of runs that were made elsewhere."""
    counted = {run.directory for comparison in comparisons for run in comparison.runs}
    reasons = {
        "not finished": unfinished,
        "left out, as a later run has the same network and seed": [r.label for r in runs if r.directory not in counted],
    } | {
        f"kept in {folder}/": [r.label for r in runs if r.directory.is_relative_to(folder) and r.directory in counted]
        for folder in kept
    }
    return [
        f"{len(labels)} {'run is' if len(labels) == 1 else 'runs are'} {reason}: {', '.join(labels)}"
        for reason, labels in reasons.items()
        if labels
    ]


def _rates(comparisons: list[Comparison]) -> list[str]:
    """Return a line on the comparators whose rate is not that of the other networks in their table."""
    cells = [cell for comparison in comparisons for cell in comparison.cells if cell.depth is None]
    names = dict.fromkeys(
        cell.name
        for cell in cells
        if "schedule.lr" not in cell.runs[0].manifest["departures"] and cell.runs[0].options.schedule.lr != LR
    )
    return (
        [f"Without batch norm, and so begun at a rate of {LR_WITHOUT_BATCH_NORM}: {', '.join(names)}"] if names else []
    )


def section(comparison: Comparison, cells: dict[CellKey, Cell], judged: Tables) -> dict[str, Any]:
    """Return what the report says about one comparison: plain values, for terminal, page and JSON alike."""
    departs = departures(comparison)
    return {
        "title": comparison.title,
        "slug": comparison.slug,
        "data": comparison.data,
        "steps": comparison.steps,
        "splits": comparison.splits,
        "departs": departs,
        "archs": list(dict.fromkeys(cell.arch for cell in comparison.cells)),
        "rows": [row(cell, comparison, cells, judged) for cell in comparison.cells],
        "claims": [each._asdict() for each in judgement.judge(comparison)],
    }


def departures(comparison: Comparison) -> str:
    """Return why numbers on the papers' data are not comparable with theirs; empty if they are."""
    if all(row.options.get("data") != comparison.data for row in rows.registry()):
        return ""
    parts = [part for part in rows.deviations(comparison.runs[0].manifest) if not part.startswith("schedule.warmup")]
    return ", ".join(parts) and ", ".join(parts) + ": not comparable"  # a warm-up stands in the network's name


def row(cell: Cell, comparison: Comparison, cells: dict[CellKey, Cell], judged: Tables) -> dict[str, Any]:
    """Return one row of the table: our errors in %, the published error, and the cost of the runs."""
    published = rows.published(cell.runs[0].options)
    verdict = verdicts.of_cell(published, cell, cells, judged) if published else None
    return {
        "network": cell.name,
        "arch": cell.arch,
        "depth": cell.depth,
        "num_parameters": cell.runs[0].manifest["num_parameters"],
        "seeds": [run.seed for run in cell.runs],
        "num_diverged": cell.num_diverged,
        "errors": {split: cell.error(split) for split in comparison.splits},
        "published": published,
        "verdict": verdict.word if verdict else "",
        "difference": verdict.difference if verdict else None,
        "images_per_s": cell.mean("images_per_s"),
        "wall_time_s": cell.mean("wall_time_s"),
    }


def _table(part: dict[str, Any], *, with_costs: bool) -> Table:
    caption = f"Final errors in %: mean ± std over n seeds. {part['departs']}".strip()
    table = Table(title=part["title"], caption=caption, title_justify="left", caption_justify="left")
    table.box, table.pad_edge, table.collapse_padding = box.SIMPLE_HEAD, False, True
    has_paper = any(row["published"] for row in part["rows"])
    table.add_column("network")
    for name in ["n", *part["splits"], *(["paper: test", "ours - paper"] if has_paper else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for name in ["params", "images/s", "time"] if with_costs else []:
        table.add_column(name, justify="right", no_wrap=True)
    for row in part["rows"]:
        cells = [str(len(row["seeds"])), *(str(row["errors"][split] or page.DASH) for split in part["splits"])]
        if has_paper:
            published = row["published"].compared if row["published"] else page.DASH
            cells += [published, page.number(row["difference"], "+.2f")]
        if with_costs:
            millions = f"{row['num_parameters'] / 1e6:.2f} M"
            cells += [millions, page.number(row["images_per_s"]), page.time(row["wall_time_s"])]
        diverged = f" ({row['num_diverged']} diverged)" if row["num_diverged"] else ""
        table.add_row(escape(row["network"] + diverged), *cells)
    return table


def _print_section(part: dict[str, Any], console: Console) -> None:
    table = _table(part, with_costs=True)
    wide = console.options.update(max_width=1_000)
    if console.measure(table, options=wide).maximum > console.width:  # the page has the costs
        table = _table(part, with_costs=False)
    console.print(table)
    for claim in part["claims"]:
        color = COLORS[claim["verdict"]]
        console.print(
            f"[{color}]{page.CLAIM_MARKS[claim['verdict']]} {claim['verdict']}[/]: {escape(claim['sentence'])}",
            highlight=False,
        )
        # not wrapped: a command must stay one line to be copied
        text = f"  {claim['numbers']} {claim['command']}".rstrip()
        console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)
    console.print()


def _to_json(sections: list[dict[str, Any]], tables: Tables, notes: list[str]) -> str:
    def plain(value: Any) -> Any:
        if hasattr(value, "_asdict"):
            return plain(value._asdict())
        if isinstance(value, (rows.Published, Verdict)):
            return plain(vars(value))
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key != "figures"}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain({"protocols": sections, "tables": tables, "notes": notes}), indent=2) + "\n"
