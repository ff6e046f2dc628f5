"""Rows of the papers, runs of ours beside them, and the table of verdicts as it is shown."""

import io
import math
from pathlib import Path
from typing import Any

from rich.console import Console

from resnet_repro.papers import verdict_text
from resnet_repro.papers.rows import Published, registry
from resnet_repro.papers.verdicts import Verdict
from resnet_repro.runs.finished import FinishedRun
from tests.helpers.synthetic_runs import config


def row(source: str, printed: str) -> Published:
    (found,) = (row for row in registry() if (row.source, row.printed) == (source, printed) and "-100" not in row.what)
    return found


def runs(*errors: float | None, arch: str = "resnet_v1", depth: int = 110, **changes: Any) -> list[FinishedRun]:
    """Runs with these test errors on 10,000 images of CIFAR-10."""
    made = config(arch, depth, data__name="cifar10")
    results = {"num_test_images": 10_000, "diverged_at": None}
    return [
        FinishedRun(Path(), {"config": made, "departures": {}, "results": results | {"test/error": error}} | changes)
        for error in errors
    ]


BEST = row("v1 Table 6", "ResNet-110")  # 6.43 (6.61 ± 0.16), best of 5


SINGLE = row("v1 Table 6", "ResNet-20")  # 8.75


MEDIAN = row("v2 Table 2", "ResNet-110, full pre-activation")  # 6.37, median of 5


STANDARD_FIVE = [z / math.sqrt(2.5) for z in (-2, -1, 0, 1, 2)]
"""Five numbers of mean and median 0 and sample standard deviation 1."""


def shown(*found: Verdict, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    verdict_text.show({"v1 Table 6: CIFAR-10 test error": list(found)}, console)
    return console.file.getvalue()  # type: ignore[attr-defined]
