"""Our runs set against the papers' rows: a verdict each, with the numbers and the rule that it rests on."""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any, Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from resnet_repro import paper
from resnet_repro.config import Config
from resnet_repro.paper import Published
from resnet_repro.results import Cell, Protocol

Word = Literal["agrees", "differs", "too few runs", "not comparable", "not run", ""]

MIN_RUNS = 3  # fewer have no spread worth the name
OF_MEDIAN = math.sqrt(math.pi / 2)  # standard error of the median of a normal sample over that of its mean
RULE = (
    "Ours agrees where it differs by at most 2 standard errors, both sides' together: std / √n of a mean, "
    f"{OF_MEDIAN:.2f} std / √n of a median. Where the paper prints no std, ours stands in, and its number is one run "
    "unless it says more; where ours is one run, its std is the binomial one of the test images. A paper's number over "
    f"several runs asks for {MIN_RUNS} of ours. “over” agrees where ours is over it."
)


Tables = dict[str, list["Verdict"]]
"""Verdicts by the title of their table, `v1 Table 6: CIFAR-10 test error`."""


class Ours(NamedTuple):
    """Errors in % on the compared split over n runs; std is the sample standard deviation, 0 of one run."""

    n: int
    mean: float
    std: float
    best: float
    median: float

    def statistic(self, name: str) -> float:
        """The one that a paper prints: median or best, else the mean."""
        return {"median": self.median, "best": self.best}.get(name, self.mean)


@dataclass(frozen=True)
class Verdict:
    """A row of a paper beside our runs of it. `difference` and `uncertainty` (2 standard errors) are in points."""

    row: Published
    word: Word
    ours: Ours | None = None
    difference: float | None = None
    uncertainty: float | None = None
    reason: str = ""
    """Why there is nothing to compare, or why it may not be."""
    protocol: str = ""
    conditions: tuple[str, ...] = ()
    """How our runs differ from the paper's, and may."""


def judge(row: Published, manifests: list[dict[str, Any]]) -> Verdict:
    """The verdict on a row from the manifests of our runs of it, which differ in their seed alone."""
    if row.why:
        return Verdict(row, "", reason=row.why)
    if not manifests:
        return Verdict(row, "not run")
    ours = measure(manifests, split=row.split)
    config = manifests[0]["config"]
    told: dict[str, Any] = {
        "ours": ours,
        "protocol": config["protocol"]["name"],
        "conditions": _union(paper.conditions(manifest["config"]) for manifest in manifests),
    }
    assert row.cell is not None
    other_recipe = _union(_other_cell(row.cell, m["config"]) + paper.deviations(m) for m in manifests)
    departs = [*filter(None, [row.needs]), *other_recipe]
    if departs or ours is None:
        return Verdict(row, "not comparable", reason=", ".join(departs) or f"no {row.split} error", **told)
    if row.number is not None:
        difference, uncertainty = compare(row, ours, num_images=manifests[0]["results"][f"num_{row.split}_images"])
        told |= {"difference": difference, "uncertainty": uncertainty}
        agrees = abs(difference) <= uncertainty
    elif row.above is not None:
        agrees = ours.statistic(row.statistic) > row.above
    else:
        return Verdict(row, "", reason="a curve: see the report's figures", **told)
    is_too_few = ours.n < MIN_RUNS and bool(row.runs or row.mean is not None)
    return Verdict(row, "too few runs" if is_too_few else "agrees" if agrees else "differs", **told)


def _other_cell(wanted: Config, config: Config) -> list[str]:
    found = paper.cell_of(config)
    return [f"{key}={found[key]}, not {wanted.get(key)}" for key in found if found[key] != wanted.get(key)]


def compare(row: Published, ours: Ours, *, num_images: int) -> tuple[float, float]:
    """Ours minus the paper's, mean against mean where it prints one, and 2 standard errors of that, in points."""
    assert row.number is not None
    name = "" if row.mean is not None else row.statistic
    factor = OF_MEDIAN if name == "median" else 1.0
    spread = ours.std if ours.n > 1 else 100 * math.sqrt(row.number / 100 * (1 - row.number / 100) / num_images)
    theirs = (spread if row.std is None else row.std) / math.sqrt(row.runs or 1)
    return ours.statistic(name) - row.number, 2 * factor * math.hypot(spread / math.sqrt(ours.n), theirs)


def measure(manifests: list[dict[str, Any]], *, split: str = "test") -> Ours | None:
    """Our statistics; None where no run has an error on that split. A diverged run without one counts as 100 %."""
    errors = []
    for results in (manifest["results"] for manifest in manifests):
        error = results.get(f"{split}/error")
        if error is not None and math.isfinite(error):
            errors.append(error)
        elif results.get("diverged_at") is not None:
            errors.append(100.0)
    if not errors:
        return None
    std = statistics.stdev(errors) if len(errors) > 1 else 0.0
    return Ours(len(errors), statistics.fmean(errors), std, min(errors), statistics.median(errors))


def _union(lists: Iterable[list[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for words in lists for word in words))


def judge_all(sources: Iterable[str], manifests_of: Callable[[Published], list[dict[str, Any]]]) -> Tables:
    """The verdicts on every row of these tables of the papers, from our runs of each."""
    judged: Tables = {}
    for row in (row for source in sources for row in paper.tables()[source]):
        judged.setdefault(f"{row.source}: {row.what}", []).append(judge(row, manifests_of(row)))
    return judged


def cells_of_rows(protocols: list[Protocol]) -> dict[str, Cell]:
    """Our cell of each row, by the text of the row's own. Of several a comparable one counts, then the longest."""
    cells = [cell for protocol in protocols for cell in protocol.cells]
    cells.sort(key=lambda cell: (not paper.deviations(cell.runs[0].manifest), cell.runs[0].config["schedule"]["steps"]))
    return {str(paper.cell_of(cell.runs[0].config)): cell for cell in cells}


def judge_cells(cells: dict[str, Cell]) -> Tables:
    """Every table and figure of the papers, judged on our cells of their rows."""
    manifests = {key: [run.manifest for run in cell.runs] for key, cell in cells.items()}
    return judge_all(paper.tables(), lambda row: manifests.get(str(row.cell), []))


def with_numbers(tables: Tables) -> Tables:
    """Those that have a printed number beside one of ours."""
    return {title: found for title, found in tables.items() if any(v.ours and v.row.has_number for v in found)}


# --- for people -------------------------------------------------------------------------------------------------------

COLORS = {"agrees": "green", "differs": "red", "too few runs": "yellow", "not comparable": "yellow"}


def show(tables: Tables, console: Console) -> None:
    """Print the tables, each number of the paper beside ours, and the rule of their verdicts."""
    for title, verdicts in tables.items():
        console.print(draw(title, verdicts), "")
    console.print(RULE, style="dim", highlight=False)


def draw(title: str, verdicts: list[Verdict]) -> Table:
    """One table, with a letter for each reason or condition that stands below it."""
    drawn = Table(title=title, title_justify="left", caption_justify="left")
    drawn.box, drawn.pad_edge, drawn.collapse_padding = box.SIMPLE_HEAD, False, True
    drawn.add_column("error in %", min_width=14)
    for name in ("paper", "ours", "ours - paper"):
        drawn.add_column(name, justify="right", no_wrap=True)
    drawn.add_column("verdict", min_width=14)
    letters: dict[str, str] = {}
    for verdict in verdicts:
        text = note(verdict)
        mark = f" [{letters.setdefault(text, ascii_lowercase[len(letters)])}]" if text else ""
        said = Text(verdict.word + mark, style=COLORS.get(verdict.word, "dim"))
        drawn.add_row(Text(verdict.row.printed), *numbers(verdict).values(), said)
    drawn.caption = Text("\n".join(f"[{letter}] {text}" for text, letter in letters.items()))
    return drawn


def note(verdict: Verdict) -> str:
    """Why there is no verdict, and under which protocol and conditions our runs were made; often empty."""
    protocol = [f"protocol {', '.join([verdict.protocol, *verdict.conditions])}"] if verdict.protocol else []
    return "; ".join([*([verdict.reason] if verdict.reason else []), *protocol])


def numbers(verdict: Verdict) -> dict[str, str]:
    """The paper's number, ours and the difference as text, several lines each; empty where there is none."""
    row, ours = verdict.row, verdict.ours
    printed = [", ".join(filter(None, (row.headline, row.about)))]
    printed += [] if row.mean is None else [f"mean {row.mean:.2f} ± {row.std:.2f}"]
    texts = {"paper": "\n".join(printed), "ours": "", "difference": ""}
    if ours and ours.n == 1:
        texts["ours"] = f"{ours.mean:.2f}, 1 run"
    elif ours:
        lines = {
            "mean": f"{ours.mean:.2f} ± {ours.std:.2f}",
            "best": f"{ours.best:.2f}",
            "median": f"{ours.median:.2f}",
        }
        own = row.statistic or "mean"
        rest = [f"{name} {text}" for name, text in lines.items() if name != own]
        texts["ours"] = "\n".join([f"{lines[own]}, {own} of {ours.n}", *rest])
    if verdict.difference is not None:
        texts["difference"] = f"{verdict.difference:+.2f} ± {verdict.uncertainty:.2f}"
    return texts
