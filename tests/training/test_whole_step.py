"""The step that a CUDA graph records: the recording on a GPU, the same operations one by one on a CPU."""

import copy
import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnet_repro.data.device_batches import DeviceBatches
from resnet_repro.networks.resnet import ResNet
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.options import Hardware, SettledHardware
from resnet_repro.training import hardware
from resnet_repro.training.classifier import GraphedClassifier
from resnet_repro.training.cuda_graph import GraphedSGD, GraphedStep
from resnet_repro.training.metrics import LossAndError
from resnet_repro.training.run import run
from tests.helpers.runs import assert_a_stop_changes_nothing, prepared

STEPS = 12
SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False}
NEEDS_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=NEEDS_GPU)]
FORMATS = [torch.float32, torch.bfloat16]


@pytest.fixture(autouse=True)
def same_kernels_same_bits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Allow a GPU only kernels that give the same bits twice, as `hardware.deterministic=true` does."""
    if not torch.cuda.is_available():
        yield
        return
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def batches(device: str, *, steps_at_once: int | None = None) -> DeviceBatches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8, generator=generator).to(device)
    labels = torch.randint(0, 10, (64,), generator=generator).to(device)
    mean = images.float().mean(0) / 255
    options: dict[str, Any] = {"batch_size": 32, "pad": 2, "flip": True, "seed": 0, "num_steps": STEPS}
    return DeviceBatches(images, labels, mean=mean, scale=255.0, steps_at_once=steps_at_once, **options)


def network(device: str, **words: str) -> nn.Module:
    torch.manual_seed(0)
    return ResNet(depth=8, family="cifar", num_classes=10, **words).to(device)


def rate(step: int) -> float:
    return 0.1 if step < 8 else 0.01


def train_usually(net: nn.Module, device: str, dtype: torch.dtype) -> Iterator[float]:
    """Yield the losses of the usual training loop, with the same optimiser."""
    sgd = torch.optim.SGD(net.parameters(), **SGD, fused=True)
    for step, (images, labels) in enumerate(batches(device)):
        sgd.param_groups[0]["lr"] = torch.tensor(rate(step), device=device)
        sgd.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
        sgd.step()
        yield loss.item()


def train_whole(net: nn.Module, device: str, dtype: torch.dtype) -> Iterator[float]:
    sgd = GraphedSGD(net.parameters(), **SGD, fused=True)
    data, whole = batches(device, steps_at_once=4), None
    for step, choices in enumerate(chain.from_iterable(data)):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):  # as Lightning does
            whole = whole or GraphedStep(net, sgd, data.batch, choices, LossAndError().to(device))
            whole.set_inputs(choices, rate(step))
            sgd.step()
        yield whole.loss.item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", FORMATS, ids=str)
@pytest.mark.parametrize("words", [{}, {"shortcut": "none"}, {"order": "full_preact", "shortcut": "B"}], ids=str)
def test_whole_steps_equal_the_usual_loop_bitwise(words: dict[str, str], dtype: torch.dtype, device: str) -> None:
    usual, ours = network(device, **words), network(device, **words)
    assert list(train_whole(ours, device, dtype)) == list(train_usually(usual, device, dtype))
    for (name, tensor), expected in zip(ours.state_dict().items(), usual.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("device", DEVICES)
def test_warming_up_at_the_start_and_later_changes_no_bit(device: str) -> None:
    """A GPU also warms up by itself before it records; a CPU warms up only because this test says so."""
    results = []
    for warms_up in (False, True):
        net = network(device, shortcut="dropout")
        sgd = GraphedSGD(net.parameters(), **SGD, fused=True)
        data, whole, metric = batches(device, steps_at_once=1), None, LossAndError().to(device)
        for step, (choices,) in enumerate(data):
            whole = whole or GraphedStep(net, sgd, data.batch, choices, metric)
            whole.set_inputs(choices, rate(step))
            if warms_up and step in (0, 5):
                before = copy.deepcopy(net.state_dict())
                whole.warm_up()
                for name, tensor in net.state_dict().items():
                    assert torch.equal(tensor, before[name]), name
            sgd.step()
        assert whole is not None
        assert whole.take_measured()["num_images"] == STEPS * 32, "every step counts once"
        assert not any(whole.take_measured().values())
        results.append(net.state_dict())
    for name, tensor in results[0].items():
        assert torch.equal(tensor, results[1][name]), name


# --- the whole run ----------------------------------------------------------------------------------------------------


@pytest.fixture
def graph_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow `hardware.graph=true` on a CPU, where it is refused because it gains nothing."""

    def settle(options: Hardware, **may: bool) -> SettledHardware:
        return hardware.settle(options.but(graph=False), **may).but(graph=options.graph is True)

    monkeypatch.setattr("resnet_repro.training.run.settle", settle)


def column(path: Path, name: str) -> list[float]:
    with RunDir(path).metrics.open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def losses(path: Path) -> list[float]:
    return column(path, "train/loss")


@pytest.mark.slow
@pytest.mark.usefixtures("graph_on_any_device")
def test_a_run_of_whole_steps_is_the_usual_run_within_rounding(tmp_path: Path) -> None:
    options = ("hardware.precision=32-true", "schedule.log_every=1")
    usual = prepared(tmp_path / "usual", *options)
    ours = prepared(tmp_path / "ours", *options, "hardware.graph=true")
    expected, manifest = run(usual), run(ours)
    assert losses(ours)[0] == pytest.approx(losses(usual)[0], rel=1e-5)
    assert losses(ours)[:4] == pytest.approx(losses(usual)[:4], rel=1e-3)
    assert manifest["results"]["step"] == expected["results"]["step"] == 24
    for name in ("gradients", "responses"):
        lines = [getattr(RunDir(path), name).read_text().splitlines() for path in (ours, usual)]
        assert len(lines[0]) == len(lines[1]) > 5
    gradients = [RunDir(path).gradients.read_text().splitlines()[1].split(",") for path in (ours, usual)]
    assert gradients[0][:2] == gradients[1][:2]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, marks=NEEDS_GPU, id=" ".join(options))
        for options in [
            ("hardware.graph=false",),
            ("hardware.graph=true",),
            ("hardware.graph=true", "hardware.precision=32-true", "arch.shortcut=dropout"),
            ("hardware.graph=true", "arch=resnet_v2", "depth=11", "arch.unit=bottleneck"),
            ("hardware.graph=true", "hardware.recompute=true"),
            ("hardware.graph=auto", "schedule.warmup={lr: 0.01, until_error: 95.0}"),
        ]
    ],
)
def test_a_resumed_run_on_a_gpu_is_exact(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [prepared(tmp_path / name, "hardware=gpu", *options) for name in ("whole", "parts")]
    assert_a_stop_changes_nothing(*runs, monkeypatch)
    assert not torch.backends.cudnn.allow_tf32, "float32 is float32"


AT_ONCE = ("schedule.steps=40", "schedule.log_every=2", "schedule.eval_every=8")  # two steps at a time


@pytest.mark.slow
@pytest.mark.usefixtures("graph_on_any_device")
@pytest.mark.parametrize(("arch", "step", "more"), [("resnet_v1", 13, ()), ("resnet_v2", 14, AT_ONCE)])
def test_a_resumed_run_of_whole_steps_is_exact(
    arch: str, step: int, more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (f"arch={arch}", "hardware.graph=true", *more)
    runs = [prepared(tmp_path / name, *options) for name in ("whole", "parts")]
    assert_a_stop_changes_nothing(*runs, monkeypatch, step=step)


@pytest.mark.slow
@pytest.mark.usefixtures("graph_on_any_device")
def test_steps_taken_at_once_equal_single_steps_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across a warm-up that waits for an error, ends of epochs (every 14 steps), rows and evaluations."""
    warmup = "schedule.warmup={lr: 0.01, until_error: 85.0}"
    options = ("depth=8", warmup, "schedule.steps=400", "schedule.log_every=20", "schedule.eval_every=80")
    ours, one_by_one = (prepared(tmp_path / name, *options, "hardware.graph=true") for name in ("ours", "single"))
    numbers: list[int] = []
    take_steps = GraphedClassifier.training_step
    monkeypatch.setattr(
        GraphedClassifier,
        "training_step",
        lambda self, batch, batch_idx: numbers.append(len(batch)) or take_steps(self, batch, batch_idx),
    )
    manifest = run(ours)
    monkeypatch.setattr("resnet_repro.training.run.steps_at_once", lambda *_: 1)
    expected = run(one_by_one)
    assert numbers == [20] * 20 + [1] * 400
    assert manifest["weights_sha256"] == expected["weights_sha256"]
    assert {0.01, 0.1} <= {*column(ours, "lr")}, "the warm-up ends within the run"
    for name in ("step", "epoch", "lr", "train/error", "test/error", "test/loss"):
        assert column(ours, name) == column(one_by_one, name), name
    assert losses(ours) == pytest.approx(losses(one_by_one), rel=1e-12)  # the sums are in another order


@pytest.mark.slow
@pytest.mark.timeout(900)  # compiling takes one core a minute
def test_a_run_of_compiled_units_is_the_usual_run_rounded(tmp_path: Path) -> None:
    options = ("hardware.precision=32-true", "schedule.log_every=1", "hardware.fused=false")
    usual = prepared(tmp_path / "usual", *options)
    ours = prepared(tmp_path / "ours", *options, "hardware.compile=true")
    expected, manifest = run(usual), run(ours)
    assert losses(ours)[0] == pytest.approx(losses(usual)[0], rel=1e-5)
    assert losses(ours)[:4] == pytest.approx(losses(usual)[:4], rel=1e-3)
    assert manifest["num_parameters"] == expected["num_parameters"]
    assert manifest["results"]["test/loss"] == pytest.approx(expected["results"]["test/loss"], rel=0.2)
