"""Verdicts on made-up errors, beside numbers from scipy by the stated rule."""

import math
import statistics
from typing import Any

import pytest
from scipy import stats

from resnet_repro.papers import intervals, verdict_text, verdicts
from resnet_repro.papers.estimates import error
from resnet_repro.papers.rows import Published, registry
from resnet_repro.papers.verdicts import judge
from resnet_repro.runs.finished import FinishedRun
from resnet_repro.runs.groups import Cell
from tests.helpers.synthetic_runs import config
from tests.helpers.verdicts import BEST, MEDIAN, SINGLE, STANDARD_FIVE, row, runs, shown

PLAIN = row("v1 Fig. 6", "plain-110")  # over 60
OTHERS = ("ResNet-20", "ResNet-32", "ResNet-44")


def test_a_printed_mean_is_compared_by_welchs_test() -> None:
    verdict = judge(BEST, runs(6.5, 6.7, 6.9))
    theirs = stats.ttest_ind_from_stats(6.7, 0.2, 3, 6.61, 0.16, 5, equal_var=False)
    assert verdict.difference == pytest.approx(6.7 - 6.61)
    assert verdict.p_value == pytest.approx(theirs.pvalue)
    assert verdict.uncertainty is not None
    edge = stats.ttest_ind_from_stats(verdict.uncertainty, 0.2, 3, 0, 0.16, 5, equal_var=False)
    assert edge.pvalue == pytest.approx(0.05)
    assert verdict.word == "agrees"
    assert judge(BEST, runs(7.2, 7.4, 7.6)).word == "differs"
    assert judge(BEST, runs(5.6, 5.8, 6.0)).word == "differs"  # better than the paper is not the paper's number


def test_a_printed_median_is_compared_with_our_median() -> None:
    errors = (6.2, 6.3, 6.4, 6.5, 6.9)
    verdict = judge(MEDIAN, runs(*errors, arch="resnet_v2"))
    standard_error = 1.1976 * statistics.stdev(errors) * math.sqrt(2 / 5)  # our std stands for theirs
    assert verdict.difference == pytest.approx(6.4 - 6.37)
    assert verdict.uncertainty == pytest.approx(stats.t.ppf(0.975, 4) * standard_error, rel=1e-4)
    assert verdict.word == "agrees"


@pytest.mark.parametrize(
    ("ours", "word"),
    [
        (8.75, "agrees"),
        (8.96, "agrees"),
        (8.98, "cannot tell"),
        (9.52, "cannot tell"),
        (9.55, "differs"),
        (7.9, "differs"),
    ],
)
def test_one_run_has_the_binomial_std_of_the_images(ours: float, word: str) -> None:
    verdict = judge(SINGLE, runs(ours, depth=20))
    assert verdict.uncertainty == pytest.approx(
        1.96 * math.sqrt(2) * 100 * math.sqrt(0.0875 * 0.9125 / 10_000), rel=1e-4
    )
    assert verdict.word == word  # the interval is ±0.78, the margin 1


def test_several_runs_lend_a_single_number_their_spread() -> None:
    verdict = judge(SINGLE, runs(8.5, 8.7, 8.8, 9.0, depth=20))
    standard_error = statistics.stdev((8.5, 8.7, 8.8, 9.0)) * math.hypot(1 / math.sqrt(4), 1)
    assert verdict.uncertainty == pytest.approx(stats.t.ppf(0.975, 3) * standard_error)


def test_three_runs_close_together_do_not_make_a_certainty() -> None:
    """Two standard errors of these runs alone would say that they differ, by 0.15 ± 0.01."""
    verdict = judge(MEDIAN, runs(6.22, 6.23, 6.22, arch="resnet_v2"))
    floor = intervals.FLOOR * intervals.binomial_std(6.37, 10_000)
    assert verdict.uncertainty == pytest.approx(
        stats.t.ppf(0.975, 2) * floor * math.hypot(1.1602 / math.sqrt(3), 1.1976 / math.sqrt(5)), rel=1e-4
    )
    assert verdict.word == "agrees"


@pytest.mark.parametrize(
    ("row", "errors"),
    [
        (BEST, (6.5, 6.6, 6.7, 6.6, 90.0)),
        (SINGLE, (8.7, 8.8, 8.6, 90.0, 90.0)),
        (MEDIAN, (6.0, 7.5, 8.4, 9.4, 12.0)),
    ],
)
def test_runs_that_scatter_widely_do_not_agree(row: Published, errors: tuple[float, ...]) -> None:
    options = row.options
    verdict = judge(row, runs(*errors, arch=options["arch"], depth=options["depth"]))
    assert verdict.word == "cannot tell"
    assert verdict.uncertainty is not None
    assert verdict.uncertainty > verdicts.MARGIN


@pytest.mark.parametrize("row", [BEST, SINGLE, MEDIAN])
def test_a_point_worse_is_seen_with_five_seeds(row: Published) -> None:
    assert row.number is not None
    errors = (row.number + 1 + 0.2 * z for z in STANDARD_FIVE)
    assert judge(row, runs(*errors, arch=row.options["arch"], depth=row.options["depth"])).word == "differs"


def test_a_small_difference_that_is_shown_differs() -> None:
    """The interval lies within the margin and excludes zero."""
    verdict = judge(MEDIAN, runs(*(6.77 + 0.1 * z for z in STANDARD_FIVE * 2), arch="resnet_v2"))
    assert verdict.difference is not None
    assert verdict.uncertainty is not None
    assert 0 < verdict.difference - verdict.uncertainty < verdict.difference + verdict.uncertainty < verdicts.MARGIN
    assert verdict.word == "differs"


def test_rows_of_a_table_are_tested_together() -> None:
    """One row is as far off as one right row in 30: alone it differs, among ten rows that may be chance."""
    table = [row for row in registry() if row.source == "v2 Table 2"]
    assert len(table) == 10

    def runs_of(row: Published) -> list[FinishedRun]:
        shift = 0.5 if row is MEDIAN else 0.0
        assert row.error is not None
        made = config(row.options["arch"], row.options["depth"], data__name="cifar10")
        made["arch"]["order"] = row.options.get("arch.order", made["arch"]["order"])
        made["protocol"]["name"] = "paper_v2"
        return runs(*(row.error + shift + 0.2 * z for z in STANDARD_FIVE), config=made)

    (alone,) = verdicts.judge_table([MEDIAN], runs_of)
    assert alone.p_value is not None
    assert 0.005 < alone.p_value < 0.05
    assert alone.word == "differs"
    together = verdicts.judge_table(table, runs_of)
    assert {v.word for v in together if v.row is not MEDIAN} == {"agrees"}
    (verdict,) = (v for v in together if v.row is MEDIAN)
    assert verdict.word == "cannot tell"
    assert verdict.reason == "alone the row would differ, but among 10 rows that may be chance"


def test_holm_tests_the_remaining_rows_at_the_remaining_level() -> None:
    """The second row's p-value lies between a third and half of the level: it differs once the first is rejected."""
    first, second, third = (row for row in registry() if row.source == "v1 Table 6" and row.printed in OTHERS)
    far = {first: 3.0, second: 0.555, third: 0.0}

    def runs_of(row: Published) -> list[FinishedRun]:
        assert row.error is not None
        return runs(*(row.error + far[row] + 0.2 * z for z in STANDARD_FIVE * 2), depth=row.options["depth"])

    words = [v.word for v in verdicts.judge_table([first, second, third], runs_of)]
    assert words == ["differs", "differs", "agrees"]
    far[first] = 0.0
    assert [v.word for v in verdicts.judge_table([first, second, third], runs_of)][1] == "cannot tell"


@pytest.mark.parametrize(
    ("errors", "word"), [((6.6,), "too few runs"), ((6.6, 6.7), "too few runs"), ((6.5, 6.6, 6.7), "agrees")]
)
def test_too_few_runs_is_its_own_answer(errors: tuple[float, ...], word: str) -> None:
    assert judge(BEST, runs(*errors)).word == word
    assert judge(BEST, []).word == "not run"


def diverged(count: int, error: float | None = 90.0, **changes: Any) -> list[FinishedRun]:
    """Return runs whose loss was NaN at step 3, with the error of chance or none."""
    results = {"num_test_images": 10_000, "diverged_at": 3, "test/error": error}
    return runs(*[None] * count, results=results, **changes)


@pytest.mark.parametrize("error", [90.0, None])
def test_a_run_that_diverged_is_counted_and_not_averaged(error: float | None) -> None:
    verdict = judge(BEST, runs(6.5, 6.6, 6.7, 6.6) + diverged(1, error))
    assert verdict.ours is not None
    assert verdict.ours.mean == pytest.approx(6.6)
    assert (verdict.word, verdict.reason) == ("cannot tell", "1 of 5 runs diverged")
    assert "1 diverged" in verdict_text.numbers(verdict)["ours"].splitlines()
    assert judge(BEST, runs(8.5, 8.6, 8.7, 8.6) + diverged(1, error)).word == "differs"


@pytest.mark.parametrize(("good", "bad", "word"), [(0, 5, "differs"), (2, 3, "differs"), (2, 1, "too few runs")])
def test_a_cell_of_which_most_runs_diverged_differs(good: int, bad: int, word: str) -> None:
    verdict = judge(BEST, runs(*[6.6] * good) + diverged(bad))
    assert (verdict.word, verdict.reason) == (word, f"{bad} of {good + bad} runs diverged")


def test_rows_claims_and_errors_leave_out_the_same_runs() -> None:
    """A recorded error of a run that diverged is averaged nowhere, and neither is an infinite one."""
    errors = [6.5, 6.7, 6.9]
    made = [*runs(*errors, math.inf, None), *runs(90.0, results={"diverged_at": 7, "test/error": 90.0})]
    cell = Cell("resnet_v1", 110, made)
    of_row, of_claim, of_cell = judge(BEST, made).ours, error(cell, "test"), cell.error("test")
    assert of_row is not None
    assert of_cell is not None
    assert (of_row.mean, of_row.std, of_row.n) == tuple(of_cell)
    assert (of_claim.mean, of_claim.spread.std, of_claim.num_seeds) == tuple(of_cell)
    assert of_cell == pytest.approx((statistics.fmean(errors), statistics.stdev(errors), 3))
    assert (of_row.num_diverged, of_row.best, of_row.median) == (1, 6.5, 6.7)
    assert of_claim.text.endswith("(3 seeds), 1 of 6 diverged")


def test_a_single_run_that_diverged_differs_from_a_number() -> None:
    verdict = judge(SINGLE, diverged(1, depth=20))
    assert (verdict.word, verdict.reason) == ("differs", "1 of 1 run diverged")
    assert verdict_text.numbers(verdict) == {"paper": "8.75", "ours": "1 diverged", "difference": ""}


def test_a_printed_bound_agrees_where_ours_is_over_it() -> None:
    assert judge(PLAIN, runs(60.1, arch="plain")).word == "agrees"
    assert judge(PLAIN, runs(59.9, arch="plain")).word == "differs"


def test_a_failure_in_the_paper_agrees_with_most_runs_failing() -> None:
    fail = row("v2 Table 1", "dropout shortcut 0.5")
    made = config("resnet_v1", 110, data__name="cifar10", arch__shortcut="dropout")
    made["protocol"]["name"] = "paper_v2"
    assert judge(fail, runs(19.0, 21.0, 25.0, config=made)).word == "agrees"
    assert judge(fail, runs(19.0, 19.5, 25.0, config=made)).word == "differs"
    assert judge(fail, runs(25.0, config=made)).word == "too few runs"
    assert judge(fail, runs(19.0, 19.5, 25.0, 26.0, config=made)).word == "cannot tell"
    assert judge(fail, diverged(3, config=made)).word == "agrees"
    assert judge(fail, runs(19.0, config=made) + diverged(2, config=made)).reason == "2 of 3 runs diverged"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"departures": {"schedule.steps": 400}}, "400 of 64,000 steps"),
        ({"departures": {"data.val_size": 5000}}, "5,000 training images held out"),
        ({"config": config("resnet_v1", 110)}, "data=digits, not cifar10"),
        ({"config": config("resnet_v1", 56, data__name="cifar10")}, "depth=56, not 110"),
        ({"results": {"diverged_at": None}}, "no test error"),
    ],
)
def test_another_recipe_network_or_data_is_not_comparable(change: dict[str, Any], reason: str) -> None:
    verdict = judge(BEST, runs(6.5, 6.6, 6.7, **change))
    assert (verdict.word, verdict.difference) == ("not comparable", None)
    assert reason in verdict.reason


def test_one_shortened_run_makes_its_cell_not_comparable() -> None:
    mixed = runs(6.5, 6.6) + runs(6.7, departures={"schedule.steps": 400})
    assert judge(BEST, mixed).word == "not comparable"
    other = runs(6.5, 6.6) + runs(6.7, depth=56)
    assert judge(BEST, other).reason == "depth=56, not 110"


def test_another_papers_network_has_no_verdict_but_a_reason() -> None:
    verdict = judge(row("v1 Table 6", "Maxout"), [])
    assert (verdict.word, verdict.reason) == ("", "another paper's network, for comparison")


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_the_papers_statistic_first_and_the_rule(width: int) -> None:
    text = shown(judge(BEST, runs(6.5, 6.7, 6.9)), judge(row("v1 Table 6", "NIN"), []), width=width)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "ResNet-110 6.43, best of 5 6.50, best of 3 +0.09 ± 0.40 agrees [a]" in lines
    assert "mean 6.61 ± 0.16 mean 6.70 ± 0.20" in lines
    assert "median 6.70" in lines
    assert "NIN 8.81 [b]" in lines
    assert "[a] protocol paper_v1" in lines
    assert "[b] another paper's network, for comparison" in lines
    assert " ".join(lines).endswith(verdicts.RULE)


def test_a_cell_tells_protocol_and_conditions_of_its_runs() -> None:
    made = config("resnet_v1", 110, data__name="cifar10")
    made["hardware"] |= {"precision": "bf16-mixed", "devices": 1, "num_nodes": 1}
    made["schedule"]["ghost_batch_size"] = None
    assert verdict_text.note(judge(BEST, runs(6.5, config=made))) == (
        "protocol paper_v1, batch norm over 128 images, not 64, bf16-mixed"
    )
