"""Verdicts on the papers' rows from our runs, with the numbers and the rule that each rests on.

How a row with a printed number is judged:

1. The difference is ours minus the paper's, statistic by statistic: mean against mean where the paper prints a mean,
   median against median, and otherwise our mean against the one printed run. A run that diverged is counted and never
   averaged.
2. Its 95 % confidence interval is Student's. The standard deviation of our runs stands for the paper's too: the
   standard error of n runs of ours against m of the paper's is std √(1/n + 1/m). If the paper prints a std, each side
   keeps its own and the interval is Welch's. The median of n runs has a larger standard error than their mean, by a
   factor that depends on n. `intervals` says which std counts at least, and what replaces it with one or two runs.
3. The row *differs* if the test that belongs to the interval rejects "no difference". A table has many rows, and a 95 %
   interval misses one right row in 20, so the rows of a table are tested together, by Holm's step-down procedure
   [Holm, Scand. J. Stat. 6, 1979]: if every row of a table is right, any of them differs in at most 5 % of tables.
4. The row *agrees* if the interval contains zero and lies within MARGIN. This is an equivalence test, so scatter does
   not make runs agree [Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987]. An interval may lie within MARGIN and exclude
   zero: the difference is small but real. Then the row differs, or, if Holm does not reject, we cannot tell.
5. Otherwise we *cannot tell*.

A printed bound, "over 20", is no estimate. The row agrees if more than half of our runs are over it or diverged.
"""

import math
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from resnet_repro.conf_dir import command
from resnet_repro.papers import intervals
from resnet_repro.papers import rows as paper
from resnet_repro.papers.intervals import LEVEL, MIN_RUNS, Interval
from resnet_repro.papers.rows import Published
from resnet_repro.runs.finished import FinishedRun
from resnet_repro.runs.groups import Cell, Comparison, Seeds, over_seeds, values_over_seeds
from resnet_repro.runs.options import CellKey

Word = Literal["agrees", "differs", "cannot tell", "too few runs", "not comparable", "not run", ""]

MARGIN = 1.0  # points around zero that hold the interval of an agreeing row; two single runs on CIFAR-10 have ±0.8
RULE = (
    f"A row agrees if the 95 % confidence interval of its difference contains zero and stays within ±{MARGIN:g} point, "
    "differs if zero lies outside even after Holm's correction for the number of rows in the table, and otherwise we "
    "cannot tell. The interval is Student's (Welch's where the paper prints a std); its spread comes from our seeds, "
    "or from the number of test images if there are only one or two; runs that diverged are counted, not averaged."
)
DETAILS = (
    "We compare mean with mean where the paper prints a mean, median with median, and otherwise our mean with the "
    "printed number, which is of one run unless the paper says more. If the paper's number is over several runs, ours "
    f"must be over at least {MIN_RUNS}. A std counts as at least {intervals.FLOOR:.2f} of the binomial std of the test "
    "images, as v1's 0.16 on CIFAR-10 does. A row never agrees if one of our runs diverged, and differs if most did. "
    "“over” agrees if most of our runs are over the bound or diverged. Images are tested as the paper tested them: one "
    "crop, ten, several scales or 320. A top-5 error is shown but decides nothing."
)

Tables = dict[str, list["Verdict"]]
"""Verdicts by the title of their table, `v1 Table 6: CIFAR-10 test error`."""


class Top5(NamedTuple):
    """Our top-5 error if the paper prints one; difference and uncertainty in points, None as for top-1."""

    ours: Seeds
    difference: float | None
    uncertainty: float | None


@dataclass(frozen=True)
class Verdict:
    """A row of a paper beside our runs of it.

    `difference` ± `uncertainty` is the 95 % confidence interval of ours minus the paper's, in points.
    """

    row: Published
    word: Word
    ours: Seeds | None = None
    difference: float | None = None
    uncertainty: float | None = None
    p_value: float | None = None
    """The p-value of the row alone; None if no test decides."""
    top5: Top5 | None = None
    reason: str = ""
    """Why there is nothing to compare, why it may not be compared, or what else decided the word."""
    test: str = "1crop"
    """How ours was tested: in the row's own way, or with one crop if that has not been done yet."""
    protocol: str = ""
    conditions: tuple[str, ...] = ()
    """How our runs may differ from the paper's and do."""


def judge(row: Published, runs: list[FinishedRun]) -> Verdict:
    """Return the verdict on a row judged alone. Its runs differ only in their seed."""
    return judge_table([row], lambda _: runs)[0]


def judge_table(rows: list[Published], runs_of: Callable[[Published], list[FinishedRun]]) -> list[Verdict]:
    """Return the verdicts on the rows of one table, judged together."""
    return decide([_compared(row, runs_of(row)) for row in rows])


def decide(table: list[Verdict]) -> list[Verdict]:
    """Return the rows of one table; a row with a p-value gets its word by Holm's procedure."""
    tested = sorted((verdict.p_value, index) for index, verdict in enumerate(table) if verdict.p_value is not None)
    rejected = 0  # the smallest p-values, as long as each is below LEVEL over the number of tests left
    while rejected < len(tested) and tested[rejected][0] < LEVEL / (len(tested) - rejected):
        rejected += 1
    ranks = {index: rank for rank, (_, index) in enumerate(tested)}
    return [
        _worded(verdict, differs=ranks[index] < rejected, num_tested=len(tested)) if index in ranks else verdict
        for index, verdict in enumerate(table)
    ]


def _worded(verdict: Verdict, *, differs: bool, num_tested: int) -> Verdict:
    assert verdict.difference is not None
    assert verdict.uncertainty is not None
    assert verdict.ours is not None
    if differs:
        return replace(verdict, word="differs")
    distance = abs(verdict.difference)
    if distance > verdict.uncertainty:
        why = f"alone the row would differ, but among {num_tested} rows that may be chance"
        return replace(verdict, word="cannot tell", reason="; ".join(filter(None, [verdict.reason, why])))
    agrees = distance + verdict.uncertainty <= MARGIN and not verdict.ours.num_diverged
    return replace(verdict, word="agrees" if agrees else "cannot tell")


def _compared(row: Published, runs: list[FinishedRun]) -> Verdict:
    """Compare a row with our runs: with its word if no test decides it, otherwise with the p-value of its test."""
    if row.why:
        return Verdict(row, "", reason=row.why)
    if not runs:
        return Verdict(row, "not run")
    assert row.cell is not None
    untested = [run for run in runs if not (_tested(run, row, row.test) or run.has_diverged)]
    test = "1crop" if untested else row.test
    ours = measure(runs, row, test=test)
    top5 = None if row.top5 is None else measure(runs, row, test=test, key="error_top5")
    fields: dict[str, Any] = {
        "ours": ours,
        "top5": Top5(top5, None, None) if top5 and top5.n else None,
        "test": test,
        "protocol": runs[0].options.protocol.name,
        "conditions": _union(_conditions(run, row, _tested(run, row, test)) for run in runs),
    }
    if other_recipe := _union(_other_cell(row.cell, run.options.cell) + paper.deviations(run.manifest) for run in runs):
        return Verdict(row, "not comparable", reason=", ".join(other_recipe), **fields)
    if untested:
        return Verdict(row, "not comparable", reason=_how_to_test(untested, row), **fields)
    if ours is None:
        return Verdict(row, "not comparable", reason=f"no {row.split} error", **fields)
    if not row.has_number:
        return Verdict(row, "", reason="a curve: see the report's figures", **fields)
    if ours.num_diverged:
        fields["reason"] = f"{ours.num_diverged} of {ours.num_runs} run{'s' * (ours.num_runs > 1)} diverged"
    if row.above is not None:
        fields["word"] = _beside_bound(row.above, _errors(runs, row, test=test), ours)
        if _asks_for_several(row) and ours.num_runs < MIN_RUNS:
            fields["word"] = "too few runs"
        return Verdict(row, **fields)
    tested = next(filter(None, (_tested(run, row, test) for run in runs if not run.has_diverged)), None)
    num_images = tested["num_images"] if tested else 0
    if fields["top5"]:
        beside = compare(replace(row, error=row.top5), fields["top5"].ours, num_images=num_images)
        fields["top5"] = fields["top5"]._replace(difference=beside.difference, uncertainty=beside.half_width)
    return replace(beside_number(row, ours, num_images=num_images), **fields)


def beside_number(row: Published, ours: Seeds, *, num_images: int) -> Verdict:
    """Compare the row's number with ours on `num_images` images, with a p-value if a test is to decide its word."""
    interval = compare(row, ours, num_images=num_images) if ours.n else None
    verdict = Verdict(row, "cannot tell", ours)
    if interval:
        verdict = replace(verdict, difference=interval.difference, uncertainty=interval.half_width)
    if ours.num_diverged > ours.n and (ours.num_runs >= MIN_RUNS or not _asks_for_several(row)):
        return replace(verdict, word="differs")
    if _asks_for_several(row) and ours.n < MIN_RUNS:
        return replace(verdict, word="too few runs")
    return replace(verdict, p_value=interval.p_value if interval else None)


def _asks_for_several(row: Published) -> bool:
    return bool(row.runs or row.mean is not None)


def _beside_bound(above: float, errors: list[float], ours: Seeds) -> Word:
    """Return the word for a printed "over" or "fail"; a run that diverged counts as over the bound."""
    num_over = sum(error > above for error in errors) + ours.num_diverged
    return "agrees" if 2 * num_over > ours.num_runs else "differs" if 2 * num_over < ours.num_runs else "cannot tell"


def _tested(run: FinishedRun, row: Published, test: str) -> dict[str, Any] | None:
    return run.tested(test, row.split, batch_norm=row.batch_norm)


def _how_to_test(untested: list[FinishedRun], row: Published) -> str:
    """Return the command that tests one run as the paper did: of several folders it would test the ensemble."""
    testable = [run for run in untested if run.has_weights]
    if not testable:
        return f"ours is of one crop, and {untested[0].directory} holds no weights to test as the paper did"
    typed = shlex.join([*command("evaluate").split(), f"run={testable[0].directory}", *row.way])
    others = f", and so each of {len(testable) - 1} more" if len(testable) > 1 else ""
    return f"ours is of one crop: `{typed}` tests it as the paper did{others}"


def _conditions(run: FinishedRun, row: Published, tested: dict[str, Any] | None) -> list[str]:
    trained_in = run.options.hardware.precision
    tested_in = (tested or {}).get("precision", trained_in)
    parts = paper.conditions(run.options) + ([f"tested in {tested_in}"] if tested_in != trained_in else [])
    if row.batch_norm == "average" and tested and "num_bn_images" in tested:
        num = tested["num_bn_images"]  # [deviates: running averages, where nobody asked for the authors' own]
        parts.append(f"batch norm averaged over {num:,} images" if num else "running averages in batch norm, not plain")
    return parts


def _other_cell(wanted: CellKey, found: CellKey) -> list[str]:
    ours, theirs = found.as_dict(), wanted.as_dict()
    return [f"{key}={ours[key]}, not {theirs.get(key)}" for key in ours if ours[key] != theirs.get(key)]


def compare(row: Published, ours: Seeds, *, num_images: int) -> Interval:
    """Return the confidence interval of ours minus the paper's in points, mean against mean if the paper prints one."""
    assert row.number is not None
    name = "" if row.mean is not None else row.statistic
    difference, runs = ours.statistic(name) - row.number, row.runs or 1
    spread = intervals.spread(ours.std, ours.n, error=row.number, num_images=num_images)
    if row.std is not None and runs > 1:
        theirs = intervals.spread(row.std, runs, error=row.number, num_images=num_images)
        return intervals.interval(difference, (spread, 1 / math.sqrt(ours.n)), (theirs, 1 / math.sqrt(runs)))
    errors = (_standard_error(name, ours.n), _standard_error(name, runs))
    return intervals.interval(difference, (spread, math.hypot(*errors)))


def _standard_error(statistic: str, n: int) -> float:
    """Return the standard error of the mean or median of n runs, in standard deviations."""
    return (intervals.of_median(n) if statistic == "median" else 1) / math.sqrt(n)


def measure(runs: list[FinishedRun], row: Published, *, test: str, key: str = "error") -> Seeds | None:
    """Return our statistics of a row; None if no run has an error on its split and none diverged."""
    errors = _errors(runs, row, test=test, key=key)
    num_diverged = sum(run.has_diverged for run in runs)
    return over_seeds(errors, num_diverged=num_diverged) if errors or num_diverged else None


def _errors(runs: list[FinishedRun], row: Published, *, test: str, key: str = "error") -> list[float]:
    return values_over_seeds(runs, lambda run: (_tested(run, row, test) or {}).get(key))


def _union(lists: Iterable[list[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for words in lists for word in words))


def judge_all(rows: Iterable[Published], runs_of: Callable[[Published], list[FinishedRun]]) -> Tables:
    """Return the verdicts on rows from our runs of each, by table: the rows of a table must be given together."""
    tables: dict[str, list[Published]] = {}
    for row in rows:
        tables.setdefault(f"{row.source}: {row.what}", []).append(row)
    return {title: judge_table(printed, runs_of) for title, printed in tables.items()}


def cells_of_rows(comparisons: list[Comparison]) -> dict[CellKey, Cell]:
    """Return our cell of each row by the text of the row's cell: a comparable one if there is any, then the longest."""
    cells = [cell for comparison in comparisons for cell in comparison.cells]
    cells.sort(key=lambda cell: (not paper.deviations(cell.runs[0].manifest), cell.runs[0].options.schedule.steps))
    return {cell.runs[0].options.cell: cell for cell in cells}


def judge_cells(cells: dict[CellKey, Cell]) -> Tables:
    """Judge every table and figure of the papers on our cells of their rows."""
    runs = {key: cell.runs for key, cell in cells.items()}
    return judge_all(paper.registry(), lambda row: runs.get(row.cell, []) if row.cell else [])


def of_cell(row: Published, cell: Cell, cells: dict[CellKey, Cell], judged: Tables) -> Verdict:
    """Return the verdict on a row from this cell: as in its table if the table shows this cell, else alone."""
    if (cells.get(row.cell) if row.cell else None) is not cell:
        return judge(row, cell.runs)
    return next(verdict for table in judged.values() for verdict in table if verdict.row == row)


def with_numbers(tables: Tables) -> Tables:
    """Return the tables that have a printed number beside one of ours."""
    return {title: judged for title, judged in tables.items() if any(v.ours and v.row.has_number for v in judged)}
