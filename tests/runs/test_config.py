"""Options as `python train.py` composes them: their rules, and the name of each run."""

from typing import Any

import pytest

from resnet_repro.errors import UserError
from resnet_repro.networks.libraries import LIBRARIES
from resnet_repro.networks.options import Residual
from resnet_repro.runs.job import make_job, resolve, result_keys
from resnet_repro.training.schedule import learning_rate
from tests.helpers.runs import CONF, composed, resolved


def name(arch: str, data: str, *overrides: str) -> str:
    groups = [f"arch={arch}", f"data={data}", *(o for o in overrides if o.startswith("protocol="))]
    return make_job(composed(*groups, *overrides), usual=composed(*groups)).name


@pytest.mark.parametrize(
    ("arch", "data", "overrides", "expected"),
    [
        ("plain", "cifar10", ["depth=56"], "plain-56-s0"),
        ("resnet_v2", "digits", ["depth=110", "seed=3"], "resnet_v2-110-s3"),
        # departures from the defaults
        ("resnet_v1", "cifar10", ["arch.shortcut=B"], "resnet_v1-20-s0__shortcut=B"),
        ("plain", "cifar10", ["schedule.steps=9", "data.val_size=50"], "plain-20-s0__val_size=50__steps=9"),
        ("plain", "cifar10", ["schedule.milestones=[100,200]"], "plain-20-s0__milestones=100-200"),
        ("resnet_v1", "cifar10", ["arch.gate_bias=-5"], "resnet_v1-20-s0__gate_bias=-5"),
        ("resnet_v1", "cifar10", ["arch.gate_bias=5"], "resnet_v1-20-s0__gate_bias=5"),
        # depths that are legal only with a unit other than the papers'
        ("resnet_v2", "digits", ["depth=11", "arch.unit=bottleneck"], "resnet_v2-11-s0__unit=bottleneck"),
        ("resnet_v1", "digits", ["depth=11", "arch.unit=one_layer"], "resnet_v1-11-s0__unit=one_layer"),
        # a default given explicitly
        ("resnet_v1", "cifar10", ["arch.shortcut=A", "arch.unit=basic", "hardware=auto"], "resnet_v1-20-s0"),
        ("resnet_v1", "cifar10", ["schedule.lr=0.1"], "resnet_v1-20-s0"),
        # a protocol is one word, and no word if it is the architecture's own
        ("resnet_v2", "cifar10", ["depth=1001", "protocol=official_lua"], "resnet_v2-1001-s0__official_lua"),
        (
            "resnet_v1",
            "cifar10",
            ["protocol=paper_v2", "arch.unit=one_layer"],
            "resnet_v1-20-s0__paper_v2__unit=one_layer",
        ),
        ("resnet_v1", "digits", ["protocol=modern", "schedule.steps=22"], "resnet_v1-20-s0__modern__steps=22"),
        ("resnet_v2", "cifar10", ["depth=110", "protocol=paper_v2"], "resnet_v2-110-s0"),
        ("plain", "cifar10", ["depth=56", "protocol=paper_v1"], "plain-56-s0"),
        # the recipe's rate is in proportion to the batch, so only a rate given by hand departs
        ("resnet_v1", "imagenet", ["depth=50", "schedule.batch_size=64"], "resnet_v1-50-s0__batch_size=64"),
        (
            "resnet_v1",
            "imagenet",
            ["depth=50", "schedule.batch_size=64", "schedule.lr=0.1"],
            "resnet_v1-50-s0__batch_size=64__lr=0.1",
        ),
    ],
)
def test_a_name_has_all_departures_from_the_defaults(arch: str, data: str, overrides: list[str], expected: str) -> None:
    assert name(arch, data, *overrides) == expected


def test_results_do_not_depend_on_folders_loggers_or_jobs() -> None:
    usual = composed()
    other = composed("outputs=elsewhere", "jobs=2", "data.root=/data", "logger=csv", "resume=false")
    assert result_keys(resolve(other)) == result_keys(resolve(usual))


@pytest.mark.parametrize(
    ("overrides", "unit", "shortcut"),
    [
        (["depth=110"], "basic", "A"),
        (["depth=164", "arch=resnet_v2"], "bottleneck", "B"),
        (["depth=1001", "arch=resnet_v2"], "bottleneck", "B"),
        (["depth=1202"], "basic", "A"),
        (["depth=20", "arch=plain"], "basic", "none"),
    ],
)
def test_auto_is_the_papers_choice(overrides: list[str], unit: str, shortcut: str) -> None:
    network = resolved(*overrides).network
    assert isinstance(network, Residual)
    assert (network.unit, network.shortcut) == (unit, shortcut)


@pytest.mark.parametrize(
    ("overrides", "warmup"),
    [
        (["arch=resnet_v1", "depth=56"], None),
        (["arch=resnet_v1", "depth=110"], {"lr": 0.01, "until_error": 80.0, "min_depth": 110}),
        (["arch=resnet_v2", "depth=20"], {"lr": 0.01, "steps": 400}),
        (["arch=resnet_v2", "depth=20", "data=digits"], None),
    ],
)
def test_the_warmup_is_the_papers(overrides: list[str], warmup: dict[str, float] | None) -> None:
    assert resolved(*overrides).record()["schedule"]["warmup"] == warmup


@pytest.mark.parametrize(
    ("protocol", "changes"),
    [
        ("paper_v1", {}),
        ("paper_v2", {"schedule.warmup": {"lr": 0.01, "steps": 400}}),
        (
            "official_lua",
            {
                "schedule.batch_size": 64,
                "schedule.nesterov": True,
                "schedule.protocol_steps": 200 * (50_000 // 64),
                "schedule.steps": 200 * (50_000 // 64),
                "schedule.milestones": [80 * (50_000 // 64), 121 * (50_000 // 64)],
                "schedule.decay": "all",
                "schedule.ghost_batch_size": 32,
                "data.normalise": "channel",
            },
        ),
        (
            "modern",
            {
                "schedule.shape": "cosine",
                "schedule.nesterov": True,
                "schedule.decay": "all",
                "schedule.ghost_batch_size": None,
                "data.normalise": "channel",
            },
        ),
        (
            "fb_resnet",
            {
                "schedule.nesterov": True,
                "schedule.decay": "all",
                "data.normalise": "channel",
                "arch.stride_on": "3x3",
            },
        ),
    ],
)
def test_a_protocol_changes_only_what_its_file_says(protocol: str, changes: dict[str, Any]) -> None:
    before = result_keys(resolve(composed("arch=resnet_v1")))
    after = result_keys(resolve(composed("arch=resnet_v1", f"protocol={protocol}")))
    changed = {key: value for key, value in after.items() if value != before.get(key)}
    assert changed.pop("protocol.name", "paper_v1") == protocol
    assert changed == changes


def test_a_short_protocol_keeps_its_shape_on_digits() -> None:
    schedule = resolved("data=digits", "protocol=official_lua").schedule
    assert (schedule.steps, schedule.batch_size) == (275, 64)
    rates = [learning_rate(step, schedule) for step in range(275)]
    assert [rates.index(rate) for rate in sorted(set(rates), reverse=True)] == [0, 275 * 80 // 200, 275 * 121 // 200]


def test_the_recipe_is_v1_section_4_2() -> None:
    schedule = resolved().schedule
    assert (schedule.steps, schedule.batch_size, schedule.lr, schedule.momentum) == (64_000, 128, 0.1, 0.9)
    assert schedule.milestones == (32_000, 48_000)
    assert (schedule.weight_decay, schedule.decay) == (1e-4, "weights")
    assert schedule.ghost_batch_size == 128 // 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("depth=21", "depth=21 is not 6n+2 (basic units); nearest are 20 and 26"),
        ("depth=abc", "depth=abc is not a whole number"),
        ("depth=20.5", "depth=20.5 is not a whole number"),
        ("schedule.steps=0", "schedule.steps=0 is not a whole number of steps, at least 1"),
        ("schedule.steps=many", "schedule.steps=many is not a whole number of steps"),
        ("schedule.lr=-1", "schedule.lr=-1 is not a number from 0 on"),
        ("schedule.milestones=[3,1]", "schedule.milestones=[3, 1] is not a rising list of steps"),
        ("schedule.warmup=400", "schedule.warmup=400 is not null, {lr: 0.01, steps: 400} or"),
        ("schedule.warmup={steps: 400}", "is not null, {lr: 0.01, steps: 400} or {lr: 0.01, until_error: 80.0}"),
        ("outputs=null", "outputs=None is not a folder"),
        ("schedule.shape=linear", "schedule.shape=linear is not one of auto, steps, plateau, cosine"),
        ("data.normalise=batch", "data.normalise=batch is not one of pixel, channel"),
        ("seed=-1", "seed=-1 is not a whole number from 0 on"),
        ("jobs=0", "jobs=0 is not auto or a whole number"),
        ("hardware.checkpoint_steps=0", "checkpoint_steps=0 is not a whole number of steps, at least 1, or null"),
        ("logger.upload_seconds=0", "logger.upload_seconds=0 is not a number of seconds, at least 1"),
        ("arch.shortcut=D", "arch.shortcut=D is not one of auto, A, B, C, dropout, none"),
        ("hardware.precision=16", "hardware.precision=16 is not one of auto, 32-true, bf16-mixed"),
        ("data.val_size=50000", "data.val_size=50000 leaves 0 of 50000 images to train on"),
        ("schedule.batch_size=60000", "schedule.batch_size=60000 is more than the 50000 training images"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(composed(override))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_every_config_choice_composes_and_resolves() -> None:
    for arch in choices("arch"):
        for data in choices("data"):
            options = ["arch.name=resnet18"] if arch in LIBRARIES else []
            options += ["depth=18"] if data.startswith("imagenet") else []
            run = resolved(f"arch={arch}", f"data={data}", *options)
            assert getattr(run.network, "source", run.network.name) == arch
            assert run.data.name == data
    for hardware in choices("hardware"):
        assert resolved(f"hardware={hardware}").hardware.devices >= 1


def test_the_linear_rule_keeps_the_rate_per_image_and_epochs() -> None:
    auto = ("schedule.lr=auto", "schedule.steps=auto", "+schedule.protocol_batch_size=128")
    for batch_size, lr, steps in ((128, 0.1, 64_000), (256, 0.2, 32_000), (32, 0.025, 256_000)):
        schedule = resolved(*auto, f"schedule.batch_size={batch_size}").schedule
        assert (schedule.lr, schedule.steps) == (lr, steps)
        assert learning_rate(steps // 2, schedule) == pytest.approx(lr / 10)
    usual = resolved("schedule.batch_size=256").schedule
    assert (usual.lr, usual.steps) == (0.1, 64_000)  # the rule applies only to `auto`


IMAGENET = {
    "paper_v1": ("plateau", 600_000),
    "paper_v2": ("steps", 450_360),
    "fb_resnet": ("steps", 450_360),
    "modern": ("cosine", 450_360),
}


@pytest.mark.parametrize("protocol", IMAGENET)
def test_on_imagenet_each_paper_has_its_own_schedule(protocol: str) -> None:
    run = resolved("data=imagenet", "depth=50", f"protocol={protocol}")
    schedule = run.schedule
    assert (schedule.shape, schedule.steps) == IMAGENET[protocol]
    assert (schedule.lr, schedule.batch_size, schedule.warmup) == (0.1, 256, None)
    if protocol != "modern":
        assert schedule.batch_size // run.protocol.devices == 32


def test_v2_drops_imagenets_rate_after_30_and_60_epochs() -> None:
    """At any batch size."""
    for batch_size, lr in ((256, 0.1), (512, 0.2), (32, 0.0125)):
        options = ("data=imagenet", "depth=200", "arch=resnet_v2", f"schedule.batch_size={batch_size}")
        schedule = resolved(*options).schedule
        epoch = schedule.steps / 90
        assert epoch * batch_size == pytest.approx(1_281_167, rel=2e-4)  # an epoch's last batch is left out
        for epochs, rate in ((0, lr), (29.99, lr), (30, lr / 10), (59.99, lr / 10), (60, lr / 100), (89.99, lr / 100)):
            assert learning_rate(round(epochs * epoch), schedule) == pytest.approx(rate)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152, 200])
@pytest.mark.parametrize("arch", ["plain", "resnet_v1", "resnet_v2"])
def test_every_imagenet_network_of_the_papers_composes(arch: str, depth: int) -> None:
    config = resolved("data=imagenet", f"arch={arch}", f"depth={depth}", "arch.stride_on=3x3")
    assert isinstance(config.network, Residual)
    assert config.network.shortcut == ("none" if arch == "plain" else "B")
    assert config.network.unit == ("basic" if depth < 50 else "bottleneck")


def test_a_recipe_for_cifar_is_refused_on_imagenet() -> None:
    with pytest.raises(UserError, match="official_lua is a recipe for CIFAR; on ImageNet use paper_v1"):
        resolve(composed("data=imagenet", "depth=50", "protocol=official_lua"))


def test_a_graph_cannot_drop_the_same_values_twice() -> None:
    options = ("hardware.graph=true", "hardware.recompute=true")
    assert resolved(*options).hardware.recompute
    with pytest.raises(UserError, match=r"hardware\.graph=true cannot record .* with arch\.shortcut=dropout"):
        resolved(*options, "arch.shortcut=dropout")
