"""Confidence intervals of differences between errors over seeds, for verdicts on rows and for claims. Imports no scipy.

Assumptions: final errors of one recipe over seeds are independent draws from a normal distribution. If only one side
shows its spread, the other has the same. The difference of two means over its standard error then follows Student's t
distribution; if each side has a std of its own, Welch's degrees of freedom apply [Welch, Biometrika 34, 1947].
"""

import math
from functools import cache
from statistics import NormalDist
from typing import NamedTuple

LEVEL = 0.05  # significance level of the tests; intervals have confidence 1 - LEVEL
MIN_RUNS = 3  # fewer runs show no standard deviation: Student's interval of two runs is 12.7 standard errors wide


def binomial_std(error: float, num_images: int) -> float:
    """Return the standard deviation of an error in % if every image is an independent draw.

    It bounds the standard deviation over seeds from above: if a seed gets image i wrong with probability q_i, the
    variance over seeds is the sum of q_i (1 - q_i) / n², which is largest if all q_i are equal.
    """
    return math.sqrt(error * (100 - error) / num_images)


FLOOR = 0.16 / binomial_std(6.61, 10_000)
"""The least std over seeds that counts, as a share of the binomial std: 0.64, from v1's 6.61 ± 0.16 [v1 Table 6].

A share, because a std of 0.16 points fits errors near 6 % of 10,000 images only. v2's stds are shares of 0.65 and 0.95
on CIFAR-10 and 0.53 on CIFAR-100 [v2 Table 4]. On ImageNet the floor is 0.12 points, which is the std of five ResNet-50
[Goyal et al., arXiv:1706.02677, Table 1].
"""


class Spread(NamedTuple):
    """A std over seeds and the degrees of freedom of its estimate, which are infinite if the std is taken as known."""

    std: float
    df: float


def spread(std: float, n: int, *, error: float, num_images: int) -> Spread:
    """Return the std that counts for n runs with the sample std `std`.

    Few runs may lie close together by chance, so their std has a floor. One or two runs show no std: the binomial std
    replaces it, an upper bound that is taken as known.
    """
    binomial = binomial_std(error, num_images)
    if n < MIN_RUNS:
        return Spread(max(std, binomial) if n > 1 else binomial, math.inf)
    return Spread(max(std, FLOOR * binomial), n - 1)


class Interval(NamedTuple):
    """A difference, its standard error (NaN if unknown) and the degrees of freedom of the standard error."""

    difference: float
    standard_error: float
    df: float

    @property
    def half_width(self) -> float:
        """Return half the width of the confidence interval; NaN if the standard error is NaN."""
        return self.standard_error if math.isnan(self.standard_error) else quantile(self.df) * self.standard_error

    @property
    def p_value(self) -> float:
        """Return the probability of a difference this large by chance; below LEVEL if the interval excludes zero."""
        if not self.standard_error:
            return float(self.difference == 0)
        return two_sided(abs(self.difference) / self.standard_error, self.df)


def interval(difference: float, *sides: tuple[Spread, float]) -> Interval:
    """Return the interval of a difference of independent sides, each a spread and its factor, 1 / √n for a mean."""
    parts = [((spread.std * factor) ** 2, spread.df) for spread, factor in sides]
    variance = sum(part for part, _ in parts)
    inverse = sum((part / variance) ** 2 / df for part, df in parts) if variance else 0.0
    return Interval(difference, math.sqrt(variance), 1 / inverse if inverse else math.inf)


_MEDIANS = (1, 1, 1.1602, 1.0922, 1.1976, 1.1351, 1.2137, 1.16, 1.2227, 1.1762)


def of_median(n: int) -> float:
    """Return the standard error of the median of n normal draws over that of their mean.

    Exact up to n = 10, from the variances of normal order statistics [Sarhan and Greenberg, Ann. Math. Stat. 27, 1956].
    Beyond that the limit √(π / 2) = 1.25, at most 6 % too wide.
    """
    return _MEDIANS[n - 1] if n <= len(_MEDIANS) else math.sqrt(math.pi / 2)


# --- Student's t distribution: importing scipy.stats takes a second, and the tests hold this against it ---------------


def two_sided(t: float, df: float) -> float:
    """Return the probability that |T| > t >= 0 for Student's T with `df` degrees of freedom, a normal T if infinite."""
    if math.isinf(df) or math.isinf(t) or math.isnan(t):
        return 2 * NormalDist().cdf(-t)
    x = df / (df + t * t)
    a, b = df / 2, 0.5
    front = (
        math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
        if t
        else 0
    )
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


@cache
def quantile(df: float) -> float:
    """Return the t that |T| exceeds with probability LEVEL: 1.96 for a normal T, 2.78 with 4 degrees of freedom."""
    t = NormalDist().inv_cdf(1 - LEVEL / 2)
    while math.isfinite(df):  # Newton's steps: the tail is convex, so they approach from below
        log_density = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - (df + 1) / 2 * math.log1p(t * t / df)
        step = (two_sided(t, df) - LEVEL) * math.sqrt(df * math.pi) / (2 * math.exp(log_density))
        t += step
        if step < 1e-9 * t:
            break
    return t


def _fraction(a: float, b: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function [dlmf.nist.gov/8.17.E22], by Lentz's method."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 1_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / (1 + term * d), 1 + term / c
            value *= c * d
        if abs(c * d - 1) < 1e-13:
            break
    return value
