"""What the claims of the papers come to on a folder of runs."""

from pathlib import Path

from resnet_repro.papers.judgement import Judgement, judge
from resnet_repro.runs.finished import read
from resnet_repro.runs.groups import Comparison, group


def comparison(outputs: Path) -> Comparison:
    (only,) = group(read(outputs)[0])
    return only


def claim(outputs: Path, about: str, arch: str | None = None) -> Judgement:
    """Return the judgement of this claim; of several, the one about this architecture."""
    (only,) = (each for each in judge(comparison(outputs)) if each.rule == about and arch in (None, each.arch))
    return only


def verdict(outputs: Path, about: str, arch: str | None = None) -> str:
    return claim(outputs, about, arch).verdict
