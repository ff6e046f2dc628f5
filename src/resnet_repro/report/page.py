"""The report as one HTML page that loads nothing: the answer, then claims, figures, the papers' tables, every run."""

import base64
import hashlib
import platform
import re
from collections.abc import Iterable
from datetime import datetime
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from resnet_repro.conf_dir import command
from resnet_repro.papers import judgement, verdict_text, verdicts
from resnet_repro.papers import rows as paper
from resnet_repro.papers.answer import QUESTION, Answer
from resnet_repro.papers.verdicts import Tables, Verdict
from resnet_repro.report import charts, run_sections, svg
from resnet_repro.report.words import CLAIM_MARKS, DASH, STATES, number, state, time
from resnet_repro.runs.finished import DATA_TITLES, SPLITS
from resnet_repro.runs.groups import Cell, Comparison
from resnet_repro.runs.options import CellKey

LEAD = "training_curves"
"""The figure that stands beside the answer."""


def render(
    file: Path,
    *,
    answers: list[Answer],
    best: dict[str, Any],
    by_depth: dict[str, Any],
    sections: list[dict[str, Any]],
    judged: Tables,
    cells: dict[CellKey, Cell],
    comparisons: list[Comparison],
    notes: list[str],
) -> str:
    """Return the page's text.

    Args:
        file: where the page will lie.
        answers: what each group of runs says, the best evidence first.
        best: the section of the runs that the first answer rests on.
        by_depth: the errors of those runs, a row for each depth.
        judged: every table of the papers.
        cells: our runs of the papers' rows.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("resnet_repro.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "duration": time, "papers": papers_in, "slug": slug, "code": code}
    environment.filters |= {each.__name__: each for each in (svg.ends, svg.outline, svg.percent, svg.polyline)}
    environment.filters |= {each.__name__: each for each in (svg.room, svg.view_box, charts.round_number)}
    ids = run_sections.anchors(comparisons)
    templates = resources.files("resnet_repro.report").joinpath("templates")
    style, script = (templates.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(
        question=QUESTION,
        answer=answers[0],
        other_answers=[answer for answer in answers[1:] if not answer.missing],
        best=best,
        lead=LEAD,
        by_depth=by_depth,
        max_points=svg.MAX_POINTS,
        parts=[
            part
            | {
                "charts": [chart for chart in part["charts"] if part is not best or chart.name != LEAD],
                "missing": missing(part["claims"]),
                "papers": sorted({each for run in comparison.runs for each in run_sections.papers_of(run.options)}),
                "rows": [row | links(cell, ids) for row, cell in zip(part["rows"], comparison.cells, strict=True)],
                "provenance": run_sections.of_comparison(comparison, page=file, ids=ids),
            }
            for part, comparison in zip(sections, comparisons, strict=True)
        ],
        tables=[table(title, rows, cells, ids) for title, rows in judged.items()],
        style=Markup(style),
        script=Markup(script),
        policy=policy(style=style, script=script),
        states=STATES,
        rule=verdicts.RULE,
        rule_details=verdicts.DETAILS,
        claim_marks=CLAIM_MARKS,
        claim_rule=judgement.RULE,
        data_titles=DATA_TITLES,
        num_runs=len(ids),
        notes=notes,
        dash=DASH,
        names=SPLITS,
        versions={name: metadata.version(name) for name in ("resnet_repro", "matplotlib", "jinja2")}
        | {"Python": platform.python_version()},
        written=f"{datetime.now():%Y-%m-%d %H:%M}",
    )


def missing(claims: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the claims that lack runs by the command that makes the runs; by an empty text if no command does."""
    lacking: dict[str, list[dict[str, Any]]] = {}
    for claim in claims:
        if claim["lacks_runs"]:
            lacking.setdefault(claim["command"], []).append(claim)
    return lacking


def policy(*, style: str, script: str) -> str:
    """Return a content security policy: this style, this script, pictures within the page, nothing from elsewhere."""
    sources = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script))
    style_source, script_source = (f"'sha256-{source}'" for source in sources)
    return (
        f"default-src 'none'; img-src data:; style-src {style_source}; script-src {script_source}; "
        "base-uri 'none'; form-action 'none'"
    )


def table(title: str, judged: list[Verdict], cells: dict[CellKey, Cell], ids: dict[Path, str]) -> dict[str, Any]:
    """Return a table or figure of the papers, each row with its state, its numbers and links to our runs of it."""
    first = judged[0].row
    data = data_of(first.what)
    id = f"{first.experiment}-{data}"
    rows = [
        {
            "id": f"{id}-{index}",
            "printed": verdict.row.printed,
            "state": state(verdict),
            "numbers": verdict_text.numbers(verdict),
            "note": verdict_text.note(verdict),
            **links(cells.get(verdict.row.cell) if verdict.ours and verdict.row.cell else None, ids),
        }
        for index, verdict in enumerate(judged)
    ]
    reproducible = [verdict for verdict in judged if not verdict.row.why]
    return {
        "id": id,
        "title": title,
        "source": first.source,
        "what": first.what,
        "data": data,
        "rows": rows,
        "num_reproducible": len(reproducible),
        "num_with_runs": sum(verdict.ours is not None for verdict in reproducible),
        "why": paper.why_not([verdict.row for verdict in judged]),
        "command": f"{command('train')} experiment={first.experiment}",
    }


def links(cell: Cell | None, ids: dict[Path, str]) -> dict[str, Any]:
    """Return seed and section id of each run of a cell, and the papers that train its network."""
    if cell is None:
        return {"runs": [], "papers": []}
    runs = [(run.seed, ids[run.directory]) for run in cell.runs]
    return {"runs": runs, "papers": run_sections.papers_of(cell.runs[0].options)}


def data_of(what: str) -> str:
    """Return the data set that a table's title names: `cifar10` for "CIFAR-10 test error", `other` for PASCAL VOC."""
    return next((name for name, title in DATA_TITLES.items() if re.search(rf"\b{title}\b", what)), "other")


def slug(text: str) -> str:
    """Return a text as part of an id or a class: `CIFAR-10, 64,000 steps` is `cifar-10-64000-steps`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower().replace(",", "")).strip("-")


def code(text: str) -> Markup:
    """Return a text with the parts between backticks as code."""
    parts = enumerate(text.split("`"))
    return Markup().join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in parts)


def papers_in(texts: str | Iterable[str]) -> str:
    """Return the papers that one text or several name, as the page's filter reads them: `v1 v2`."""
    return " ".join(sorted(set(re.findall(r"\bv[12]\b", texts if isinstance(texts, str) else " ".join(texts)))))
