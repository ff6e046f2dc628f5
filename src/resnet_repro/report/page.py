"""The report as one HTML page that loads nothing: figures, claims, the papers' tables, final errors, every run."""

import base64
import hashlib
import io
import platform
import re
from collections.abc import Iterable
from datetime import datetime
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from resnet_repro.papers import judgement, verdict_text, verdicts
from resnet_repro.papers import rows as paper
from resnet_repro.papers.verdicts import MIN_RUNS, Tables, Verdict
from resnet_repro.report import run_sections
from resnet_repro.report.figures import Drawn
from resnet_repro.runs.finished import DATA_TITLES, SPLITS, duration
from resnet_repro.runs.groups import Cell, Comparison
from resnet_repro.runs.options import CellKey

DASH = "–"
CLAIM_MARKS = {"holds": "✓", "does not hold": "✗", "not decided": "?"}
STATES = {
    "agrees": ("✓", f"the interval of the difference contains zero and stays within ±{verdicts.MARGIN:g} point"),
    "differs": ("✗", "the interval of the difference excludes zero, or most of our runs diverged"),
    "cannot tell": ("?", "neither is shown: our runs scatter, are few, or one of them diverged"),
    "too few runs": ("…", f"the paper's number is over several runs, ours over fewer than {MIN_RUNS}"),
    "not comparable": ("≠", "ours departs from the paper's recipe or test; how is said beside it"),
    "a curve": ("~", "the paper draws it and prints no number: see the figures"),
    "not run": ("○", "no finished run of ours"),
    "not possible here": ("–", "nothing here can reproduce it; why is said beside it"),
}
"""The states of a row of the papers, each with its mark and its meaning."""


def state(verdict: Verdict) -> str:
    """Return the key of STATES that a verdict is in."""
    return verdict.word or ("a curve" if verdict.ours else "not possible here")


def render(
    file: Path,
    *,
    sections: list[dict[str, Any]],
    judged: Tables,
    cells: dict[CellKey, Cell],
    comparisons: list[Comparison],
    notes: list[str],
) -> str:
    """Return the page's text.

    Args:
        file: where the page will lie.
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
    ids = run_sections.anchors(comparisons)
    templates = resources.files("resnet_repro.report").joinpath("templates")
    style, script = (templates.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template("page.html.j2").render(
        parts=[
            part
            | {
                "papers": sorted({each for run in comparison.runs for each in run_sections.papers_of(run.options)}),
                "figures": [figure(drawn, part["slug"]) for drawn in part["figures"]],
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
        "command": f"python train.py experiment={first.experiment}",
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


def figure(drawn: Drawn, stem: str) -> dict[str, Any]:
    """Return what the page holds of a figure, whose files lie beside the page."""
    return {
        "wide": data_uri(drawn.wide),
        "narrow": drawn.narrow and data_uri(drawn.narrow),
        "is_small": drawn.wide.get_figwidth() < 6,
        "alt": drawn.alt,
        "caption": drawn.caption,
        "files": {suffix.upper(): f"{drawn.name}_{stem}.{suffix}" for suffix in ("pdf", "png")},
    }


def data_uri(drawn: Figure) -> str:
    """Return a figure as a `data:` address, in 256 colours: a third of the size, and looks the same."""
    picture, small = io.BytesIO(), io.BytesIO()
    drawn.savefig(picture, format="png", dpi=160)
    Image.open(picture).convert("RGB").quantize(256).save(small, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(small.getvalue()).decode()


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


def time(seconds: float | None) -> str:
    """Return seconds as a duration in words, a dash for None."""
    return DASH if seconds is None else duration(seconds)


def number(value: float | None, spec: str = ",.0f") -> str:
    """Return a number as text, a dash for None and NaN."""
    return DASH if value is None or value != value else format(value, spec)
