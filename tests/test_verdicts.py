"""Verdicts on made-up errors, against numbers worked out by hand from the stated rule."""

import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from resnet_repro import verdict_tables, verdicts
from resnet_repro.finished import Run
from resnet_repro.paper import Published, registry
from resnet_repro.verdicts import Verdict, judge
from tests.synthetic_runs import config


def row(source: str, printed: str) -> Published:
    (found,) = (row for row in registry() if (row.source, row.printed) == (source, printed) and "-100" not in row.what)
    return found


def runs(*errors: float | None, arch: str = "resnet_v1", depth: int = 110, **changes: Any) -> list[Run]:
    """Runs with these test errors on 10,000 images of CIFAR-10."""
    made = config(arch, depth, data__name="cifar10")
    results = {"num_test_images": 10_000, "diverged_at": None}
    return [
        Run(Path(), {"config": made, "departures": {}, "results": results | {"test/error": error}} | changes)
        for error in errors
    ]


BEST = row("v1 Table 6", "ResNet-110")  # 6.43 (6.61 ± 0.16), best of 5
SINGLE = row("v1 Table 6", "ResNet-20")  # 8.75
MEDIAN = row("v2 Table 2", "ResNet-110, full pre-activation")  # 6.37, median of 5
PLAIN = row("v1 Fig. 6", "plain-110")  # over 60


def test_means_are_compared_where_the_paper_prints_one() -> None:
    found = judge(BEST, runs(6.5, 6.7, 6.9))
    assert found.difference == pytest.approx(6.7 - 6.61)
    assert found.uncertainty == pytest.approx(2 * math.hypot(0.2 / math.sqrt(3), 0.16 / math.sqrt(5)))
    assert found.word == "agrees"
    assert judge(BEST, runs(7.1, 7.2, 7.3)).word == "differs"
    assert judge(BEST, runs(6.0, 6.1, 6.2)).word == "differs"  # better than the paper is not the paper's number


def test_a_median_is_compared_with_our_median_and_ours_lends_it_its_spread() -> None:
    found = judge(MEDIAN, runs(6.2, 6.3, 6.4, 6.5, 9.0, arch="resnet_v2"))
    std = math.sqrt(sum((e - 6.88) ** 2 for e in (6.2, 6.3, 6.4, 6.5, 9.0)) / 4)
    assert found.difference == pytest.approx(6.4 - 6.37)
    assert found.uncertainty == pytest.approx(
        2 * math.sqrt(math.pi / 2) * math.hypot(std / math.sqrt(5), std / math.sqrt(5))
    )
    assert found.word == "agrees"


@pytest.mark.parametrize(("ours", "word"), [(8.75, "agrees"), (9.54, "agrees"), (9.56, "differs"), (7.94, "differs")])
def test_one_run_against_one_run_has_the_binomial_error_of_the_test_images(ours: float, word: str) -> None:
    found = judge(SINGLE, runs(ours, depth=20))
    sigma = 100 * math.sqrt(0.0875 * 0.9125 / 10_000)
    assert found.uncertainty == pytest.approx(2 * math.sqrt(2) * sigma)  # 0.80 points
    assert found.word == word


def test_several_runs_against_a_single_number_take_our_spread_for_both() -> None:
    found = judge(SINGLE, runs(8.6, 8.8, 9.0, depth=20))
    assert found.uncertainty == pytest.approx(2 * math.hypot(0.2 / math.sqrt(3), 0.2))


@pytest.mark.parametrize(
    ("errors", "word"), [((6.6,), "too few runs"), ((6.6, 6.7), "too few runs"), ((6.5, 6.6, 6.7), "agrees")]
)
def test_too_few_runs_is_its_own_answer(errors: tuple[float, ...], word: str) -> None:
    assert judge(BEST, runs(*errors)).word == word
    assert judge(BEST, []).word == "not run"


def test_a_printed_bound_agrees_where_ours_is_over_it() -> None:
    assert judge(PLAIN, runs(60.1, arch="plain")).word == "agrees"
    assert judge(PLAIN, runs(59.9, arch="plain")).word == "differs"


def test_a_failure_in_the_paper_agrees_with_a_median_over_20_and_with_divergence() -> None:
    fail = row("v2 Table 1", "dropout shortcut 0.5")
    made = config("resnet_v1", 110, data__name="cifar10", arch__shortcut="dropout")
    made["protocol"]["name"] = "paper_v2"
    assert judge(fail, runs(19.0, 21.0, 25.0, config=made)).word == "agrees"
    assert judge(fail, runs(19.0, 19.5, 25.0, config=made)).word == "differs"
    assert judge(fail, runs(25.0, config=made)).word == "too few runs"
    nothing = {"test/error": None, "diverged_at": 3, "num_test_images": 10_000}
    found = judge(fail, runs(1, 2, 3, config=made, results=nothing))
    assert found.ours is not None
    assert (found.word, found.ours.median) == ("agrees", 100.0)


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
def test_a_run_of_another_recipe_network_or_data_is_not_comparable(change: dict[str, Any], reason: str) -> None:
    found = judge(BEST, runs(6.5, 6.6, 6.7, **change))
    assert (found.word, found.difference) == ("not comparable", None)
    assert reason in found.reason


def test_one_shortened_run_among_full_ones_keeps_the_cell_from_comparison() -> None:
    mixed = runs(6.5, 6.6) + runs(6.7, departures={"schedule.steps": 400})
    assert judge(BEST, mixed).word == "not comparable"
    other = runs(6.5, 6.6) + runs(6.7, depth=56)
    assert judge(BEST, other).reason == "depth=56, not 110"


def test_another_papers_network_has_no_verdict_but_a_reason() -> None:
    found = judge(row("v1 Table 6", "Maxout"), [])
    assert (found.word, found.reason) == ("", "another paper's network, for comparison")


def shown(*found: Verdict, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    verdict_tables.show({"v1 Table 6: CIFAR-10 test error": list(found)}, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_shows_the_papers_own_statistic_first_and_the_rule(width: int) -> None:
    text = shown(judge(BEST, runs(6.5, 6.7, 6.9)), judge(row("v1 Table 6", "NIN"), []), width=width)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "ResNet-110 6.43, best of 5 6.50, best of 3 +0.09 ± 0.27 agrees [a]" in lines
    assert "mean 6.61 ± 0.16 mean 6.70 ± 0.20" in lines
    assert "median 6.70" in lines
    assert "NIN 8.81 [b]" in lines
    assert "[a] protocol paper_v1" in lines
    assert "[b] another paper's network, for comparison" in lines
    assert " ".join(lines).endswith(verdicts.RULE)


def test_a_cell_tells_protocol_and_conditions_of_its_runs() -> None:
    made = config("resnet_v1", 110, data__name="cifar10")
    made["hardware"] = {"precision": "bf16-mixed", "devices": 1, "num_nodes": 1}
    made["schedule"]["ghost_batch_size"] = None
    assert verdict_tables.note(judge(BEST, runs(6.5, config=made))) == (
        "protocol paper_v1, batch norm over 128 images, not 64, bf16-mixed"
    )
