"""The claims on v2's tables: a row has to beat every other row under one recipe."""

from pathlib import Path

import pytest

from resnet_repro.papers import claims
from resnet_repro.runs.groups import Cell, Comparison
from tests.helpers.claims import claim, comparison, verdict
from tests.helpers.synthetic_runs import write_run

MIXES = ("half_shortcut", "half_both", "exclusive_gate", "shortcut_gate")
ORDERS = ("bn_after_add", "relu_before_add", "relu_only_preact")


@pytest.mark.parametrize(("dropout", "expected"), [(40, "holds"), (6, "not decided"), (1, "does not hold")])
def test_identity_shortcuts_must_beat_every_row_of_the_table(tmp_path: Path, dropout: float, expected: str) -> None:
    write_run(tmp_path, "resnet_v1", 56, test=6)
    write_run(tmp_path, "plain", 56, test=60)
    for mix in MIXES:
        write_run(tmp_path, "resnet_v1", 56, name=mix, arch__mix=mix, test=30)
    write_run(tmp_path, "resnet_v1", 56, name="C", arch__shortcut="C", test=20)
    judged = claim(tmp_path, "identity_is_best")
    assert judged.numbers.startswith("Needs resnet_v1 dropout.")
    write_run(tmp_path, "resnet_v1", 56, name="dropout", arch__shortcut="dropout", test=dropout)
    assert verdict(tmp_path, "identity_is_best") == expected


@pytest.mark.parametrize(("option_c", "expected"), [(24.19, "holds"), (26.3, "not decided"), (35.0, "does not hold")])
def test_imagenet_distinguishes_options_a_and_c_from_the_usual_b(
    tmp_path: Path, option_c: float, expected: str
) -> None:
    """The first case is v1 Table 3."""
    images = {"num_val_images": 50_000}
    for option, val in (("A", 25.03), ("B", 24.52), ("C", option_c)):
        departs = {} if option == "B" else {"arch__shortcut": option}
        how = {"data__name": "imagenet", "test": None, "val": val, "results": images} | departs
        write_run(tmp_path, "resnet_v1", 34, name=option, **how)
    judged = claim(tmp_path, "options_differ_little")
    assert judged.verdict == expected
    assert "A: resnet_v1-34 A 25.03, B: resnet_v1-34 24.52" in judged.numbers


@pytest.mark.parametrize(("original", "expected"), [(20, "holds"), (6.5, "not decided"), (1, "does not hold")])
def test_full_preactivation_must_beat_every_order(tmp_path: Path, original: float, expected: str) -> None:
    write_run(tmp_path, "resnet_v2", 56, test=6)
    write_run(tmp_path, "resnet_v1", 56, test=original)
    for order in ORDERS:
        write_run(tmp_path, "resnet_v1", 56, name=order, arch__order=order, test=30)
    assert verdict(tmp_path, "full_preactivation_is_best") == expected


def test_networks_of_one_table_are_compared_under_one_recipe(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet_v1", 56, test=20)
    write_run(tmp_path, "resnet_v2", 56, test=6)
    original, new = comparison(tmp_path).cells
    as_v2 = Cell("resnet_v1 paper_v2", 56, original.runs)
    both = Comparison("", [original, as_v2, new])
    numbers, _ = claims.full_preactivation_regularises(both, "resnet_v2")
    assert "resnet_v1-56 paper_v2 20.00" in numbers


def write_units(outputs: Path, depth: int, *, losses: tuple[float, float], tests: tuple[float, float]) -> None:
    """Write three seeds of the original and of the pre-activation unit at a depth."""
    for arch, loss, test in zip(("resnet_v1", "resnet_v2"), losses, tests, strict=True):
        for seed in range(3):
            how = {"train": 1.0, "test": test + 0.1 * seed, "results": {"train/loss": loss * (1 + 0.01 * seed)}}
            write_run(outputs, arch, depth, seed, **how, data__name="cifar10")


@pytest.mark.parametrize(("loss", "expected"), [(0.002, "holds"), (0.00101, "not decided"), (0.0005, "does not hold")])
def test_regularising_means_higher_loss_and_lower_test_error(tmp_path: Path, loss: float, expected: str) -> None:
    write_units(tmp_path, 56, losses=(0.001, loss), tests=(20, 6))
    write_run(tmp_path, "resnet_v1", 110, train=88, test=88, data__name="cifar10")  # has learned nothing
    write_run(tmp_path, "resnet_v2", 110, test=6, data__name="cifar10")
    judged = claim(tmp_path, "full_preactivation_regularises")
    assert judged.verdict == expected
    assert "Training loss: resnet_v2-56 0.0" in judged.numbers


def test_one_seed_of_a_loss_decides_nothing(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet_v1", 56, test=20, results={"train/loss": 0.1})
    write_run(tmp_path, "resnet_v2", 56, test=6, results={"train/loss": 0.2})
    assert verdict(tmp_path, "full_preactivation_regularises") == "not decided"


def test_regularising_is_not_asked_of_1001_layers(tmp_path: Path) -> None:
    """v2 itself says that its loss with 1001 layers is the lowest of all."""
    write_units(tmp_path, 1001, losses=(0.01, 0.001), tests=(7.61, 4.92))
    judged = claim(tmp_path, "full_preactivation_regularises")
    assert judged.numbers.startswith("Needs one depth up to 164 layers of resnet_v1")
    write_units(tmp_path, 164, losses=(0.001, 0.002), tests=(5.93, 5.46))
    assert verdict(tmp_path, "full_preactivation_regularises") == "holds"


def test_options_are_not_compared_with_many_units(tmp_path: Path) -> None:
    """C with 110 layers has 12.22 % [v2 Table 1]; v1's claim is about 34 layers."""
    for option, test in (("A", 6.61), ("B", 6.55), ("C", 12.22)):
        departs = {} if option == "A" else {"arch__shortcut": option}
        write_run(tmp_path, "resnet_v1", 110, name=option, test=test, data__name="cifar10", **departs)
    judged = claim(tmp_path, "options_differ_little")
    assert judged.verdict == "not decided"
    assert judged.numbers.startswith("Needs one depth up to 56 layers of resnet_v1")
