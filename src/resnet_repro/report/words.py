"""Words, marks and numbers that the page and the terminal share."""

from resnet_repro.papers import verdicts
from resnet_repro.papers.verdicts import MIN_RUNS, Verdict
from resnet_repro.runs.finished import duration

DASH = "–"
CLAIM_MARKS = {"holds": "✓", "does not hold": "✗", "not decided": "?"}
STATES = {
    "agrees": ("✓", f"the interval of the difference contains zero and stays within ±{verdicts.MARGIN:g} point"),
    "differs": ("✗", "the interval of the difference excludes zero, or most of our runs diverged"),
    "cannot tell": ("?", "neither is shown: our runs scatter, are few, or one of them diverged"),
    "too few runs": ("…", f"the paper's number is over several runs, and ours is over fewer than {MIN_RUNS}"),
    "not comparable": ("≠", "ours departs from the paper's recipe or test, as noted beside the row"),
    "a curve": ("~", "the paper draws a curve and prints no number: see the figures"),
    "not run": ("○", "no finished run of ours"),
    "not possible here": ("–", "this package cannot reproduce the row, for the reason beside it"),
}
"""The states of a row of the papers, each with its mark and its meaning."""


def state(verdict: Verdict) -> str:
    """Return the key of STATES that a verdict is in."""
    return verdict.word or ("a curve" if verdict.ours else "not possible here")


def time(seconds: float | None) -> str:
    """Return seconds as a duration in words, a dash for None."""
    return DASH if seconds is None else duration(seconds)


def number(value: float | None, spec: str = ",.0f") -> str:
    """Return a number as text, a dash for None and NaN."""
    return DASH if value is None or value != value else format(value, spec)
