"""Our runs set against the papers' rows: a verdict each, with the numbers and the rule that it rests on."""

import math
import shlex
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from resnet_repro import paper
from resnet_repro.config import Config
from resnet_repro.finished import Run
from resnet_repro.paper import Published
from resnet_repro.results import Cell, Protocol

Word = Literal["agrees", "differs", "too few runs", "not comparable", "not run", ""]

MIN_RUNS = 3  # fewer have no spread worth the name
OF_MEDIAN = math.sqrt(math.pi / 2)  # standard error of the median of a normal sample over that of its mean
RULE = (
    "Ours agrees where it differs by at most 2 standard errors, both sides' together: std / √n of a mean, "
    f"{OF_MEDIAN:.2f} std / √n of a median. Where the paper prints no std, ours stands in, and its number is one run "
    "unless it says more; where ours is one run, its std is the binomial one of the test images. A paper's number over "
    f"several runs asks for {MIN_RUNS} of ours. “over” agrees where ours is over it. Images are tested as the paper "
    "tested them: one crop or ten, several scales or 320. A top-5 error stands beside and decides nothing."
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


class Top5(NamedTuple):
    """Our top-5 error where the paper prints one; difference and 2 standard errors in points, None as of top-1."""

    ours: Ours
    difference: float | None
    uncertainty: float | None


@dataclass(frozen=True)
class Verdict:
    """A row of a paper beside our runs of it. `difference` and `uncertainty` (2 standard errors) are in points."""

    row: Published
    word: Word
    ours: Ours | None = None
    difference: float | None = None
    uncertainty: float | None = None
    top5: Top5 | None = None
    reason: str = ""
    """Why there is nothing to compare, or why it may not be."""
    test: str = "1crop"
    """How ours was tested: in the row's own way, or with one crop where that has not been done."""
    protocol: str = ""
    conditions: tuple[str, ...] = ()
    """How our runs differ from the paper's, and may."""


def judge(row: Published, runs: list[Run]) -> Verdict:
    """The verdict on a row from our runs of it, which differ in their seed alone."""
    if row.why:
        return Verdict(row, "", reason=row.why)
    if not runs:
        return Verdict(row, "not run")
    assert row.cell is not None
    untested = [run for run in runs if not (run.tested(row.test, row.split) or _has_diverged(run))]
    test = "1crop" if untested else row.test
    ours = measure(runs, split=row.split, test=test)
    top5 = None if row.top5 is None else measure(runs, split=row.split, test=test, key="error_top5")
    told: dict[str, Any] = {
        "ours": ours,
        "top5": top5 and Top5(top5, None, None),
        "test": test,
        "protocol": runs[0].config["protocol"]["name"],
        "conditions": _union(_conditions(run, run.tested(test, row.split)) for run in runs),
    }
    if other_recipe := _union(_other_cell(row.cell, run.config) + paper.deviations(run.manifest) for run in runs):
        return Verdict(row, "not comparable", reason=", ".join(other_recipe), **told)
    if untested:
        return Verdict(row, "not comparable", reason=_how_to_test(untested, row.test), **told)
    if ours is None:
        return Verdict(row, "not comparable", reason=f"no {row.split} error", **told)
    if row.number is not None:
        tested = next(filter(None, (run.tested(way, row.split) for way in (test, "1crop") for run in runs)))
        difference, uncertainty = compare(row, ours, num_images=tested["num_images"])
        told |= {"difference": difference, "uncertainty": uncertainty}
        agrees = abs(difference) <= uncertainty
        if top5:
            theirs = replace(row, error=row.top5)
            told["top5"] = Top5(top5, *compare(theirs, top5, num_images=tested["num_images"]))
    elif row.above is not None:
        agrees = ours.statistic(row.statistic) > row.above
    else:
        return Verdict(row, "", reason="a curve: see the report's figures", **told)
    is_too_few = ours.n < MIN_RUNS and bool(row.runs or row.mean is not None)
    return Verdict(row, "too few runs" if is_too_few else "agrees" if agrees else "differs", **told)


def _has_diverged(run: Run) -> bool:
    return run.results.get("diverged_at") is not None


def _how_to_test(untested: list[Run], test: str) -> str:
    """The command that does it; with several folders it would be their ensemble."""
    testable = [run for run in untested if run.has_weights]
    if not testable:
        return f"ours is of one crop, and {untested[0].directory} holds no weights to test as the paper did"
    command = shlex.join(["python", "evaluate.py", f"run={testable[0].directory}", f"test={test}"])
    others = f", and so each of {len(testable) - 1} more" if len(testable) > 1 else ""
    return f"ours is of one crop: `{command}` tests it as the paper did{others}"


def _conditions(run: Run, tested: dict[str, Any] | None) -> list[str]:
    trained_in = run.config["hardware"]["precision"]
    tested_in = (tested or {}).get("precision", trained_in)
    return paper.conditions(run.config) + ([f"tested in {tested_in}"] if tested_in != trained_in else [])


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


def measure(runs: list[Run], *, split: str = "test", test: str = "1crop", key: str = "error") -> Ours | None:
    """Our statistics; None where no run has an error on that split. A diverged run without one counts as 100 %."""
    errors = []
    for run in runs:
        error = (run.tested(test, split) or {}).get(key)
        if error is not None and math.isfinite(error):
            errors.append(error)
        elif _has_diverged(run):
            errors.append(100.0)
    if not errors:
        return None
    std = statistics.stdev(errors) if len(errors) > 1 else 0.0
    return Ours(len(errors), statistics.fmean(errors), std, min(errors), statistics.median(errors))


def _union(lists: Iterable[list[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for words in lists for word in words))


def judge_all(sources: Iterable[str], runs_of: Callable[[Published], list[Run]]) -> Tables:
    """The verdicts on every row of these tables of the papers, from our runs of each."""
    judged: Tables = {}
    for row in (row for source in sources for row in paper.tables()[source]):
        judged.setdefault(f"{row.source}: {row.what}", []).append(judge(row, runs_of(row)))
    return judged


def cells_of_rows(protocols: list[Protocol]) -> dict[str, Cell]:
    """Our cell of each row, by the text of the row's own. Of several a comparable one counts, then the longest."""
    cells = [cell for protocol in protocols for cell in protocol.cells]
    cells.sort(key=lambda cell: (not paper.deviations(cell.runs[0].manifest), cell.runs[0].config["schedule"]["steps"]))
    return {str(paper.cell_of(cell.runs[0].config)): cell for cell in cells}


def judge_cells(cells: dict[str, Cell]) -> Tables:
    """Every table and figure of the papers, judged on our cells of their rows."""
    runs = {key: cell.runs for key, cell in cells.items()}
    return judge_all(paper.tables(), lambda row: runs.get(str(row.cell), []))


def with_numbers(tables: Tables) -> Tables:
    """Those that have a printed number beside one of ours."""
    return {title: found for title, found in tables.items() if any(v.ours and v.row.has_number for v in found)}
