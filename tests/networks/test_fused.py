"""Fused batch norm, addition and ReLU: the same function and the same run as separate operations."""

import copy
import csv
import os
import platform
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_repro.errors import Stopped, UserError
from resnet_repro.networks import fused
from resnet_repro.networks.fused import FusedBatchNorm, fuse
from resnet_repro.networks.resnet import ResNet
from resnet_repro.networks.unit import MIXES, ORDERS, SHORTCUTS
from resnet_repro.runs.folder import RunDir
from resnet_repro.training.run import run
from tests.helpers.compilers import COMPILER, needs_compiler
from tests.helpers.runs import assert_a_stop_changes_nothing, change_job, interrupt_at, prepared

WORDS = [
    *({"order": order} for order in ORDERS),
    *({"shortcut": kind} for kind in SHORTCUTS if kind not in ("A", "dropout")),
    *({"mix": mix} for mix in MIXES if mix != "add"),
]
PATH = os.environ["PATH"]


def tensors(dtype: torch.dtype, c: int, *, mean: float = 1.0) -> list[Tensor]:
    """Return x, h and dy with an odd number of pixels, in channels_last."""
    generator = torch.Generator().manual_seed(0)
    x, h, dy = torch.randn(3, 5, c, 7, 9, generator=generator)
    return [t.to(dtype).contiguous(memory_format=torch.channels_last) for t in (2 * x + mean, h, dy)]


def norm_of(c: int, *, relu: bool) -> FusedBatchNorm:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(c)
    nn.init.uniform_(norm.weight, -1, 1)
    nn.init.normal_(norm.bias)
    fused_norm = FusedBatchNorm.of(norm)
    fused_norm.relu = relu
    return fused_norm


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
ADDS = pytest.mark.parametrize("adds", [False, True])
RELU = pytest.mark.parametrize("relu", [False, True])


@needs_compiler
@DTYPES
@ADDS
@RELU
@pytest.mark.parametrize("c", [16, 48, 256])
def test_values_gradients_and_statistics_equal_float64s(dtype: torch.dtype, c: int, adds: bool, relu: bool) -> None:
    assert_equal_to_float64(dtype, c, adds=adds, relu=relu)


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the processors are x86")
@DTYPES
@pytest.mark.parametrize("processor", ["haswell", "x86-64"])  # with AVX2; with SSE2 only
def test_older_processors_compute_the_same(
    dtype: torch.dtype, processor: str, no_compiler: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\nPATH={PATH}\nexec {COMPILER} "$@" -march={processor}\n')
    compiler.chmod(0o755)
    assert_equal_to_float64(dtype, 48, adds=True, relu=True)


def assert_equal_to_float64(dtype: torch.dtype, c: int, *, adds: bool, relu: bool) -> None:
    x, h, dy = tensors(dtype, c)
    norm = norm_of(c, relu=relu)
    exact = nn.BatchNorm2d(c).double()
    exact.load_state_dict(norm.state_dict())
    ours = [t.clone().requires_grad_() for t in (x, h)]
    theirs = [t.double().requires_grad_() for t in (x, h)]

    y = norm(ours[0], ours[1] if adds else None)
    expected = exact(theirs[0]) + (theirs[1] if adds else 0)
    # leave out gradients where the input of ReLU is nearly 0, because rounding decides them
    clear = (expected.abs() > 0.05) if relu else torch.ones_like(expected, dtype=torch.bool)
    expected = F.relu(expected) if relu else expected
    y.backward((dy * clear).contiguous(memory_format=torch.channels_last))
    expected.backward(dy.double() * clear)

    rounding = 1e-5 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(y.double(), expected, rtol=rounding, atol=rounding)
    for mine, reference in zip(ours[: 1 + adds], theirs, strict=False):
        assert mine.grad is not None
        assert mine.grad.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(mine.grad.double(), reference.grad, rtol=rounding, atol=rounding)
    for mine, reference in zip(norm.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), reference.grad, rtol=1e-5, atol=1e-3)
    for name, statistic in exact.named_buffers():
        torch.testing.assert_close(norm.get_buffer(name).to(statistic.dtype), statistic, rtol=1e-5, atol=1e-6)


@needs_compiler
def test_a_mean_of_a_thousand_deviations_keeps_the_variance() -> None:
    x, *_ = tensors(torch.float32, 16, mean=2000.0)
    norm = norm_of(16, relu=False)
    y = norm(x)
    expected = F.batch_norm(x.double(), None, None, norm.weight.double(), norm.bias.double(), training=True)
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-3)


@needs_compiler
@DTYPES
def test_a_nan_is_passed_on(dtype: torch.dtype) -> None:
    """A diverging run must show that it diverges."""
    x, *_ = tensors(dtype, 16)
    x[0, 3, 0, 0] = float("nan")
    y = norm_of(16, relu=True)(x)
    assert y[:, 3].isnan().all()
    assert not y[:, :3].isnan().any()


@needs_compiler
@pytest.mark.parametrize("words", WORDS, ids=str)
def test_a_fused_network_equals_the_network_in_float64(words: dict[str, str]) -> None:
    """In its loss, its gradients and its running statistics."""
    differences = []
    for seed in range(3):
        torch.manual_seed(seed)
        exact = ResNet(depth=14, family="cifar", num_classes=10, **words)
        ours = copy.deepcopy(exact).to(memory_format=torch.channels_last)
        fuse(ours)
        assert list(ours.state_dict()) == list(exact.state_dict())
        images, labels = torch.randn(16, 3, 16, 16), torch.randint(0, 10, (16,))
        losses = F.cross_entropy(ours(images), labels), F.cross_entropy(exact.double()(images.double()), labels)
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
        for loss in losses:
            loss.backward()
        pairs = [(p.grad, q.grad) for p, q in zip(ours.parameters(), exact.parameters(), strict=True)]
        pairs += zip(ours.buffers(), exact.buffers(), strict=True)
        differences.append(
            max(float((mine - theirs.double()).norm() / theirs.double().norm()) for mine, theirs in pairs)
        )
    # rounding may change the sign of an input of ReLU that is nearly 0, and so a gradient, but not for every seed
    assert min(differences) < 1e-4


@needs_compiler
def test_evaluation_equals_the_unfused_networks_bitwise() -> None:
    torch.manual_seed(0)
    usual = ResNet(depth=8, family="cifar", num_classes=10).to(memory_format=torch.channels_last)
    usual(torch.randn(16, 3, 16, 16))  # fills the running statistics
    ours = copy.deepcopy(usual)
    fuse(ours)
    images = torch.randn(16, 3, 16, 16)
    assert torch.equal(ours.eval()(images), usual.eval()(images))


@needs_compiler
@pytest.mark.parametrize("shortcut", ["A", "B", "none"])
def test_units_of_v1_and_plain_networks_are_fused_to_the_end(shortcut: str) -> None:
    net = ResNet(depth=8, family="cifar", num_classes=10, shortcut=shortcut)
    fuse(net)
    assert not any(isinstance(module, nn.ReLU) for module in net.modules())


@needs_compiler
def test_a_library_that_cannot_be_loaded_names_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise OSError("failed to map segment from shared object")

    fused.kernels.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("ctypes.CDLL", refuse)
        with pytest.raises(UserError, match=r"failed to map segment.*set TMPDIR to another folder, or use hardware"):
            fused.kernels()
    fused.kernels.cache_clear()


# --- the whole run ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_compiler
def test_a_fused_run_learns_as_the_usual_run_does(tmp_path: Path) -> None:
    """In float32 on the same batches: nearly the same first losses, and after 200 steps the same loss up to noise."""
    options = ("schedule.steps=200", "schedule.eval_every=200", "schedule.log_every=1", "hardware.precision=32-true")
    losses = []
    for is_fused in ("true", "false"):
        run(path := prepared(tmp_path / is_fused, *options, f"hardware.fused={is_fused}"))
        with RunDir(path).metrics.open() as file:
            losses.append([float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]])
    ours, usual = losses
    assert ours[0] == pytest.approx(usual[0], rel=1e-5)
    assert ours[:4] == pytest.approx(usual[:4], rel=1e-3)
    assert sum(ours[-20:]) / 20 == pytest.approx(sum(usual[-20:]) / 20, abs=0.01)


@needs_compiler
@pytest.mark.parametrize("arch", ["resnet_v1", "resnet_v2", "plain"])
def test_a_resumed_fused_run_is_exact(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = (f"arch={arch}", "hardware.fused=true")
    assert_a_stop_changes_nothing(*(prepared(tmp_path / name, *options) for name in ("whole", "parts")), monkeypatch)


@needs_compiler
def test_a_fused_run_does_not_resume_unfused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = prepared(tmp_path, "hardware.fused=true")
    with monkeypatch.context() as patch:
        interrupt_at(5, patch)
        with pytest.raises(Stopped):
            run(path)
    change_job(path, fused=False)
    with pytest.raises(UserError, match=r"hardware\.fused was True and is now False: give the old values"):
        run(path)
