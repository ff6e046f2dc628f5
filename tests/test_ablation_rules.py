"""The claims on v2's tables: a row has to beat every other, under one recipe."""

from pathlib import Path

import pytest

from resnet_repro import ablation_rules
from resnet_repro.results import Cell, Protocol
from tests.synthetic_runs import write_run
from tests.test_claims import claim, protocol, verdict

MIXES = ("half_shortcut", "half_both", "exclusive_gate", "shortcut_gate")
ORDERS = ("bn_after_add", "relu_before_add", "relu_only_preact")


@pytest.mark.parametrize(("dropout", "expected"), [(40, "holds"), (6, "does not hold")])
def test_identity_shortcuts_must_beat_every_row_of_the_table(tmp_path: Path, dropout: float, expected: str) -> None:
    write_run(tmp_path, "resnet_v1", 56, test=6)
    write_run(tmp_path, "plain", 56, test=60)
    for mix in MIXES:
        write_run(tmp_path, "resnet_v1", 56, name=mix, arch__mix=mix, test=30)
    write_run(tmp_path, "resnet_v1", 56, name="C", arch__shortcut="C", test=20)
    found = claim(tmp_path, "identity_is_best")
    assert found.numbers.startswith("Needs resnet_v1 dropout.")
    write_run(tmp_path, "resnet_v1", 56, name="dropout", arch__shortcut="dropout", test=dropout)
    assert verdict(tmp_path, "identity_is_best") == expected


@pytest.mark.parametrize(("option_c", "expected"), [(24.6, "holds"), (35.0, "does not hold")])
def test_options_a_b_and_c_are_told_apart_on_imagenet_where_b_is_the_usual_one(
    tmp_path: Path, option_c: float, expected: str
) -> None:
    """Of v1 Table 3."""
    images = {"num_val_images": 50_000}
    for option, val in (("A", 25.0), ("B", 24.5), ("C", option_c)):
        departs = {} if option == "B" else {"arch__shortcut": option}
        how = {"data__name": "imagenet", "test": None, "val": val, "results": images} | departs
        write_run(tmp_path, "resnet_v1", 34, name=option, **how)
    found = claim(tmp_path, "options_differ_little")
    assert found.verdict == expected
    assert "A: resnet_v1-34 A 25.00, B: resnet_v1-34 24.50" in found.numbers


@pytest.mark.parametrize(("original", "expected"), [(20, "holds"), (6.5, "does not hold")])
def test_full_preactivation_must_beat_every_order(tmp_path: Path, original: float, expected: str) -> None:
    write_run(tmp_path, "resnet_v2", 56, test=6)
    write_run(tmp_path, "resnet_v1", 56, test=original)
    for order in ORDERS:
        write_run(tmp_path, "resnet_v1", 56, name=order, arch__order=order, test=30)
    assert verdict(tmp_path, "full_preactivation_is_best") == expected


def test_networks_of_one_table_are_compared_under_one_recipe(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet_v1", 56, test=20)
    write_run(tmp_path, "resnet_v2", 56, test=6)
    original, new = protocol(tmp_path).cells
    as_v2 = Cell("resnet_v1 paper_v2", 56, original.runs)
    both = Protocol("", [original, as_v2, new])
    numbers, _ = ablation_rules.full_preactivation_regularises(both, "resnet_v2")
    assert "resnet_v1-56 paper_v2 20.00" in numbers


@pytest.mark.parametrize(("loss", "expected"), [(0.2, "holds"), (0.05, "does not hold")])
def test_regularising_is_a_higher_training_loss_with_a_lower_test_error(
    tmp_path: Path, loss: float, expected: str
) -> None:
    write_run(tmp_path, "resnet_v1", 56, test=20, results={"train/loss": 0.1})
    write_run(tmp_path, "resnet_v2", 56, test=6, results={"train/loss": loss})
    write_run(tmp_path, "resnet_v1", 110, train=88, test=88)  # has learned nothing: the depth below is asked
    write_run(tmp_path, "resnet_v2", 110, test=6)
    found = claim(tmp_path, "full_preactivation_regularises")
    assert found.verdict == expected
    assert "resnet_v2-56" in found.numbers
