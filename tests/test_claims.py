"""The verdicts: right on clear runs, silent on too few, and their uncertainty is that of the rule."""

import math
import statistics
from pathlib import Path

import pytest

from resnet_repro.claims import Claim, judge, standard_error
from resnet_repro.results import Protocol, group, read
from tests.synthetic_runs import write_run


def protocol(outputs: Path) -> Protocol:
    (only,) = group(read(outputs)[0])
    return only


def verdicts(outputs: Path) -> list[str]:
    return [claim.verdict for claim in judge(protocol(outputs))]


def write_all(outputs: Path, errors: dict[tuple[str, int], tuple[float, float]]) -> None:
    for (arch, depth), (train, test) in errors.items():
        write_run(outputs, arch, depth, train=train, test=test)


def test_the_papers_picture_holds_in_all_three_claims(tmp_path: Path) -> None:
    write_all(
        tmp_path,
        {("plain", 20): (2, 4), ("plain", 110): (88, 89), ("resnet_v1", 20): (1, 3), ("resnet_v1", 110): (1.2, 2)},
    )
    assert verdicts(tmp_path) == ["holds"] * 3


def test_the_opposite_picture_holds_in_none(tmp_path: Path) -> None:
    write_all(
        tmp_path,
        {("plain", 20): (9, 9), ("plain", 110): (2, 4), ("resnet_v1", 20): (1, 3), ("resnet_v1", 110): (40, 41)},
    )
    assert verdicts(tmp_path) == ["does not hold"] * 3


def test_a_difference_within_two_standard_errors_does_not_hold(tmp_path: Path) -> None:
    # 10 % of 1,500 images: standard error 0.77 each, 1.10 of the difference
    write_all(tmp_path, {("plain", 20): (10, 10), ("plain", 56): (12, 12)})
    assert verdicts(tmp_path)[0] == "does not hold"
    write_run(tmp_path, "plain", 110, train=13, test=13)
    assert verdicts(tmp_path)[0] == "holds"


@pytest.mark.parametrize(("deep", "verdict"), [(1.95, "holds"), (2.05, "does not hold")])
def test_a_residual_net_may_lose_one_point(tmp_path: Path, deep: float, verdict: str) -> None:
    for seed in (0, 1):  # equal seeds: no uncertainty, only the margin is left
        write_run(tmp_path, "resnet_v2", 20, seed, train=1.0)
        write_run(tmp_path, "resnet_v2", 56, seed, train=deep)
    assert verdicts(tmp_path)[1] == verdict


def test_too_few_runs_are_said_to_be_too_few_with_a_command(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 56, train=30, schedule__steps=400)
    claims = judge(protocol(tmp_path))
    assert [claim.verdict for claim in claims] == ["not enough runs"] * 3
    assert claims[0].command == "python train.py -m depth=20,56 arch=plain data=digits schedule.steps=400"
    assert "arch=plain,resnet_v1" in claims[2].command


def test_every_main_residual_architecture_is_judged_and_no_ablation(tmp_path: Path) -> None:
    write_all(tmp_path, {("plain", 20): (9, 9), ("resnet_v1", 20): (1, 3), ("resnet_v2", 20): (1, 3)})
    write_run(tmp_path, "resnet_v1", 20, name="ablation", arch__mix="half_shortcut", train=80, test=80)
    sentences = " ".join(claim.sentence for claim in judge(protocol(tmp_path)))
    assert sentences.count("resnet_v1") == sentences.count("resnet_v2") == 2
    assert "half_shortcut" not in sentences


def test_validation_error_stands_in_where_there_is_no_test_error(tmp_path: Path) -> None:
    for arch, val in (("plain", 60.0), ("resnet_v1", 10.0)):
        write_run(tmp_path, arch, 56, test=None, val=val, data__val_size=200)
    claim: Claim = judge(protocol(tmp_path))[-1]
    assert claim.verdict == "holds"
    assert "validation error" in claim.sentence
    assert "+50.00 points" in claim.numbers


def test_uncertainty_is_of_the_seeds_where_there_are_some_and_of_the_images_where_there_is_one(tmp_path: Path) -> None:
    errors = [9.0, 10.0, 12.5]
    for seed, error in enumerate(errors):
        write_run(tmp_path, "plain", 20, seed, train=error)
    write_run(tmp_path, "plain", 56, train=20.0)
    found = protocol(tmp_path)
    seeds, single = (standard_error(cell, split="train") for cell in found.cells)
    assert seeds == pytest.approx(statistics.stdev(errors) / math.sqrt(3))
    assert single == pytest.approx(100 * math.sqrt(0.2 * 0.8 / 1408))
    assert "plain-56 has one seed: its uncertainty is from the number of images only" in judge(found)[0].numbers


def test_a_diverged_run_is_named_beside_the_verdict(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 20, train=2)
    write_run(tmp_path, "plain", 110, train=90, results={"diverged_at": 17})
    assert "plain-110 90.00, 1 of 1 diverged" in judge(protocol(tmp_path))[0].numbers


def test_two_residual_nets_that_have_learned_nothing_prove_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet_v2", 20, train=89)
    write_run(tmp_path, "resnet_v2", 56, train=89)
    claim = judge(protocol(tmp_path))[1]
    assert claim.verdict == "not enough runs"
    assert claim.numbers == "resnet_v2-20 itself has 89.00 % training error: needs more steps."
