"""The answer to the papers' first question: each of its words, and which runs it rests on."""

from pathlib import Path

import pytest

from resnet_repro.papers.answer import Answer, answers
from resnet_repro.papers.judgement import judge
from resnet_repro.runs.finished import read
from resnet_repro.runs.groups import group
from tests.helpers.synthetic_runs import write_run

SEEN = "on the images both trained on"


def answers_of(outputs: Path) -> list[Answer]:
    return answers(group(read(outputs)[0]))


def write_depths(outputs: Path, arch: str, shallow: float, deep: float, **overrides: object) -> None:
    """Write runs of 20 and 56 layers with these training errors in %."""
    write_run(outputs, arch, 20, train=shallow, **overrides)  # type: ignore[arg-type]
    write_run(outputs, arch, 56, train=deep, **overrides)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plain", "residual", "sentence"),
    [
        ((2, 46.4), (9, 3), f"Yes. On digits, plain-56 ends 44 points worse than plain-20 {SEEN}; "
         "ResNet-56 ends 6.0 points better than ResNet-20."),
        ((2, 46.4), (1, 1.2), f"Yes. On digits, plain-56 ends 44 points worse than plain-20 {SEEN}; "
         "ResNet-56 ends level with ResNet-20."),
        ((2, 46.4), (1, 9.4), f"In part. On digits, plain-56 ends 44 points worse than plain-20 {SEEN}; "
         "ResNet-56 ends 8.4 points worse than ResNet-20."),
        ((2, 46.4), (10, 11.5), f"In part. On digits, plain-56 ends 44 points worse than plain-20 {SEEN}; "
         "ResNet-56 does not end measurably apart from ResNet-20."),
        ((9, 2), (1, 1.2), f"No. On digits, plain-56 ends 7.0 points better than plain-20 {SEEN}; "
         "ResNet-56 ends level with ResNet-20."),
        ((9, 9.1), (1, 9.4), "No. On digits, plain-56 does not end measurably apart from plain-20 "
         f"{SEEN}; ResNet-56 ends 8.4 points worse than ResNet-20."),
        ((9, 9.1), (1, 1.2), "Not decided. On digits, plain-56 does not end measurably apart from plain-20 "
         f"{SEEN}; ResNet-56 ends level with ResNet-20."),
    ],
)  # fmt: skip
def test_the_answer_says_what_both_halves_came_to(
    tmp_path: Path, plain: tuple[float, float], residual: tuple[float, float], sentence: str
) -> None:
    write_depths(tmp_path, "plain", *plain)
    write_depths(tmp_path, "resnet_v1", *residual)
    (answer,) = answers_of(tmp_path)
    assert answer.sentence == sentence
    # the claims of the same rest on the same numbers
    claims = {claim.rule: claim for claim in judge(answer.comparison)}
    words = {True: "holds", False: "does not hold", None: "not decided"}
    for effect, rule in zip(answer.effects, ("degradation", "no_degradation"), strict=True):
        assert claims[rule].verdict == words[effect.holds]
        assert effect.gap.text in claims[rule].numbers


def test_digits_are_not_measured_by_the_recipe_of_cifar(tmp_path: Path) -> None:
    for arch in ("plain", "resnet_v1"):
        write_depths(tmp_path, arch, 2, 46, schedule__steps=22, manifest={"departures": {"schedule.steps": 22}})
    (answer,) = answers_of(tmp_path)
    assert answer.sentence.startswith("In part. On digits, after 22 steps, plain-56 ends 44 points worse than plain-20")


def test_every_residual_architecture_is_part_of_the_answer(tmp_path: Path) -> None:
    write_depths(tmp_path, "plain", 2, 46.4)
    write_depths(tmp_path, "resnet_v1", 1, 15)
    write_depths(tmp_path, "resnet_v2", 1, 1)
    (answer,) = answers_of(tmp_path)
    assert answer.word == "In part"
    assert answer.sentence.endswith(
        "ResNet-56 ends 14 points worse than ResNet-20; ResNet-56 (v2) ends level with ResNet-20."
    )


def test_without_runs_of_one_half_the_answer_names_their_command(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 20, train=2, schedule__lr=0.05)
    (answer,) = answers_of(tmp_path)
    command = "python train.py -m depth=20,56 arch=plain,resnet_v2 data=digits schedule.lr=0.05"
    assert answer.sentence == f"Not yet: needs these runs: {command}"
    assert answer.basis == ""
    write_run(tmp_path, "plain", 56, train=46.4, schedule__lr=0.05)
    (answer,) = answers_of(tmp_path)
    found = f"Not yet. On digits, plain-56 ends 44 points worse than plain-20 {SEEN}."
    assert answer.sentence == f"{found} The answer needs these runs: {command.replace('plain,', '')}"


def test_untrained_residual_networks_give_no_answer(tmp_path: Path) -> None:
    write_depths(tmp_path, "plain", 80, 89)
    write_depths(tmp_path, "resnet_v2", 80, 80)
    (answer,) = answers_of(tmp_path)
    assert answer.sentence.endswith("The answer needs more steps: resnet_v2-20 itself has 80.00 % training error.")


def test_full_length_counts_before_shortened_and_cifar_first(tmp_path: Path) -> None:
    for place, overrides in {
        "CIFAR-10, 400 steps": {"data__name": "cifar10", "schedule__steps": 400},
        "Digits, 275 steps": {},
        "CIFAR-10, 64,000 steps": {"data__name": "cifar10"},
        "CIFAR-10, 64,000 steps, 5,000 images held out": {"data__name": "cifar10", "data__val_size": 5_000},
    }.items():
        for arch in ("plain", "resnet_v2"):
            write_depths(tmp_path / place, arch, 2, 3, **overrides)
    runs = [run for folder in tmp_path.iterdir() for run in read(folder)[0]]
    ranked = answers(group(runs))
    assert [answer.comparison.title for answer in ranked] == [
        "CIFAR-10, 64,000 steps",
        "CIFAR-10, 64,000 steps, 5,000 images held out",
        "Digits, 275 steps",
        "CIFAR-10, 400 steps",
    ]
    assert "On CIFAR-10, after 400 of the recipe's 64,000 steps, plain-56" in ranked[-1].sentence
    write_run(tmp_path / "better", "plain", 18, data__name="imagenet", test=None, val=5.0)
    more = group([*runs, *read(tmp_path / "better")[0]])
    assert answers(more)[0].comparison.title == ranked[0].comparison.title  # an answer comes before none


def test_the_answer_of_ones_own_runs_comes_before_that_of_kept_runs(tmp_path: Path) -> None:
    own, kept = tmp_path / "outputs", tmp_path / "results"
    write_depths(own, "plain", 2, 3)
    for arch in ("plain", "resnet_v2"):
        write_depths(kept, arch, 2, 3, data__name="cifar10")
    titles = ["CIFAR-10, 64,000 steps", "Digits, 275 steps"]
    assert [answer.comparison.title for answer in answers(group(read(own, kept)[0]))] == titles  # digits lack ResNets
    write_depths(own, "resnet_v2", 2, 3)
    assert [answer.comparison.title for answer in answers(group(read(own, kept)[0]))] == titles[::-1]


def test_the_basis_gives_intervals_seeds_and_diverged_runs(tmp_path: Path) -> None:
    for arch in ("plain", "resnet_v2"):
        write_depths(tmp_path, arch, 2, 30)
    write_run(tmp_path, "plain", 56, 1, train=30.5)
    write_run(tmp_path, "plain", 110, results={"diverged_at": 3})
    (answer,) = answers_of(tmp_path)
    assert answer.basis.startswith(
        "Final training error in points, with its 95 % interval: plain-56 minus plain-20 +28"
    )
    assert answer.basis.endswith("; 1 to 2 seeds each. Runs that diverged and do not count: plain-110.")
