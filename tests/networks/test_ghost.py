"""Ghost batch norm: each group of images is normalised by itself, as if on its own device."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnet_repro.networks.fused import FusedBatchNorm, fuse
from resnet_repro.networks.ghost import group_batch_norms
from resnet_repro.networks.options import group_size
from resnet_repro.networks.recompute import recompute_units
from resnet_repro.networks.resnet import ResNet
from resnet_repro.training.run import run
from tests.helpers.compilers import needs_compiler
from tests.helpers.ranks import final_state, in_ranks
from tests.helpers.runs import prepared, resolved

FUSED = pytest.mark.parametrize("is_fused", [False, pytest.param(True, marks=needs_compiler)])


@pytest.mark.parametrize(
    ("num_images", "at_most", "sizes"),
    [
        (128, 64, [64, 64]),
        (256, 32, [32] * 8),
        (64, 64, [64]),
        (16, 64, [16]),
        (100, 64, [50, 50]),
        (65, 64, [33, 32]),
        (7, 3, [3, 3, 1]),
        (7, 1, [1] * 7),
        (7, None, [7]),
    ],
)
def test_groups_are_as_few_and_as_equal_as_possible(num_images: int, at_most: int | None, sizes: list[int]) -> None:
    size = group_size(num_images, at_most=at_most)
    assert [len(group) for group in torch.arange(num_images).split(size)] == sizes


@pytest.mark.parametrize(
    ("data", "depth", "protocol"),
    [
        *((f"cifar{n}", 20, protocol) for n in (10, 100) for protocol in ("paper_v1", "paper_v2", "official_lua")),
        *(("imagenet", 18, protocol) for protocol in ("paper_v1", "paper_v2")),
    ],
)
def test_a_group_has_the_images_of_one_of_the_papers_gpus(data: str, depth: int, protocol: str) -> None:
    run = resolved(f"depth={depth}", f"data={data}", f"protocol={protocol}")
    assert run.schedule.ghost_batch_size is not None
    assert run.schedule.ghost_batch_size * run.protocol.devices == run.schedule.batch_size


def norm_of_groups(c: int, *, is_fused: bool, at_most: int) -> nn.BatchNorm2d:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(c)
    nn.init.uniform_(norm.weight, 0.5, 1)
    nn.init.normal_(norm.bias)
    if is_fused:
        norm = FusedBatchNorm.of(norm)
    group_batch_norms(norm, at_most=at_most)
    return norm


def by_separate_norms(norm: nn.BatchNorm2d, x: Tensor, size: int) -> tuple[Tensor, nn.BatchNorm2d]:
    """Normalise each group by its own batch norm in float64; return the outputs and the first group's batch norm."""
    norms = [nn.BatchNorm2d(norm.num_features).double() for _ in x.split(size)]
    for each in norms:
        each.load_state_dict(norm.state_dict())
        each.weight, each.bias = norms[0].weight, norms[0].bias
    return torch.cat([each(group) for each, group in zip(norms, x.split(size), strict=True)]), norms[0]


@FUSED
@pytest.mark.parametrize(("num_images", "at_most"), [(8, 4), (7, 3), (5, 8)])
def test_a_grouped_batch_norm_is_a_batch_norm_of_each_group(is_fused: bool, num_images: int, at_most: int) -> None:
    torch.manual_seed(0)
    spread = torch.arange(1, num_images + 1)[:, None, None, None]  # gives the groups clearly different statistics
    x = (spread * torch.randn(num_images, 32, 5, 3) + spread).contiguous(memory_format=torch.channels_last)
    dy = torch.randn_like(x)
    norm = norm_of_groups(32, is_fused=is_fused, at_most=at_most)
    ours, exact = x.clone().requires_grad_(), x.double().requires_grad_()
    expected, reference = by_separate_norms(norm, exact, group_size(num_images, at_most=at_most))
    y = norm(ours)
    y.backward(dy)
    expected.backward(dy.double())
    pairs: list[tuple[Any, Any]] = [
        (y, expected),
        (ours.grad, exact.grad),
        (norm.weight.grad, reference.weight.grad),
        (norm.bias.grad, reference.bias.grad),
        (norm.running_mean, reference.running_mean),
        (norm.running_var, reference.running_var),
    ]
    for value, exact_value in pairs:
        torch.testing.assert_close(value.double(), exact_value, rtol=1e-4, atol=1e-4)
    assert norm.num_batches_tracked == 1
    assert y.is_contiguous(memory_format=torch.channels_last)


@FUSED
def test_groups_change_neither_names_nor_evaluation(is_fused: bool) -> None:
    torch.manual_seed(0)
    usual = ResNet(depth=8, family="cifar", num_classes=10).to(memory_format=torch.channels_last)
    usual(torch.randn(16, 3, 16, 16))
    grouped = copy.deepcopy(usual)
    if is_fused:
        fuse(grouped)
    group_batch_norms(grouped, at_most=4)
    assert list(grouped.state_dict()) == list(usual.state_dict())
    images = torch.randn(16, 3, 16, 16)
    assert torch.equal(grouped.eval()(images), usual.eval()(images))


@FUSED
@pytest.mark.parametrize("words", [{}, {"order": "full_preact", "mix": "shortcut_gate"}], ids=str)
def test_recomputed_groups_have_the_same_bits(is_fused: bool, words: dict[str, str]) -> None:
    def after_a_step(*, recompute: bool) -> list[Tensor]:
        torch.manual_seed(0)
        net = ResNet(depth=8, family="cifar", num_classes=10, **words).to(memory_format=torch.channels_last)
        if is_fused:
            fuse(net)
        group_batch_norms(net, at_most=4)
        if recompute:
            recompute_units(net)
        net(torch.randn(12, 3, 16, 16)).logsumexp(1).sum().backward()
        return [*(p.grad for p in net.parameters() if p.grad is not None), *net.buffers()]

    pairs = zip(after_a_step(recompute=True), after_a_step(recompute=False), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


TRAINS = ("schedule.steps=8", "schedule.lr=0.01", "hardware.precision=32-true")


@FUSED
def test_two_groups_on_one_device_train_as_two_devices_do(is_fused: bool, tmp_path: Path) -> None:
    """Two ranks of 64 images, and one device with two groups of 64: the same weights and statistics up to rounding."""
    options = (*TRAINS, f"hardware.fused={str(is_fused).lower()}")
    paths = [prepared(tmp_path, *options, f"hardware.devices={number}") for number in (1, 2)]
    whole = prepared(tmp_path, *options, "schedule.ghost_batch_size=null")
    for path in (paths[0], whole):
        run(path)
    in_ranks(2, run, paths[1])
    one, two, ungrouped = (final_state(path) for path in (*paths, whole))
    differ = max(float((value - ungrouped[name]).abs().max()) for name, value in one.items() if value.ndim == 4)
    assert differ > 1e-3  # without groups the weights differ, so equality is not a matter of course
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


def test_a_group_of_the_whole_batch_changes_nothing(tmp_path: Path) -> None:
    weights = [
        run(prepared(tmp_path, "schedule.steps=6", f"schedule.ghost_batch_size={size}"))["weights_sha256"]
        for size in ("null", "128")
    ]
    assert weights[0] == weights[1]


def test_comparators_are_grouped_too(tmp_path: Path) -> None:
    """timm's own subclasses of batch norm apply an activation, which a group must not lose."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    usual = timm.create_model("mobilenetv3_small_050", num_classes=10, drop_rate=0.0)
    grouped = copy.deepcopy(usual)
    group_batch_norms(grouped, at_most=4)
    images = torch.randn(8, 3, 64, 64)
    first: Any = usual.train()(images[:4])
    assert not torch.allclose(grouped.train()(images)[:4], usual(images)[:4], atol=1e-3)
    torch.testing.assert_close(grouped(images)[:4], first, rtol=1e-4, atol=1e-4)
