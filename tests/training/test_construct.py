"""The constructed solution: it computes the same function, trains on, and is refused in one line if impossible."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnet_repro.errors import Stopped, UserError
from resnet_repro.launch.checks import check_beginnings
from resnet_repro.networks.resnet import ResNet
from resnet_repro.networks.unit import ResidualUnit
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import make_job
from resnet_repro.training.constructed import agreement, construct, make_identity
from resnet_repro.training.layers import ChannelMoments
from resnet_repro.training.run import run
from tests.helpers.commands import manifests
from tests.helpers.commands import run as command
from tests.helpers.networks import image_batches, seeded_cifar
from tests.helpers.runs import TINY, composed, interrupt_at, prepared

DEEPER = ("depth=14", "init_from=8")


def outputs(net: ResNet, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net.eval()(images)


@pytest.mark.parametrize(
    ("order", "shortcut", "unit"),
    [
        ("original", "A", "basic"),
        ("original", "B", "basic"),
        ("original", "B", "bottleneck"),
        ("relu_before_add", "A", "basic"),
        ("relu_only_preact", "A", "basic"),
        ("full_preact", "A", "basic"),
        ("full_preact", "A", "one_layer"),
    ],
)
def test_a_constructed_residual_net_has_the_same_outputs(order: str, shortcut: str, unit: str) -> None:
    shallow, deep = (seeded_cifar(depth, order=order, shortcut=shortcut, unit=unit) for depth in (20, 38))
    (images, _), *_ = data = image_batches(4)
    assert not torch.equal(outputs(deep, images), outputs(shallow, images))
    construct(deep, shallow, data)
    assert torch.equal(outputs(deep, images), outputs(shallow, images))


@pytest.mark.parametrize("unit", ["basic", "one_layer"])
def test_a_constructed_plain_net_has_nearly_the_same_outputs(unit: str) -> None:
    shallow, deep = (seeded_cifar(depth, shortcut="none", unit=unit) for depth in (8, 56))
    data = image_batches(16)
    construct(deep, shallow, data)
    comparison = agreement(deep, shallow, data)
    assert comparison["num_images"] == 16
    assert comparison["num_predictions_that_differ"] == 0
    assert 0 < comparison["largest_difference"] < 1e-4 * comparison["largest_output"]
    assert comparison["train_error"] == comparison["train_error_of_shallower"]


def test_a_plain_identity_unit_is_an_identity_in_training_too() -> None:
    """On the images whose moments it was made from."""
    unit = ResidualUnit(16, [(3, 16), (3, 16)], 1, order="original", shortcut="none")
    x = torch.randn(8, 16, 6, 6, generator=torch.Generator().manual_seed(0)).relu()
    x[:, 3] = 0  # a dead channel
    inputs = ChannelMoments()
    inputs.add(unit, None, x)
    with torch.no_grad():
        make_identity(unit, inputs)
        torch.testing.assert_close(unit.train()(x), x, atol=1e-5, rtol=1e-4)


def test_agreement_counts_differing_predictions() -> None:
    one, other = seeded_cifar(), seeded_cifar()
    data = [(images, one.eval()(images).argmax(1)) for images, _ in image_batches(8)]
    nn.init.zeros_(other.head[-1].weight)  # type: ignore[arg-type]
    comparison = agreement(other, one, data)
    assert comparison["train_error_of_shallower"] == 0
    assert comparison["num_predictions_that_differ"] == comparison["train_error"] * 8 / 100 > 0


@pytest.fixture(scope="module")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an outputs folder with a finished run of 8 layers."""
    folder = tmp_path_factory.mktemp("shallow")
    run(prepared(folder, "arch=plain"))
    return folder


def test_a_constructed_run_trains_on_at_the_last_rate(shallow: Path) -> None:
    path = prepared(shallow, "arch=plain", *DEEPER)
    other = read_json(next(shallow.glob("digits/plain-8-s0__*/manifest.json")))
    assert path.name.replace("__init_from=8", "") == other["name"].replace("plain-8", "plain-14")
    begun = run(path)["begun_with_weights"]
    assert (begun["name"], begun["weights_sha256"]) == (other["name"], other["weights_sha256"])
    assert begun["num_images"] == 1_500
    assert begun["num_predictions_that_differ"] == 0
    assert begun["train_error"] == begun["train_error_of_shallower"]
    rates = [float(row["lr"]) for row in csv.DictReader(RunDir(path).metrics.open())]
    assert rates == pytest.approx([0.001] * 24)  # the last of 0.1, 0.01 and 0.001
    assert other["begun_with_weights"] is None


def test_a_resumed_constructed_run_equals_an_uninterrupted_one(
    shallow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other,) = shallow.glob("digits/plain-8-s0__*")
    for name in ("one", "two"):
        shutil.copytree(other, tmp_path / name / "digits" / other.name)
    undisturbed = run(prepared(tmp_path / "one", "arch=plain", *DEEPER))
    interrupt_at(11, monkeypatch)
    path = prepared(tmp_path / "two", "arch=plain", *DEEPER)
    with pytest.raises(Stopped):
        run(path)
    shutil.rmtree(tmp_path / "two" / "digits" / other.name)  # a resumed run does not need it
    resumed = run(path)
    assert resumed["weights_sha256"] == undisturbed["weights_sha256"]
    assert resumed["begun_with_weights"] == undisturbed["begun_with_weights"]


def test_weights_that_do_not_match_their_manifest_are_refused(shallow: Path, tmp_path: Path) -> None:
    (other,) = shallow.glob("digits/plain-8-s0__*")
    shutil.copytree(other, copy := tmp_path / "digits" / other.name)
    newest = RunDir(copy).checkpoint_files()[0]
    content: dict[str, Any] = torch.load(newest, weights_only=True)
    content["state_dict"]["net.head.2.bias"] += 1
    torch.save(content, newest)
    path = prepared(tmp_path, "arch=plain", "depth=20", "init_from=8")
    with pytest.raises(UserError, match="does not hold the weights of the finished run"):
        run(path)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("depth=14", "init_from=20"), "init_from=20 is deeper than depth=14; give the depth of a shallower run"),
        (("depth=20", "init_from=9"), "depth=9 is not 6n+2 (basic units); nearest are 8 and 14"),
        (("depth=20", "init_from=deep"), "init_from=deep is not null or the depth of a shallower run"),
        (("depth=164", "init_from=20"), "init_from=20 and depth=164 have different units; give arch.unit for both"),
        (("depth=20", "init_from=8", "arch.shortcut=C"), "use arch.shortcut=A or B"),
        (("depth=20", "init_from=8", "arch.mix=half_both"), "arch.mix=add"),
        (("depth=20", "init_from=8", "arch.order=bn_after_add"), "an arch.order other than bn_after_add"),
        (("depth=164", "init_from=11", "arch=plain", "arch.unit=bottleneck"), "with arch.unit=basic only; use that"),
        (("depth=20", "init_from=8", "arch=plain", "arch.order=full_preact"), "with arch.order=original only"),
    ],
)
def test_an_impossible_construction_is_refused_in_one_line(overrides: tuple[str, ...], line: str) -> None:
    with pytest.raises(UserError) as refused:
        make_job(composed("data=digits", *overrides), usual=composed("data=digits"))
    assert line in str(refused.value)
    assert "\n" not in str(refused.value)


def test_init_from_the_same_depth_is_the_run_without_it() -> None:
    one, other = (make_job(composed(*TINY, *o), usual=composed("data=digits")) for o in ((), ("init_from=8",)))
    assert (one.dir, one.run) == (other.dir, other.run)
    assert other.waits_for is None


def test_a_missing_shallower_run_is_refused_at_once(tmp_path: Path) -> None:
    job = make_job(composed(*TINY, *DEEPER, f"outputs={tmp_path}"), usual=composed("data=digits"))
    with pytest.raises(UserError, match=r"resnet_v1-8-s0.*is not finished.*-m depth=8,14 init_from=null,8"):
        check_beginnings([job], in_order=True)
    assert not job.dir.exists()


def test_jobs_in_no_order_need_a_finished_shallower_run(tmp_path: Path) -> None:
    usual, outputs = composed("data=digits"), f"outputs={tmp_path}"
    jobs = [make_job(composed(*TINY, *options, outputs), usual=usual) for options in ((), DEEPER)]
    check_beginnings(jobs, in_order=True)
    with pytest.raises(UserError, match="make it first, init_from=null"):
        check_beginnings(jobs, in_order=False)
    jobs[0].dir.mkdir(parents=True)
    RunDir(jobs[0].dir).manifest.touch()
    check_beginnings(jobs, in_order=False)


@pytest.mark.slow
def test_the_experiment_makes_the_shallower_run_first(tmp_path: Path) -> None:
    options = ("data=digits", "schedule.steps=6", "logger=csv", "arch=plain", "depth=8,14", "init_from=null,8")
    status, output = command("train.py", "experiment=constructed_solution", *options, home=tmp_path)
    assert status == 0, output
    made = manifests(tmp_path / "outputs")
    assert {name.split("__steps")[0] for name in made} == {"plain-8-s0", "plain-14-s0", "plain-14-s0__init_from=8"}
    weights = made["plain-14-s0__init_from=8__steps=6"]["begun_with_weights"]
    assert weights["weights_sha256"] == made["plain-8-s0__steps=6"]["weights_sha256"]
