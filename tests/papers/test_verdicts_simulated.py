"""How often verdicts are wrong, by simulation. Seeded, with thresholds too far for a processor's last digit."""

import random
from collections import Counter
from statistics import fmean, median, stdev

import pytest

from resnet_repro.papers import verdicts
from resnet_repro.papers.rows import Published
from resnet_repro.papers.verdicts import Verdict
from resnet_repro.runs.groups import over_seeds
from tests.helpers.verdicts import BEST, MEDIAN, SINGLE

STD = 0.2  # points over seeds; the papers print 0.14 to 0.22
TRIALS = 500
KINDS = ("one run", "median of 5", "mean of 5")


def printed(kind: str, truth: float, draw: random.Random) -> Published:
    """Return what a paper prints of runs with this true error."""
    five = [draw.gauss(truth, STD) for _ in range(5)]
    how = {
        "one run": {"error": five[0]},
        "median of 5": {"statistic": "median", "runs": 5, "error": median(five)},
        "mean of 5": {"statistic": "best", "runs": 5, "error": min(five), "mean": fmean(five), "std": stdev(five)},
    }[kind]
    return Published("a table", "CIFAR-10 test error", "a row", SINGLE.overrides, **how)  # type: ignore[arg-type]


def compared(kind: str, n: int, draw: random.Random, *, off: float = 0.0) -> Verdict:
    """Return a row beside n runs of ours whose true error is `off` the paper's, on 10,000 images, undecided."""
    truth = draw.uniform(5, 9)
    ours = over_seeds([draw.gauss(truth + off, STD) for _ in range(n)])
    return verdicts.beside_number(printed(kind, truth, draw), ours, num_images=10_000)


def words(kind: str, n: int, *, off: float = 0.0) -> Counter[str]:
    """Count the words of many such rows, each judged alone."""
    draw = random.Random(f"{kind} {n} {off}")
    return Counter(verdicts.decide([compared(kind, n, draw, off=off)])[0].word for _ in range(TRIALS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", range(1, 11))
def test_a_right_row_differs_in_at_most_one_case_of_20(kind: str, n: int) -> None:
    counts = words(kind, n)
    assert counts["differs"] <= 0.05 * TRIALS
    if n < verdicts.MIN_RUNS and kind != "one run":
        assert counts == {"too few runs": TRIALS}


@pytest.mark.parametrize(("kind", "least"), [("one run", 0.7), ("median of 5", 0.9), ("mean of 5", 0.9)])
def test_a_right_row_of_five_seeds_mostly_agrees(kind: str, least: float) -> None:
    assert words(kind, 5)["agrees"] > least * TRIALS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("off", [-1.0, 1.0])
def test_a_row_that_is_a_point_off_differs_with_five_seeds(kind: str, off: float) -> None:
    counts = words(kind, 5, off=off)
    assert counts["agrees"] <= 0.02 * TRIALS
    assert counts["differs"] > 0.85 * TRIALS


def test_a_table_of_right_rows_differs_in_at_most_one_of_20() -> None:
    """That is, any of its ten rows differs; with each row judged alone, one in five tables would have one."""
    draw, num_tables = random.Random(0), 200
    tables = [[compared("median of 5", 10, draw) for _ in range(10)] for _ in range(num_tables)]
    together = sum(any(v.word == "differs" for v in verdicts.decide(table)) for table in tables)
    alone = sum(any(verdicts.decide([row])[0].word == "differs" for row in table) for table in tables)
    assert together <= 0.05 * num_tables
    assert alone > 0.1 * num_tables


def test_the_simulated_rows_are_of_the_papers_kinds() -> None:
    kinds = [(row.statistic, row.runs, row.mean is not None) for row in (SINGLE, MEDIAN, BEST)]
    made = [printed(kind, 6.0, random.Random(0)) for kind in KINDS]
    assert [(row.statistic, row.runs, row.mean is not None) for row in made] == kinds
