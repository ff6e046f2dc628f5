"""Claims hold or not on clear runs, and stay undecided, by the stated rule, on few or unclear runs."""

import math
import shlex
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from scipy import stats

from resnet_repro.launch.experiment import make_jobs
from resnet_repro.papers.claims import CLAIMS
from resnet_repro.papers.estimates import all_of, difference, error, quantity
from resnet_repro.papers.judgement import judge
from tests.helpers.claims import claim, comparison, verdict
from tests.helpers.runs import composed_with_choices
from tests.helpers.synthetic_runs import write_constructed, write_layers, write_run


def write_all(outputs: Path, errors: dict[tuple[str, int], tuple[float, float]]) -> None:
    for (arch, depth), (train, test) in errors.items():
        write_run(outputs, arch, depth, train=train, test=test)


SEEDS = [9.0, 10.0, 12.5]
THREE = ("degradation", "no_degradation", "beats_plain")


def test_every_claim_has_a_rule_a_source_and_words_without_gaps(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet_v1", 20)
    write_run(tmp_path, "resnet_v2", 20)
    judged = judge(comparison(tmp_path))
    assert {each.rule for each in judged} == {each.name for each in CLAIMS}
    assert {each.arch for each in judged if each.rule == "gain_with_depth"} == {"resnet_v1", "resnet_v2"}
    for each in judged:
        assert each.source.startswith(("v1 ", "v2 "))
        assert "{" not in each.sentence + each.measure
        assert each.numbers


def test_the_papers_claims_hold_on_their_own_pattern(tmp_path: Path) -> None:
    write_all(
        tmp_path,
        {("plain", 20): (2, 4), ("plain", 110): (88, 89), ("resnet_v1", 20): (1, 8), ("resnet_v1", 110): (1.2, 2)},
    )
    for about in (*THREE, "not_overfitting", "gain_with_depth"):
        assert verdict(tmp_path, about) == "holds", about


def test_the_opposite_pattern_does_not_hold(tmp_path: Path) -> None:
    write_all(
        tmp_path,
        {("plain", 20): (9, 15), ("plain", 110): (2, 4), ("resnet_v1", 20): (1, 3), ("resnet_v1", 110): (40, 41)},
    )
    for about in (*THREE, "gain_with_depth"):
        assert verdict(tmp_path, about) == "does not hold", about
    overfitting = claim(tmp_path, "not_overfitting")  # no higher test error needs an explanation
    assert (overfitting.verdict, overfitting.lacks_runs) == ("not decided", True)


def test_a_deeper_net_that_only_generalises_worse_overfits(tmp_path: Path) -> None:
    write_all(tmp_path, {("plain", 20): (9, 10), ("plain", 110): (2, 40)})
    assert verdict(tmp_path, "not_overfitting") == "does not hold"


@pytest.mark.parametrize(
    ("deep", "expected"), [(7.0, "does not hold"), (8.5, "not decided"), (12.0, "not decided"), (13.0, "holds")]
)
def test_a_difference_within_its_interval_decides_nothing(tmp_path: Path, deep: float, expected: str) -> None:
    """10 % of 1,408 images have a standard error of 0.80: the difference is known to ± 2.2 points."""
    write_all(tmp_path, {("plain", 20): (10, 10), ("plain", 56): (deep, 12)})
    judged = claim(tmp_path, "degradation")
    assert (judged.verdict, judged.lacks_runs) == (expected, False)


@pytest.mark.parametrize(("deep", "expected"), [(0.8, "holds"), (2.3, "not decided"), (4.0, "does not hold")])
def test_a_residual_net_may_lose_two_points(tmp_path: Path, deep: float, expected: str) -> None:
    write_run(tmp_path, "resnet_v2", 20, train=0.1)
    write_run(tmp_path, "resnet_v2", 56, train=deep)
    assert verdict(tmp_path, "no_degradation") == expected


@pytest.mark.parametrize(
    ("answers", "together"),
    [([True, True], True), ([True, None], None), ([None, False], False), ([True, False], False)],
)
def test_one_no_decides_and_one_open_answer_leaves_it_open(answers: list[bool | None], together: bool | None) -> None:
    assert all_of(answers) is together


def test_missing_runs_are_named_with_their_command(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 56, train=30, schedule__steps=400)
    claims = judge(comparison(tmp_path))
    assert {(each.verdict, each.lacks_runs) for each in claims} == {("not decided", True)}
    one = claim(tmp_path, "degradation")
    assert one.command == "python train.py -m depth=20,56 arch=plain data=digits schedule.steps=400"
    assert "arch=plain,resnet_v1" in claim(tmp_path, "beats_plain").command


def test_a_command_repeats_the_recipe_and_the_photographs(tmp_path: Path) -> None:
    departs = {"num_train": 600, "num_classes": 10, "root": "my photos", "crop": 64, "shorter_side": [256, 300]}
    data = {f"data__{key}": value for key, value in departs.items()}
    write_run(tmp_path, "plain", 34, data__name="imagenet", **data, schedule__batch_size=16, schedule__eval_every=7)
    assert shlex.split(claim(tmp_path, "degradation").command) == [
        *("python", "train.py", "-m", "depth=18,34", "arch=plain", "data=imagenet", "data.root=my photos"),
        *("data.crop=64", "data.shorter_side=[256, 300]", "schedule.batch_size=16"),
    ]


def test_commands_for_missing_imagenet_runs_name_real_networks(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 18, test=None, val=30.0, data__name="imagenet")
    commands = {each.command for each in judge(comparison(tmp_path)) if each.command}
    assert "python train.py -m depth=18,34 arch=plain data=imagenet" in commands
    assert len(commands) == 9
    once = cache(lambda *overrides: composed_with_choices(overrides))
    for command in commands:
        words = (word.partition("=") for word in command.split() if "=" in word)
        sweep = [[f"{name}={value}" for value in values.split(",")] for name, _, values in words]
        jobs = make_jobs(
            lambda overrides: once(*overrides), [[*one, "seed=0"] for one in product(*sweep)]
        ).jobs  # refuses what there is not
        assert {job.run.depth for job in jobs} <= {18, 34}, command
        assert len(jobs) > 1, command


def test_both_residual_architectures_are_judged_and_no_ablation(tmp_path: Path) -> None:
    write_all(tmp_path, {("plain", 20): (9, 9), ("resnet_v1", 20): (1, 3), ("resnet_v2", 20): (1, 3)})
    write_run(tmp_path, "resnet_v1", 20, name="ablation", arch__mix="half_shortcut", train=80, test=80)
    about = [each.arch for each in judge(comparison(tmp_path)) if each.rule == "beats_plain"]
    assert about == ["resnet_v1", "resnet_v2"]


def test_without_a_test_error_the_validation_error_counts(tmp_path: Path) -> None:
    for arch, val in (("plain", 60.0), ("resnet_v1", 10.0)):
        write_run(tmp_path, arch, 56, test=None, val=val, data__val_size=200)
    judged = claim(tmp_path, "beats_plain")
    assert judged.verdict == "holds"
    assert "validation error" in judged.sentence
    assert "+50.00 ± 1.59 points" in judged.numbers


def test_uncertainty_is_the_seeds_or_for_one_seed_the_images(tmp_path: Path) -> None:
    for seed, each in enumerate(SEEDS):
        write_run(tmp_path, "plain", 20, seed, train=each)
    write_run(tmp_path, "plain", 56, train=20.0)
    seeds, single = (error(cell, "train") for cell in comparison(tmp_path).cells)
    assert seeds.spread == (pytest.approx(stats.tstd(SEEDS)), 2)
    assert single.spread == (pytest.approx(100 * math.sqrt(0.2 * 0.8 / 1408)), math.inf)
    assert "(95 % interval, from the number of images for plain-56)." in claim(tmp_path, "degradation").numbers


def test_several_seeds_are_compared_by_welchs_interval(tmp_path: Path) -> None:
    for seed, each in enumerate(SEEDS):
        write_run(tmp_path, "plain", 20, seed, train=each)
        write_run(tmp_path, "plain", 56, seed, train=12 + each / 2)
    shallow, deep = comparison(tmp_path).cells
    gap = difference(error(deep, "train"), error(shallow, "train"), what="x")
    ours = stats.ttest_ind([12 + each / 2 for each in SEEDS], SEEDS, equal_var=False)
    theirs = ours.confidence_interval(0.95)
    assert (gap.value - gap.half_width, gap.value + gap.half_width) == pytest.approx(tuple(theirs), rel=1e-4)


def test_an_unknown_uncertainty_decides_nothing_and_is_named(tmp_path: Path) -> None:
    for arch, loss in (("plain", 9.0), ("resnet_v1", 0.001)):
        write_run(tmp_path, arch, results={"train/loss": loss})
    losses = [quantity(cell, lambda run: run.results["train/loss"]) for cell in comparison(tmp_path).cells]
    gap = difference(*losses, what="Loss", unit="")
    assert (gap.exceeds(), gap.exceeds(10.0)) == (None, None)
    assert gap.text.startswith("Loss: plain-20 9.00, resnet_v1-20 0.00100; difference +9.00, of unknown uncertainty")


def test_a_diverged_run_is_named_and_not_averaged(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 20, train=2)
    write_run(tmp_path, "plain", 110, train=30)
    write_run(tmp_path, "plain", 110, 1, train=90, results={"diverged_at": 17})
    assert "plain-110 30.00, 1 of 2 diverged" in claim(tmp_path, "degradation").numbers


def test_a_depth_at_which_every_run_diverged_is_no_evidence(tmp_path: Path) -> None:
    write_all(tmp_path, {("plain", 20): (2, 4), ("plain", 56): (30, 31)})
    write_run(tmp_path, "plain", 110, train=90, results={"diverged_at": 17})
    write_layers(tmp_path / "digits" / "plain-56-s0", gradients=HEALTHY)
    assert "plain-56 30.00" in claim(tmp_path, "degradation").numbers
    assert claim(tmp_path, "healthy_gradients").numbers.endswith("plain-110 diverged.")


def test_two_untrained_residual_nets_prove_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet_v2", 20, train=89)
    write_run(tmp_path, "resnet_v2", 56, train=89)
    judged = claim(tmp_path, "no_degradation")
    assert judged.verdict == "not decided"
    assert judged.numbers == "Needs more steps: resnet_v2-20 itself has 89.00 % training error."


def test_the_shallowest_pair_says_which_converges_faster(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 20, train=20)  # a made-up curve that ends low falls early
    write_run(tmp_path, "resnet_v1", 20, train=1)
    write_run(tmp_path, "plain", 110, train=1)
    write_run(tmp_path, "resnet_v1", 110, train=40)
    judged = claim(tmp_path, "converges_faster")
    assert judged.verdict == "holds"
    assert "plain-20" in judged.numbers


@pytest.mark.parametrize(
    ("c", "seeds", "expected"), [(5.5, 3, "holds"), (7.5, 1, "not decided"), (12.0, 3, "does not hold")]
)
def test_the_options_differ_little_or_not(tmp_path: Path, c: float, seeds: int, expected: str) -> None:
    data = {"data__name": "cifar10"}
    write_run(tmp_path, "resnet_v1", 56, test=6, **data)
    assert "arch.shortcut=A,B,C" in claim(tmp_path, "options_differ_little").command
    for option, test in (("A", 6.0), ("B", 5.8), ("C", c)):
        departs = {} if option == "A" else {"arch__shortcut": option}
        for seed in range(seeds):
            write_run(
                tmp_path, "resnet_v1", 56, seed, name=f"{option}{seed}", test=test + 0.1 * seed, **data, **departs
            )
    assert verdict(tmp_path, "options_differ_little") == expected


@pytest.mark.parametrize(("deep", "expected"), [(0.2, "holds"), (0.7, "does not hold")])
def test_responses_are_compared_by_their_median_without_the_stem(tmp_path: Path, deep: float, expected: str) -> None:
    for seed in range(3):
        more = 0.01 * seed
        write_layers(write_run(tmp_path, "plain", 56, seed), stds=[9.0, 1.0 + more, 1.0 + more, 70.0])
        write_layers(write_run(tmp_path, "resnet_v1", 20, seed), stds=[0.1, 0.5, 0.5 + more, 0.5 + more])
        write_layers(write_run(tmp_path, "resnet_v1", 56, seed), stds=[9.0, deep + more, deep + more, 5.0])
        assert "plain-56 1.0" in claim(tmp_path, "smaller_responses").numbers
        decided = seed > 0
        assert verdict(tmp_path, "smaller_responses") == ("holds" if decided else "not decided")
    assert verdict(tmp_path, "deeper_smaller_responses") == expected


def test_runs_that_have_not_measured_their_layers_are_not_enough(tmp_path: Path) -> None:
    write_all(tmp_path, {("plain", 20): (9, 9), ("resnet_v1", 20): (1, 3), ("resnet_v1", 56): (1, 3)})
    for about in ("smaller_responses", "deeper_smaller_responses", "healthy_gradients"):
        assert claim(tmp_path, about).lacks_runs


HEALTHY = {1: [0.7, 1.0, 1.0], 275: [0.2, 1.0, 1.0]}
DEAD = {1: [2e4, 1.0, 1.0], 275: [0.0, 0.0, 0.0]}
VANISHED = {1: [1.0, 1.0, 1.0], 275: [0.01, 1.0, 1.0]}


def write_plain(outputs: Path, *depths: tuple[int, float, dict[int, list[float]]]) -> None:
    """Write plain networks of these depths, training errors and gradient norms by step and layer."""
    for depth, train, gradients in depths:
        write_layers(write_run(outputs, "plain", depth, train=train), gradients=gradients)


def test_one_degraded_depth_with_healthy_gradients_is_enough(tmp_path: Path) -> None:
    """As on digits: plain-110 starts with exploding gradients and dies, plain-56 has healthy ones and degrades."""
    write_plain(tmp_path, (20, 2.0, VANISHED), (56, 72.0, HEALTHY), (110, 89.0, DEAD))
    judged = claim(tmp_path, "healthy_gradients")
    assert judged.verdict == "holds"
    assert judged.numbers == (
        "plain-56 loses 70.00 points to plain-20, and its gradients reach the first layers: 0.7 at step 1, 0.2 at step "
        "275. plain-110 loses 87.00 points to plain-20, and its gradients die on the way to the first layers: 2e+04 at "
        "step 1, nan at step 275."
    )


@pytest.mark.parametrize("gradients", [DEAD, VANISHED])
def test_gradients_that_die_at_every_degraded_depth_are_seen(tmp_path: Path, gradients: dict[int, list[float]]) -> None:
    write_plain(tmp_path, (20, 2.0, HEALTHY), (56, 72.0, gradients), (110, 89.0, gradients))
    assert verdict(tmp_path, "healthy_gradients") == "does not hold"


def test_gradients_that_die_beyond_v1s_depths_refute_nothing(tmp_path: Path) -> None:
    """v1 gives the error of plain-110 and no cause."""
    write_plain(tmp_path, (20, 2.0, HEALTHY), (110, 89.0, DEAD))
    judged = claim(tmp_path, "healthy_gradients")
    assert (judged.verdict, judged.lacks_runs) == ("not decided", False)
    assert "plain-110 loses 87.00 points to plain-20, and its gradients die" in judged.numbers


def test_degradation_from_an_untrained_network_says_nothing(tmp_path: Path) -> None:
    write_plain(tmp_path, (56, 72.0, HEALTHY), (110, 89.0, DEAD))
    assert "plain-56 itself has 72.00 % training error" in claim(tmp_path, "healthy_gradients").numbers


def test_a_depth_that_does_not_degrade_says_nothing_of_the_cause(tmp_path: Path) -> None:
    write_plain(tmp_path, (20, 2.0, HEALTHY), (56, 2.1, HEALTHY))
    judged = claim(tmp_path, "healthy_gradients")
    assert (judged.verdict, judged.lacks_runs) == ("not decided", True)
    assert "a plain network that degrades" in judged.numbers
    write_plain(tmp_path, (110, 89.0, DEAD))
    assert "plain-56" not in claim(tmp_path, "healthy_gradients").numbers


def test_of_several_seeds_the_lowest_gradients_count(tmp_path: Path) -> None:
    write_plain(tmp_path, (20, 2.0, HEALTHY), (56, 72.0, HEALTHY))
    write_layers(write_run(tmp_path, "plain", 56, 1, train=72.0), gradients=VANISHED)
    judged = claim(tmp_path, "healthy_gradients")
    assert judged.verdict == "does not hold"
    assert "lowest of 2 seeds: 0.7 at step 1, 0.01 at step 275" in judged.numbers


def test_only_plain_nets_miss_the_constructed_solution(tmp_path: Path) -> None:
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
    assert verdict(tmp_path, "not_found_by_the_solver") == "not decided"
