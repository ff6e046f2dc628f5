"""The networks of torchvision and timm: the published networks, by name, with wrong names refused at once."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_repro.errors import UserError
from resnet_repro.launch import plan
from resnet_repro.launch.experiment import make_jobs
from resnet_repro.networks.comparators import Resized
from resnet_repro.runs.job import Job, resolve
from resnet_repro.runs.options import Run, Warmup
from resnet_repro.training.classifier import LitClassifier
from tests.helpers.commands import run as command
from tests.helpers.comparators import asked, job_of
from tests.helpers.runs import composed, network_of
from tests.helpers.synthetic_runs import write_comparator

# Parameters from torchvision's documentation and timm's tables (timm's in hundredths of a million), and multiply-adds
# in 10^9 at 224 pixels. Those of vit_tiny are counted by hand.
PUBLISHED = {
    ("torchvision", "alexnet"): (61_100_840, 0.71),
    ("torchvision", "squeezenet1_1"): (1_235_496, 0.35),
    ("torchvision", "vgg16"): (138_357_544, 15.47),
    ("torchvision", "googlenet"): (6_624_904, 1.50),
    ("timm", "resnet18"): (11_690_000, 1.82),
    ("timm", "mobilenetv3_small_050"): (1_590_000, 0.02),
    ("timm", "vit_tiny_patch16_224"): (5_720_000, 1.25),
}


def seeded(seed: int, config: Run) -> nn.Module:
    torch.manual_seed(seed)
    return network_of(config)


# --- the networks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "name"), PUBLISHED)
def test_parameters_and_multiply_adds_are_the_published_ones(source: str, name: str) -> None:
    config = resolve(composed(f"arch={source}", f"arch.name={name}", "data.num_classes=1000", "data.image=[3,224,224]"))
    with torch.device("meta"):
        net = network_of(config)
    num_parameters, giga = PUBLISHED[source, name]
    rounding = 5_000 if source == "timm" else 0
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(num_parameters, rel=0, abs=rounding)
    assert plan.multiply_adds(config) / 1e9 == pytest.approx(giga, abs=0.006)


@pytest.mark.parametrize(
    ("source", "name"), [pytest.param(*key, marks=pytest.mark.slow if "vgg16" in key else ()) for key in PUBLISHED]
)
def test_a_step_on_cifar_images_trains_every_weight(source: str, name: str) -> None:
    model = LitClassifier(resolve(asked(source, name)), splits=[])
    loss = model.training_step((torch.randn(4, 3, 32, 32), torch.arange(4)), 0)
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []
    before = [p.detach().clone() for p in model.net.parameters() if p.ndim > 1]
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    optimizer.step()
    after = [p for p in model.net.parameters() if p.ndim > 1]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(("source", "name"), [("torchvision", "squeezenet1_1"), ("timm", "mobilenetv3_small_050")])
@pytest.mark.parametrize("data", ["cifar10", "digits"])
def test_the_first_weights_are_the_librarys_for_the_seed(source: str, name: str, data: str) -> None:
    ours = seeded(3, resolve(asked(source, name, f"data={data}", "arch.image_size=32")))
    assert isinstance(ours, Resized)
    torch.manual_seed(3)
    if source == "torchvision":
        from torchvision import models

        theirs = models.get_model(name, weights=None, num_classes=10)
    else:
        import timm

        theirs = timm.create_model(name, pretrained=False, num_classes=10)
    state = theirs.state_dict()
    assert state.keys() == ours.net.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in ours.net.state_dict().items())


class Recording(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.seen = x
        return x.mean((2, 3))


def test_grey_images_are_resized_bilinearly_to_three_channels() -> None:
    inner = Recording()
    net, x = Resized(inner, image_size=32), torch.randn(2, 1, 8, 8)
    net(x)
    expected = F.interpolate(x, size=(32, 32), mode="bilinear", align_corners=False)
    assert inner.seen.shape == (2, 3, 32, 32)
    assert all(torch.equal(inner.seen[:, c], expected[:, 0]) for c in range(3))


def test_without_an_image_size_images_keep_their_pixels() -> None:
    inner, x = Recording(), torch.randn(2, 3, 32, 32)
    Resized(inner, image_size=None)(x)
    assert torch.equal(inner.seen, x)


# --- the options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["arch=torchvision"], "arch=torchvision needs arch.name=..., one of alexnet, squeezenet1_1, vgg16, googlenet"),
        (["arch=timm"], "arch=timm needs arch.name=..., any of timm.list_models(), for example resnet18"),
        (
            ["arch=torchvision", "arch.name=alexnett"],
            "arch.name=alexnett is not a classification network of torchvision; did you mean alexnet?",
        ),
        (
            ["arch=timm", "arch.name=resnet_18"],
            "arch.name=resnet_18 is not a classification network of timm; did you mean",
        ),
        (["arch=timm", "arch.name=resnet18.a1_in1k"], "did you mean resnet18"),
        (["arch=torchvision", "arch.name=qqqqqqq"], "use for example alexnet, squeezenet1_1, vgg16 or googlenet"),
        (
            ["arch=torchvision", "arch.name=alexnet"],
            "alexnet does not take images of 32 pixels; give arch.image_size=64",
        ),
        (
            ["arch=torchvision", "arch.name=squeezenet1_1", "data=digits"],
            "squeezenet1_1 does not take images of 8 pixels; give arch.image_size=24",
        ),
        (
            ["arch=torchvision", "arch.name=vgg16", "arch.image_size=16"],
            "vgg16 does not take images of 16 pixels; give arch.image_size=32",
        ),
        (
            ["arch=torchvision", "arch.name=vgg16", "arch.image_size=small"],
            "arch.image_size=small is not null or a whole number of pixels, at least 1",
        ),
        (
            ["arch=torchvision", "arch.name=vgg16", "arch.source=keras"],
            "arch.source=keras is not one of torchvision, timm",
        ),
        (
            ["arch=torchvision", "arch.name=vgg16", "init_from=20"],
            "init_from=20 inserts layers into plain and residual",
        ),
        (["arch=timm", "arch.name=resnet18", "hardware.fused=true"], "with arch=timm use auto"),
        (["arch=timm", "arch.name=resnet18", "hardware.recompute=true"], "with arch=timm use false"),
        (["arch=timm", "arch.name=resnet18", "schedule.lr=-1"], "schedule.lr=-1 is not a number from 0 on"),
    ],
)
def test_impossible_comparators_are_refused_in_one_line(options: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(composed(*options))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_name_ends_the_command_with_one_line(tmp_path: Path) -> None:
    status, output = command("train.py", "arch=torchvision", "arch.name=vgg61", "data=digits", home=tmp_path)
    assert status == 2
    assert output.startswith("error: arch.name=vgg61 is not a classification network of torchvision; did you mean vgg1")
    assert output.count("\n") == 1
    assert not (tmp_path / "outputs" / "digits").exists()


def test_a_comparator_has_no_depth_in_its_name() -> None:
    job = job_of("torchvision", "alexnet", "depth=56", "seed=2")
    assert job.name == "torchvision-alexnet-s2__image_size=64"
    assert job.run.depth is None
    assert job_of("timm", "resnet18").name == "timm-resnet18-s0"
    assert job_of("timm", "resnet18", "schedule.steps=22", "data=digits").name == "timm-resnet18-s0__steps=22"
    assert job_of("timm", "resnet18", "protocol=modern").name == "timm-resnet18-s0__modern"


def test_networks_without_batch_norm_get_a_tenth_of_the_rate() -> None:
    """Unless the rate is given."""
    rates = {name: resolve(asked(source, name)).schedule.lr for source, name in PUBLISHED}
    assert {name for name, lr in rates.items() if lr == 0.01} == {
        *("alexnet", "squeezenet1_1", "vgg16", "vit_tiny_patch16_224"),
    }
    assert set(rates.values()) == {0.01, 0.1}
    job = job_of("torchvision", "vgg16", "schedule.lr=0.05")
    assert (job.run.schedule.lr, job.departures) == (0.05, {"schedule.lr": 0.05})


def test_the_recipe_is_v1s_without_its_warmup_or_the_given_one() -> None:
    ours, theirs = resolve(composed("arch=plain", "depth=20")), job_of("timm", "resnet18").run
    assert theirs.schedule == ours.schedule
    assert theirs.protocol.name == "paper_v1"
    warmup = job_of("timm", "resnet18", "protocol=paper_v2").run.schedule.warmup
    assert warmup == Warmup(lr=0.01, steps=400)
    assert theirs.hardware.fused is False


def jobs_of(*commands: Sequence[str]) -> list[Job]:
    def compose(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        choices = {"arch": "resnet_v1", "data": "cifar10", "protocol": "paper"}
        options = dict(o.split("=", 1) for o in overrides)
        return composed(*overrides), {group: options.get(group, usual) for group, usual in choices.items()}

    return make_jobs(compose, commands).jobs


def test_a_sweep_over_depths_makes_each_comparator_once() -> None:
    """Our networks keep their names beside it."""
    names = ("arch.name=squeezenet1_1", "arch.name=googlenet")
    sweep = [(f"depth={d}", f"arch={a}", n) for d in (20, 56) for a in ("plain", "torchvision") for n in names]
    assert sorted(job.name for job in jobs_of(*sweep)) == [
        *("plain-20-s0", "plain-56-s0", "torchvision-googlenet-s0", "torchvision-squeezenet1_1-s0"),
    ]


def test_a_comparators_name_without_its_library_is_refused() -> None:
    with pytest.raises(UserError, match=r"arch\.name=alexnet needs arch=torchvision or arch=timm"):
        jobs_of(["arch=resnet_v1", "arch.name=alexnet"])


def test_an_estimate_uses_a_comparators_recorded_multiply_adds(tmp_path: Path) -> None:
    job = job_of("torchvision", "alexnet", f"outputs={tmp_path}")
    write_comparator(tmp_path, data__name="cifar10")  # at 1,234.5 images/s, with 94,000,000 multiply-adds on record
    measured = plan.Estimator(tmp_path).seconds(job)
    cost = plan.multiply_adds(job.run) / 94_000_000
    assert measured == pytest.approx(64_000 * 128 / 1234.5 * cost)
