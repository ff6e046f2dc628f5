"""Finished runs as an answer, tables, figures and claims: on the terminal, and as one HTML page in outputs/report/."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from resnet_repro.papers import answer, judgement, rows, verdicts
from resnet_repro.papers.answer import Answer
from resnet_repro.papers.verdicts import Tables, Verdict
from resnet_repro.report import charts, figures, page, terminal
from resnet_repro.report.training_curves import MAIN
from resnet_repro.runs.finished import FinishedRun, read
from resnet_repro.runs.groups import Cell, Comparison, group
from resnet_repro.runs.options import CellKey
from resnet_repro.runs.recipes import LR, LR_WITHOUT_BATCH_NORM


def write(
    outputs: Path,
    console: Console,
    *,
    kept: Sequence[Path] = (),
    with_details: bool = False,
    command: str = "python report.py",
) -> Path:
    """Write outputs/report/ from the runs below `outputs` and `kept`, print the answer, return the page's path.

    Args:
        with_details: also print every table, claim and note.
        command: what a person typed, to be named with `details=true` behind it.

    Raises:
        UserError: if no run is finished.
    """
    runs, unfinished = read(outputs, *kept)
    grouped = group(runs)
    ranked = answer.answers(grouped)
    comparisons = [each.comparison for each in ranked]
    folder = outputs / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (path for name in figures.NAMES for path in folder.glob(f"{name}_*")):
        stale.unlink()
    cells = verdicts.cells_of_rows(grouped)
    judged = verdicts.judge_cells(cells)
    sections = [section(comparison, cells, judged) for comparison in comparisons]
    for part in sections:
        for chart in part["charts"]:
            charts.save(charts.picture(chart), folder / f"{chart.name}_{part['slug']}")
    best = sections[0]
    tables = verdicts.with_numbers(judged)
    notes = _notes(runs, comparisons, unfinished, kept=kept)
    rates = _rates(comparisons)
    in_full = [f"{about}: {', '.join(labels)}" for about, labels in notes.items()] + rates
    (folder / "report.json").write_text(_to_json(ranked[0], sections, tables, in_full), encoding="utf-8")
    file = folder / "index.html"
    html = page.render(
        file,
        answers=ranked,
        best=best,
        by_depth=by_depth(best),
        sections=sections,
        judged=judged,
        cells=cells,
        comparisons=comparisons,
        notes=in_full,
    )
    file.write_text(html, encoding="utf-8")
    if with_details:
        terminal.show_details(sections, tables, in_full, console)
    terminal.show_answer(ranked, by_depth(best), [] if with_details else list(notes), console)
    terminal.show_files(file, ranked, console, command="" if with_details else command)
    return file


def _notes(
    runs: list[FinishedRun], comparisons: list[Comparison], unfinished: list[str], *, kept: Sequence[Path]
) -> dict[str, list[str]]:
    """Return the runs that are left out by the reason, and those that were made elsewhere by their folder."""
    counted = {run.directory for comparison in comparisons for run in comparison.runs}
    reasons = {
        "not finished": unfinished,
        "left out, as a later run has the same network and seed": [r.label for r in runs if r.directory not in counted],
    } | {
        f"kept in {folder}/": [r.label for r in runs if r.directory.is_relative_to(folder) and r.directory in counted]
        for folder in kept
    }
    return {
        f"{len(labels)} {'run is' if len(labels) == 1 else 'runs are'} {reason}": labels
        for reason, labels in reasons.items()
        if labels
    }


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
        "charts": list(figures.draw(comparison)),
    }


def by_depth(part: dict[str, Any]) -> dict[str, Any]:
    """Return the networks without departures as a table: a row for each depth, a column for each architecture."""
    networks = {(row["arch"], row["depth"]): row for row in part["rows"] if row["arch"] in MAIN}
    archs = list(dict.fromkeys(arch for arch, _ in networks))
    depths = sorted({depth for _, depth in networks})
    held_out = "val" if "test" not in part["splits"] else "test"
    return {
        "title": part["title"],
        "splits": ["train", held_out],
        "archs": archs,
        "has_paper": [any(row["published"] for (other, _), row in networks.items() if other == arch) for arch in archs],
        "rows": [{"depth": depth, "networks": [networks.get((arch, depth)) for arch in archs]} for depth in depths],
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


def _to_json(best: Answer, sections: list[dict[str, Any]], tables: Tables, notes: list[str]) -> str:
    def plain(value: Any) -> Any:
        if hasattr(value, "_asdict"):
            return plain(value._asdict())
        if isinstance(value, (rows.Published, Verdict)):
            return plain(vars(value))
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key != "charts"}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    answered = {
        "word": best.word,
        "sentence": best.sentence,
        "basis": best.basis,
        "protocol": best.comparison.title,
        "effects": [
            {"shallow": each.shallow.name, "deep": each.deep.name, "holds": each.holds, "difference": each.gap.value,
             "uncertainty": each.gap.half_width}
            for each in best.effects
        ],
        "command": best.command,
    }  # fmt: skip
    everything = {"answer": answered, "protocols": sections, "tables": tables, "notes": notes}
    return json.dumps(plain(everything), indent=2) + "\n"
