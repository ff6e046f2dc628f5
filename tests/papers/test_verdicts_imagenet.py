"""Verdicts on the rows of ImageNet, each by its own test."""

import math
from pathlib import Path
from typing import Any

import pytest

from resnet_repro.papers import verdict_text
from resnet_repro.papers.rows import registry
from resnet_repro.papers.verdicts import judge
from resnet_repro.runs.finished import FinishedRun
from tests.helpers.synthetic_runs import SHA, config, entry
from tests.helpers.verdicts import row, shown

OTHER = "cd" * 32
WIDTH = 1.959964 * math.sqrt(2)  # of the interval of two single runs, in standard deviations
IMAGENET = {"unit": "basic", "shortcut": "A", "protocol": "paper_v1"}
TEN_CROPS = row("v1 Table 3", "ResNet-34 A")  # 25.03, top-5 7.76


def on_imagenet(
    error: float, *, depth: int, seed: int = 0, tests: list[dict[str, Any]] = (), **how: Any
) -> FinishedRun:  # type: ignore[assignment]
    """Return a run with this validation error on ImageNet's 50,000 images and these other tests."""
    how = IMAGENET | how
    made = config("resnet_v1", depth, seed, data__name="imagenet", protocol__name=how["protocol"])
    made["arch"] |= {key: how[key] for key in ("unit", "shortcut")}
    results = {"num_val_images": 50_000, "val/error": error, "val/error_top5": error / 3}
    record = {"weights_sha256": SHA, "data_checksum": "5f3c", "departures": how.get("departures", {})}
    return FinishedRun(
        Path(f"outputs/imagenet/run-s{seed}"), {"config": made, "results": results, **record}, {}, list(tests)
    )


def test_a_one_crop_number_is_compared_with_the_runs_own_error() -> None:
    ours = on_imagenet(
        23.3, depth=152, unit="bottleneck", shortcut="B", protocol="paper_v2", tests=[entry("10crop", 1.0)]
    )
    verdict = judge(row("v2 Table 5", "ResNet-152, tested at 224"), [ours])
    assert verdict.difference == pytest.approx(0.3)
    assert verdict.uncertainty == pytest.approx(WIDTH * 100 * math.sqrt(0.23 * 0.77 / 50_000))
    assert verdict.word == "agrees"


def test_a_ten_crop_number_is_compared_with_the_newest_test() -> None:
    ours = on_imagenet(27.0, depth=34, tests=[entry("10crop", 30.0), entry("10crop", 25.2), entry("multiscale", 19.0)])
    verdict = judge(TEN_CROPS, [ours])
    assert (verdict.word, verdict.reason) == ("agrees", "")
    assert verdict.difference == pytest.approx(25.2 - 25.03)
    assert verdict.uncertainty == pytest.approx(WIDTH * 100 * math.sqrt(0.2503 * 0.7497 / 50_000))
    assert judge(TEN_CROPS, [on_imagenet(25.03, depth=34, tests=[entry("10crop", 27.0)])]).word == "differs"


@pytest.mark.parametrize("way", ["multiscale", "320"])
def test_each_row_takes_its_own_way_to_test(way: str) -> None:
    source, printed, error, depth, how = {
        "multiscale": ("v1 Table 4", "ResNet-50", 20.7, 50, {"protocol": "paper_v1"}),
        "320": ("v2 Table 5", "ResNet-152, tested at 320", 21.3, 152, {"protocol": "paper_v2"}),
    }[way]
    tests = [entry(way, error), entry("10crop", 22.0)]
    ours = on_imagenet(23.0, depth=depth, unit="bottleneck", shortcut="B", tests=tests, **how)
    verdict = judge(row(source, printed), [ours])
    assert verdict.ours is not None
    assert (verdict.word, verdict.ours.mean, verdict.test) == ("agrees", error, way)


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": [OTHER]},
        {"weights_sha256": [SHA, OTHER], "runs": ["run-s0", "run-s1"]},
        {"data_checksum": "another folder"},
        {"split": "test"},
        {"test": "multiscale"},
    ],
)
def test_a_test_of_other_weights_images_or_ways_does_not_count(
    change: dict[str, Any],
) -> None:
    verdict = judge(TEN_CROPS, [on_imagenet(27.0, depth=34, tests=[entry("10crop", 25.0) | change])])
    assert (verdict.word, verdict.difference, verdict.test) == ("not comparable", None, "1crop")
    assert verdict.reason == (
        "ours is of one crop: `python evaluate.py run=outputs/imagenet/run-s0 test=10crop recompute_bn=true` tests it "
        "as the paper did"
    )
    assert verdict.ours is not None
    assert verdict_text.numbers(verdict)["ours"].splitlines() == ["27.00, 1 run", "top-5 9.00", "one crop"]


def test_recomputed_statistics_count_if_the_authors_averaged() -> None:
    tests = [entry("10crop", 25.0, num_bn_images=50_000), entry("10crop", 24.0)]
    verdict = judge(TEN_CROPS, [on_imagenet(27.0, depth=34, tests=tests)])
    assert verdict.ours is not None
    assert (verdict.ours.mean, verdict.test) == (25.0, "10crop")
    assert "batch norm averaged over 50,000 images" in verdict.conditions
    running = judge(TEN_CROPS, [on_imagenet(27.0, depth=34, tests=tests[1:])])
    assert running.ours is not None
    assert running.ours.mean == 24.0
    assert "running averages in batch norm, not plain" in running.conditions


def test_elsewhere_recomputed_statistics_do_not_count() -> None:
    tests = [entry("10crop", 24.0, num_bn_images=50_000)]
    verdict = judge(row("v1 Table 2", "ResNet-34"), [on_imagenet(27.0, depth=34, tests=tests)])
    assert verdict.word == "not comparable"
    assert "test=10crop` tests it as the paper did" in verdict.reason


def test_the_tables_of_plain_averages_are_v1_tables_3_and_4() -> None:
    assert {each.source for each in registry() if each.batch_norm == "average"} == {"v1 Table 3", "v1 Table 4"}


def test_every_seed_must_be_tested_with_a_command_of_its_own() -> None:
    seeds = [on_imagenet(27.0, depth=34, seed=seed, tests=[entry("10crop", 25.0)] * (seed == 0)) for seed in range(3)]
    verdict = judge(TEN_CROPS, seeds)
    assert verdict.word == "not comparable"
    assert "run=outputs/imagenet/run-s1 test=10crop" in verdict.reason
    assert verdict.reason.endswith("as the paper did, and so each of 1 more")
    all_tested = [
        on_imagenet(27.0, depth=34, seed=seed, tests=[entry("10crop", 25.0 + seed / 10)]) for seed in range(3)
    ]
    assert judge(TEN_CROPS, all_tested).difference == pytest.approx(25.1 - 25.03)


def test_a_shortened_run_gets_no_command_for_the_papers_test() -> None:
    verdict = judge(TEN_CROPS, [on_imagenet(27.0, depth=34, departures={"data.crop": 64})])
    assert (verdict.word, verdict.reason) == ("not comparable", "data.crop=64")


def test_a_printed_top5_error_is_shown_and_decides_nothing() -> None:
    verdict = judge(TEN_CROPS, [on_imagenet(27.0, depth=34, tests=[entry("10crop", 25.0, top5=50.0)])])
    assert verdict.word == "agrees"
    uncertainty = WIDTH * 100 * math.sqrt(0.0776 * 0.9224 / 50_000)
    assert verdict_text.numbers(verdict) == {
        "paper": "25.03\ntop-5 7.76",
        "ours": "25.00, 1 run\ntop-5 50.00",
        "difference": f"-0.03 ± 0.54\n+42.24 ± {uncertainty:.2f}",
    }
    without = judge(row("v1 Table 2", "ResNet-34"), [on_imagenet(27.0, depth=34, tests=[entry("10crop", 25.0)])])
    assert "top-5" not in verdict_text.numbers(without)["ours"]


def test_a_number_format_that_only_the_test_had_is_a_condition() -> None:
    verdict = judge(TEN_CROPS, [on_imagenet(27.0, depth=34, tests=[entry("10crop", 25.0, precision="bf16-mixed")])])
    assert "tested in bf16-mixed" in verdict.conditions


def test_a_table_with_top5_errors_fits_80_columns() -> None:
    seeds = [on_imagenet(27.0, depth=34, seed=seed, tests=[entry("10crop", 25.0 + seed / 10)]) for seed in range(3)]
    lines = [" ".join(line.split()) for line in shown(judge(TEN_CROPS, seeds), width=80).splitlines()]
    assert "ResNet-34 A 25.03 25.10 ± 0.10, mean of 3 +0.07 ± 0.62 agrees [a]" in lines
    assert "top-5 7.76 top-5 7.90 ± 0.00 +0.14 ± 0.38" in lines


def test_a_command_in_a_note_stays_one_line_in_a_narrow_terminal() -> None:
    text = shown(judge(TEN_CROPS, [on_imagenet(27.0, depth=34)]), width=60)
    assert "`python evaluate.py run=outputs/imagenet/run-s0 test=10crop recompute_bn=true` tests it" in text
