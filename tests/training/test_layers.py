"""Responses and gradients of every layer: the numbers are right, and measuring changes nothing."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_repro.errors import Stopped
from resnet_repro.networks.fused import fuse
from resnet_repro.networks.ghost import group_batch_norms
from resnet_repro.networks.resnet import ResNet
from resnet_repro.runs.folder import RunDir
from resnet_repro.training.classifier import LitClassifier
from resnet_repro.training.layers import GradientNorms, layers, response_stds
from resnet_repro.training.run import run
from tests.helpers.compilers import needs_compiler
from tests.helpers.networks import image_batches, seeded_cifar
from tests.helpers.runs import in_memory, interrupt_at, prepared, recorded


def outputs(net: ResNet, modules: list[nn.Module], images: Tensor) -> list[Tensor]:
    """Return the modules' outputs for the images, in evaluation mode."""
    by_module: dict[nn.Module, Tensor] = {}
    handles = [m.register_forward_hook(lambda m, _, output: by_module.update({m: output})) for m in modules]
    with torch.no_grad():
        net.eval()(images)
    for handle in handles:
        handle.remove()
    return [by_module[module] for module in modules]


@pytest.mark.parametrize("shortcut", ["A", "C"])  # C has convolutions that the depth does not count
@pytest.mark.parametrize(("depth", "unit"), [(20, "auto"), (164, "auto"), (20, "one_layer")])
def test_the_depth_counts_the_layers_and_the_linear_one(depth: int, unit: str, shortcut: str) -> None:
    convolutions = layers(seeded_cifar(depth, shortcut=shortcut, unit=unit))
    assert [layer.number for layer in convolutions] == list(range(1, depth))
    assert convolutions[0].name == "stem.0"


@pytest.mark.parametrize("shortcut", ["none", "A"])
def test_a_response_is_the_deviation_of_batch_norms_output(shortcut: str) -> None:
    net = seeded_cifar(shortcut=shortcut)
    measured = [std for _, std in response_stds(net, image_batches(5, 3))]
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == len(measured) == 7
    expected = outputs(net, norms, torch.cat([images for images, _ in image_batches(5, 3)]))
    assert measured == pytest.approx([float(y.std(correction=0)) for y in expected], rel=1e-4)


def test_a_response_without_batch_norm_is_of_the_convolution() -> None:
    net = seeded_cifar(order="full_preact")
    first, last = (layer for layer in layers(net) if layer.name.startswith("stages.1.0."))
    assert first.norm is not None
    assert last.norm is None
    stds = {layer.name: std for layer, std in response_stds(net, image_batches(4))}
    (output,) = outputs(net, [last.conv], image_batches(4)[0][0])
    assert stds[last.name] == pytest.approx(float(output.std(correction=0)), rel=1e-4)


def test_only_the_3x3_layers_of_a_bottleneck_have_responses() -> None:
    measured = [layer for layer, _ in response_stds(seeded_cifar(11, unit="bottleneck"), image_batches(2))]
    assert [layer.number for layer in measured] == [1, 3, 6, 9]


def test_measuring_responses_leaves_the_network_as_it_was() -> None:
    net = seeded_cifar()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    response_stds(net, image_batches(4))
    assert net.training
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@needs_compiler
def test_fused_batch_norms_have_the_same_responses() -> None:
    net = seeded_cifar().to(memory_format=torch.channels_last)
    expected = [std for _, std in response_stds(net, image_batches(4))]
    fuse(net)
    assert [std for _, std in response_stds(net, image_batches(4))] == pytest.approx(expected, rel=1e-5)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_writes_its_responses_and_gradients(tmp_path: Path) -> None:
    path = prepared(tmp_path, "hardware.precision=32-true")
    run(path)
    folder = RunDir(path)
    assert [row["layer"] for row in rows(folder.responses)] == list("1234567")
    gradients = rows(folder.gradients)
    assert [row["step"] for row in gradients] == [str(step) for step in (1, 6, 12, 18, 24) for _ in range(7)]

    # compute the first step's gradients again from the initial weights and the first batch
    options = recorded(folder.path)
    torch.manual_seed(options.seed)
    net = LitClassifier(options, splits=[]).net
    group_batch_norms(net, at_most=options.schedule.ghost_batch_size)
    data = in_memory(options)
    cpu = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(strategy=cpu, global_rank=0, world_size=1)  # type: ignore[assignment]
    images, labels = next(iter(data.train_dataloader()))
    F.cross_entropy(net(images), labels).backward()
    convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    norms = [float(conv.weight.grad.norm()) for conv in convs if conv.weight.grad is not None]
    assert [float(row["norm"]) for row in gradients[:7]] == pytest.approx(norms, rel=1e-3)
    assert [float(row["weight_norm"]) for row in gradients[:7]] == pytest.approx(
        [float(conv.weight.detach().norm()) for conv in convs], rel=1e-5
    )


def test_measuring_layers_changes_no_bit_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = run(path := prepared(tmp_path / "measured", "arch.shortcut=dropout"))  # dropout draws random numbers
    monkeypatch.setattr(GradientNorms, "on_before_optimizer_step", lambda *args: None)
    monkeypatch.setattr("resnet_repro.training.run.write_responses", lambda *args: None)
    plain = run(other := prepared(tmp_path / "plain", "arch.shortcut=dropout"))
    assert RunDir(path).responses.exists() > RunDir(other).responses.exists()
    assert measured["weights_sha256"] == plain["weights_sha256"]
    assert RunDir(path).metrics.read_bytes() == RunDir(other).metrics.read_bytes()


def test_a_resumed_run_has_the_same_gradients_and_responses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(undisturbed := prepared(tmp_path / "undisturbed"))
    interrupt_at(13, monkeypatch)
    path = prepared(tmp_path / "stopped")
    with pytest.raises(Stopped):
        run(path)
    run(path)
    for name in ("gradients.csv", "responses.csv"):
        assert (path / name).read_bytes() == (undisturbed / name).read_bytes()
