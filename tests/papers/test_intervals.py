"""Intervals beside scipy, numerical integration and the papers' printed spreads."""

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from scipy.special import ndtr

from resnet_repro.papers import intervals
from resnet_repro.papers.intervals import Spread, interval, spread


@pytest.mark.parametrize("df", [1, 2, 2.3, 4, 7.7, 30, 1_000])
def test_students_distribution_is_scipys(df: float) -> None:
    assert intervals.quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-6)
    for t in (0.0, 0.01, 0.7, 2.0, 5.0, 40.0):
        assert intervals.two_sided(t, df) == pytest.approx(2 * stats.t.sf(t, df), rel=1e-6, abs=1e-12)


def test_infinite_degrees_of_freedom_are_the_normal() -> None:
    assert intervals.quantile(math.inf) == pytest.approx(stats.norm.ppf(0.975))
    assert intervals.two_sided(2.0, math.inf) == pytest.approx(2 * stats.norm.sf(2.0))


def test_two_spreads_give_welchs_test() -> None:
    gap = interval(0.3, (Spread(0.25, 3), 1 / math.sqrt(4)), (Spread(0.16, 4), 1 / math.sqrt(5)))
    theirs = stats.ttest_ind_from_stats(6.9, 0.25, 4, 6.6, 0.16, 5, equal_var=False)
    assert gap.p_value == pytest.approx(theirs.pvalue)
    ours = stats.t.interval(0.95, gap.df, 0.3, gap.standard_error)
    assert (0.3 - gap.half_width, 0.3 + gap.half_width) == pytest.approx(ours)


@pytest.mark.parametrize("n", range(1, 11))
def test_a_medians_standard_error_is_that_of_its_n(n: int) -> None:
    """The reference integrates over the order statistics of a normal sample."""
    x, step = np.linspace(-8, 8, 1_601, retstep=True)
    below, density = ndtr(x), np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    k = (n - 1) // 2  # draws on either side of the middle one, or of the middle two
    rest = math.factorial(n) / math.factorial(k) ** 2
    if n % 2:
        variance = rest * np.sum(x**2 * below**k * (1 - below) ** k * density) * step
    else:
        lower, upper = below**k * density, (1 - below) ** k * density
        ordered = np.triu(np.ones((len(x), len(x)))) - np.eye(len(x)) / 2
        variance = rest * np.sum(((x[:, None] + x) / 2) ** 2 * lower[:, None] * upper * ordered) * step**2
    assert intervals.of_median(n) == pytest.approx(math.sqrt(n * variance), abs=1e-4)


def test_the_limit_of_many_medians_is_a_little_too_wide() -> None:
    assert intervals.of_median(9) < intervals.of_median(11) == pytest.approx(1.2533, abs=1e-4)


def test_few_runs_that_lie_close_together_have_the_floor() -> None:
    assert spread(0.01, 3, error=6.61, num_images=10_000) == pytest.approx((0.16, 2))
    assert spread(0.3, 3, error=6.61, num_images=10_000) == (0.3, 2)


PRINTED = [(4.89, 0.14, 10_000), (4.69, 0.20, 10_000), (22.68, 0.22, 10_000), (23.6, 0.12, 50_000)]
"""Error, std over 5 runs and images of v2 Table 4, and of ResNet-50 in Goyal et al., Table 1."""


@pytest.mark.parametrize(("error", "std", "num_images"), PRINTED)
def test_floor_and_binomial_std_bracket_the_printed_spreads(error: float, std: float, num_images: int) -> None:
    """The std of 5 runs is known to a factor of about 1.7."""
    binomial = intervals.binomial_std(error, num_images)
    assert std < binomial
    assert std / 1.7 < intervals.FLOOR * binomial < std * 1.7


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_runs_have_the_binomial_std_of_the_images(n: int) -> None:
    assert spread(0.0, n, error=8.75, num_images=10_000) == (pytest.approx(0.2826, abs=1e-4), math.inf)


def test_two_runs_far_apart_are_not_taken_to_be_close() -> None:
    assert spread(3.0, 2, error=8.75, num_images=10_000).std == 3.0


def test_an_unknown_spread_gives_an_unknown_interval() -> None:
    gap = interval(5.0, (Spread(math.nan, math.inf), 1.0))
    assert math.isnan(gap.half_width)
    assert math.isnan(gap.p_value)


def test_without_any_spread_only_equal_errors_are_equal() -> None:
    assert interval(0.0, (Spread(0.0, math.inf), 1.0)).p_value == 1
    assert interval(0.1, (Spread(0.0, math.inf), 1.0)).p_value == 0


def test_intervals_import_no_scipy() -> None:
    names = "('scipy', 'sklearn', 'torch')"
    code = f"import sys, resnet_repro.papers.verdicts; print([m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
