"""The verdicts: right on clear runs, silent on too few, and their uncertainty is that of the rule."""

import math
import shlex
import statistics
from functools import cache
from itertools import product
from pathlib import Path

import pytest

from resnet_repro.claims import Claim, judge, registry, rule
from resnet_repro.evidence import Estimate, difference, error
from resnet_repro.experiment import make_jobs
from resnet_repro.finished import read
from resnet_repro.results import Protocol, group
from tests.synthetic_runs import write_constructed, write_layers, write_run
from tests.test_experiment import composed


def protocol(outputs: Path) -> Protocol:
    (only,) = group(read(outputs)[0])
    return only


def claim(outputs: Path, about: str, arch: str | None = None) -> Claim:
    """The one claim that this rule judges, of several that about this architecture."""
    (only,) = (each for each in judge(protocol(outputs)) if each.rule == about and arch in (None, each.arch))
    return only


def verdict(outputs: Path, about: str, arch: str | None = None) -> str:
    return claim(outputs, about, arch).verdict


def write_all(outputs: Path, errors: dict[tuple[str, int], tuple[float, float]]) -> None:
    for (arch, depth), (train, test) in errors.items():
        write_run(outputs, arch, depth, train=train, test=test)


THREE = ("degradation", "no_degradation", "beats_plain")


def test_every_claim_has_a_rule_a_source_and_words_without_gaps(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet_v1", 20)
    write_run(tmp_path, "resnet_v2", 20)
    judged = judge(protocol(tmp_path))
    assert {each.rule for each in judged} == {entry["rule"] for entry in registry()}
    assert {each.arch for each in judged if each.rule == "gain_with_depth"} == {"resnet_v1", "resnet_v2"}
    for each in judged:
        assert callable(rule(each.rule))
        assert each.source.startswith(("v1 ", "v2 "))
        assert "{" not in each.sentence + each.measure
        assert each.numbers


def test_the_papers_picture_holds(tmp_path: Path) -> None:
    write_all(
        tmp_path,
        {("plain", 20): (2, 4), ("plain", 110): (88, 89), ("resnet_v1", 20): (1, 8), ("resnet_v1", 110): (1.2, 2)},
    )
    for about in (*THREE, "not_overfitting", "gain_with_depth"):
        assert verdict(tmp_path, about) == "holds", about


def test_the_opposite_picture_does_not_hold(tmp_path: Path) -> None:
    write_all(
        tmp_path,
        {("plain", 20): (9, 9), ("plain", 110): (2, 4), ("resnet_v1", 20): (1, 3), ("resnet_v1", 110): (40, 41)},
    )
    for about in (*THREE, "gain_with_depth"):
        assert verdict(tmp_path, about) == "does not hold", about
    assert verdict(tmp_path, "not_overfitting") == "not enough runs"  # there is no higher test error to explain


def test_a_deeper_net_that_only_generalises_worse_overfits(tmp_path: Path) -> None:
    write_all(tmp_path, {("plain", 20): (9, 10), ("plain", 110): (2, 40)})
    assert verdict(tmp_path, "not_overfitting") == "does not hold"


def test_a_difference_within_two_standard_errors_does_not_hold(tmp_path: Path) -> None:
    # 10 % of 1,500 images: standard error 0.77 each, 1.10 of the difference
    write_all(tmp_path, {("plain", 20): (10, 10), ("plain", 56): (12, 12)})
    assert verdict(tmp_path, "degradation") == "does not hold"
    write_run(tmp_path, "plain", 110, train=13, test=13)
    assert verdict(tmp_path, "degradation") == "holds"


@pytest.mark.parametrize(("deep", "expected"), [(1.95, "holds"), (2.05, "does not hold")])
def test_a_residual_net_may_lose_one_point(tmp_path: Path, deep: float, expected: str) -> None:
    for seed in (0, 1):  # equal seeds: no uncertainty, only the margin is left
        write_run(tmp_path, "resnet_v2", 20, seed, train=1.0)
        write_run(tmp_path, "resnet_v2", 56, seed, train=deep)
    assert verdict(tmp_path, "no_degradation") == expected


def test_too_few_runs_are_said_to_be_too_few_with_a_command(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 56, train=30, schedule__steps=400)
    claims = judge(protocol(tmp_path))
    assert {each.verdict for each in claims} == {"not enough runs"}
    one = claim(tmp_path, "degradation")
    assert one.command == "python train.py -m depth=20,56 arch=plain data=digits schedule.steps=400"
    assert "arch=plain,resnet_v1" in claim(tmp_path, "beats_plain").command


def test_a_command_makes_runs_of_the_same_protocol_on_the_same_photographs(tmp_path: Path) -> None:
    departs = {"num_train": 600, "num_classes": 10, "root": "my photos", "crop": 64, "shorter_side": [64, 120]}
    data = {f"data__{key}": value for key, value in departs.items()}
    write_run(tmp_path, "plain", 34, data__name="imagenet", **data, schedule__batch_size=16, schedule__eval_every=7)
    assert shlex.split(claim(tmp_path, "degradation").command) == [
        *("python", "train.py", "-m", "depth=18,34", "arch=plain", "data=imagenet", "data.root=my photos"),
        *("data.crop=64", "data.shorter_side=[64, 120]", "schedule.batch_size=16"),
    ]


def test_every_command_for_missing_runs_on_imagenet_is_of_networks_that_there_are(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 18, test=None, val=30.0, data__name="imagenet")
    commands = {each.command for each in judge(protocol(tmp_path)) if each.command}
    assert "python train.py -m depth=18,34 arch=plain data=imagenet" in commands
    assert len(commands) == 9
    once = cache(lambda *overrides: composed(overrides))
    for command in commands:
        words = (word.partition("=") for word in command.split() if "=" in word)
        sweep = [[f"{name}={value}" for value in values.split(",")] for name, _, values in words]
        jobs = make_jobs(
            lambda overrides: once(*overrides), [[*one, "seed=0"] for one in product(*sweep)]
        ).jobs  # refuses what there is not
        assert {job.config["depth"] for job in jobs} <= {18, 34}, command
        assert len(jobs) > 1, command


def test_every_main_residual_architecture_is_judged_and_no_ablation(tmp_path: Path) -> None:
    write_all(tmp_path, {("plain", 20): (9, 9), ("resnet_v1", 20): (1, 3), ("resnet_v2", 20): (1, 3)})
    write_run(tmp_path, "resnet_v1", 20, name="ablation", arch__mix="half_shortcut", train=80, test=80)
    about = [each.arch for each in judge(protocol(tmp_path)) if each.rule == "beats_plain"]
    assert about == ["resnet_v1", "resnet_v2"]


def test_validation_error_stands_in_where_there_is_no_test_error(tmp_path: Path) -> None:
    for arch, val in (("plain", 60.0), ("resnet_v1", 10.0)):
        write_run(tmp_path, arch, 56, test=None, val=val, data__val_size=200)
    found = claim(tmp_path, "beats_plain")
    assert found.verdict == "holds"
    assert "validation error" in found.sentence
    assert "+50.00 points" in found.numbers


def test_uncertainty_is_of_the_seeds_where_there_are_some_and_of_the_images_where_there_is_one(tmp_path: Path) -> None:
    errors = [9.0, 10.0, 12.5]
    for seed, each in enumerate(errors):
        write_run(tmp_path, "plain", 20, seed, train=each)
    write_run(tmp_path, "plain", 56, train=20.0)
    seeds, single = (error(cell, "train").standard_error for cell in protocol(tmp_path).cells)
    assert seeds == pytest.approx(statistics.stdev(errors) / math.sqrt(3))
    assert single == pytest.approx(100 * math.sqrt(0.2 * 0.8 / 1408))
    numbers = claim(tmp_path, "degradation").numbers
    assert "plain-56 has one seed: its uncertainty is from the number of images only" in numbers


def test_an_unknown_uncertainty_is_said_and_counts_as_none(tmp_path: Path) -> None:
    write_run(tmp_path)
    (cell,) = protocol(tmp_path).cells
    found = difference(Estimate(cell, 2.0, math.nan, 1, "a"), Estimate(cell, 1.0, math.nan, 1, "b"), what="x", unit="")
    assert found.exceeds()
    assert not found.exceeds(1.0)
    assert "no uncertainty known" in found.text


def test_a_diverged_run_is_named_beside_the_verdict(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 20, train=2)
    write_run(tmp_path, "plain", 110, train=90, results={"diverged_at": 17})
    assert "plain-110 90.00, 1 of 1 diverged" in claim(tmp_path, "degradation").numbers


def test_two_residual_nets_that_have_learned_nothing_prove_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet_v2", 20, train=89)
    write_run(tmp_path, "resnet_v2", 56, train=89)
    found = claim(tmp_path, "no_degradation")
    assert found.verdict == "not enough runs"
    assert found.numbers == "Needs more steps: resnet_v2-20 itself has 89.00 % training error."


def test_the_shallowest_pair_says_which_converges_faster(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 20, train=20)  # the made-up curves end early where they end low
    write_run(tmp_path, "resnet_v1", 20, train=1)
    write_run(tmp_path, "plain", 110, train=1)
    write_run(tmp_path, "resnet_v1", 110, train=40)
    found = claim(tmp_path, "converges_faster")
    assert found.verdict == "holds"
    assert "plain-20" in found.numbers


@pytest.mark.parametrize(("c", "expected"), [(5.5, "holds"), (12.0, "does not hold")])
def test_the_options_differ_little_or_not(tmp_path: Path, c: float, expected: str) -> None:
    write_run(tmp_path, "resnet_v1", 56, test=6)
    assert "arch.shortcut=A,B,C" in claim(tmp_path, "options_differ_little").command
    write_run(tmp_path, "resnet_v1", 56, name="B", arch__shortcut="B", test=5.5)
    write_run(tmp_path, "resnet_v1", 56, name="C", arch__shortcut="C", test=c)
    assert verdict(tmp_path, "options_differ_little") == expected


@pytest.mark.parametrize(("deep", "expected"), [(0.2, "holds"), (0.6, "does not hold")])
def test_responses_are_compared_by_their_median_without_the_stem(tmp_path: Path, deep: float, expected: str) -> None:
    write_layers(write_run(tmp_path, "plain", 56), stds=[9.0, 1.0, 1.0, 70.0])
    write_layers(write_run(tmp_path, "resnet_v1", 20), stds=[0.1, 0.5, 0.5, 0.5])
    write_layers(write_run(tmp_path, "resnet_v1", 56), stds=[9.0, deep, deep, 5.0])
    assert "plain-56 1.00, resnet_v1-56 " in claim(tmp_path, "smaller_responses").numbers
    assert verdict(tmp_path, "smaller_responses") == "holds"
    assert verdict(tmp_path, "deeper_smaller_responses") == expected


def test_runs_that_have_not_measured_their_layers_are_not_enough(tmp_path: Path) -> None:
    write_all(tmp_path, {("plain", 20): (9, 9), ("resnet_v1", 20): (1, 3), ("resnet_v1", 56): (1, 3)})
    for about in ("smaller_responses", "deeper_smaller_responses", "healthy_gradients"):
        assert verdict(tmp_path, about) == "not enough runs"


@pytest.mark.parametrize(
    ("last", "expected"),
    [([0.5, 1.0, 1.0], "holds"), ([0.01, 1.0, 1.0], "does not hold"), ([math.nan] * 3, "does not hold")],
)
def test_gradients_that_vanish_towards_the_image_are_seen(tmp_path: Path, last: list[float], expected: str) -> None:
    write_layers(write_run(tmp_path, "plain", 20), gradients={1: [0.0, 1.0, 1.0]})  # not the deepest
    write_layers(write_run(tmp_path, "plain", 56), gradients={1: [40.0, 1.0, 2.0], 220: last})
    found = claim(tmp_path, "healthy_gradients")
    assert found.verdict == expected
    assert found.numbers.startswith("plain-56: 20 at step 1, ")


def test_a_solution_that_exists_and_is_not_found_is_the_plain_nets(tmp_path: Path) -> None:
    write_all(tmp_path, {("plain", 20): (1, 3), ("plain", 56): (60, 62), ("resnet_v1", 56): (1, 3)})
    assert claim(tmp_path, "not_found_by_the_solver").command.endswith(
        "experiment=constructed_solution arch=plain data=digits"
    )
    write_constructed(tmp_path, "plain", 56, train=1.5)
    write_constructed(tmp_path, "resnet_v1", 56, train=1.1)
    assert verdict(tmp_path, "not_found_by_the_solver") == "holds"
    assert verdict(tmp_path, "found_by_the_solver", "resnet_v1") == "holds"


def test_a_construction_with_another_error_is_no_evidence(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 56, train=60)
    write_constructed(tmp_path, "plain", 56, train=1.5, begun=4.0)
    assert verdict(tmp_path, "not_found_by_the_solver") == "not enough runs"
