"""The operations of fused.c: the same function and the same run as PyTorch's own operations."""

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
from resnet_repro.networks.fused import FusedBatchNorm, FusedConv2d, PointwiseConv2d, fuse
from resnet_repro.networks.resnet import ResNet
from resnet_repro.networks.unit import MIXES, ORDERS, SHORTCUTS
from resnet_repro.runs.folder import RunDir
from resnet_repro.training.hardware import compile_network
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
    assert fused.gradient_dtype() == (torch.float32 if processor == "haswell" else None)
    if dtype == fused.gradient_dtype():
        assert_gradients_equal_to_float64(*convolution(64, 32, dtype, stride=2, n=9, h=7, w=9))


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


# --- convolutions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def own_dtype() -> torch.dtype:
    """The format of fused.c's weights' gradient; skip the test on a processor that has none."""
    dtype = fused.gradient_dtype() if COMPILER else None
    if dtype is None:
        pytest.skip("this processor has no weights' gradient of fused.c")
    return dtype


def gradients(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Return dx and dw of a convolution, under autocast if x is bf16."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        conv(x).backward(dy)
    assert x.grad is not None
    assert conv.weight.grad is not None
    return x.grad, conv.weight.grad


def convolution(
    c_in: int, c_out: int, dtype: torch.dtype, *, stride: int, n: int, h: int, w: int
) -> tuple[nn.Conv2d, Tensor, Tensor]:
    """Return a 3x3 convolution, its input and its output's gradient."""
    torch.manual_seed(0)
    conv = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(n, c_in, h, w).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        return conv, x, torch.randn_like(conv(x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("c_in", "c_out"), [(16, 16), (16, 48), (64, 32)])
@pytest.mark.parametrize(("n", "h", "w"), [(9, 32, 32), (33, 7, 9), (3, 1, 1), (2, 2, 5)])
def test_a_fused_convolution_has_float64s_gradients(
    c_in: int, c_out: int, stride: int, n: int, h: int, w: int, own_dtype: torch.dtype
) -> None:
    assert_gradients_equal_to_float64(*convolution(c_in, c_out, own_dtype, stride=stride, n=n, h=h, w=w))


def assert_gradients_equal_to_float64(conv: nn.Conv2d, x: Tensor, dy: Tensor) -> None:
    usual_dx, _ = gradients(copy.deepcopy(conv), x, dy)
    options = {"stride": conv.stride, "padding": 1}
    exact = torch.nn.grad.conv2d_weight(x.double(), conv.weight.shape, dy.double(), **options)
    assert FusedConv2d.replaces(conv)
    FusedConv2d.take(conv, x.dtype)
    dx, dw = gradients(conv, x, dy)
    assert torch.equal(dx, usual_dx)
    assert dw.stride() == conv.weight.stride()
    torch.testing.assert_close(dw.double(), exact, rtol=1e-5, atol=1e-6 * float(exact.abs().max()))


def test_the_librarys_convolutions_are_the_same_after_a_weights_gradient(own_dtype: torch.dtype) -> None:
    """With AMX both set the shape of the processor's tiles, and oneDNN relies on what it has set."""
    conv, x, dy = convolution(32, 48, own_dtype, stride=1, n=3, h=9, w=7)
    weight = conv.weight.to(own_dtype)
    before = torch.conv2d(x, weight, padding=1)
    fused.weights_gradient(x, dy, 1)
    assert torch.equal(torch.conv2d(x, weight, padding=1), before)


@pytest.mark.parametrize(
    "options",
    [{"kernel_size": 1, "padding": 0}, {"bias": True}, {"groups": 2}, {"dilation": 2}, {"padding": 0}, {"stride": 3}],
    ids=str,
)
def test_other_convolutions_stay_the_librarys(options: dict[str, int]) -> None:
    usual = {"kernel_size": 3, "padding": 1, "bias": False}
    assert FusedConv2d.replaces(nn.Conv2d(16, 16, **usual))
    assert not FusedConv2d.replaces(nn.Conv2d(16, 16, **usual | options))
    assert not FusedConv2d.replaces(nn.Conv2d(3, 16, **usual))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("n", "h", "w"), [(9, 8, 8), (3, 7, 9), (1, 1, 1)])
def test_a_pointwise_convolution_is_the_librarys_within_rounding(n: int, h: int, w: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 128, 1, stride, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(n, 64, h, w).bfloat16().contiguous(memory_format=torch.channels_last)
    exact = copy.deepcopy(conv).double()
    exact.weight.data = conv.weight.bfloat16().double()
    reference = x.double().requires_grad_()
    y = exact(reference)
    dy = torch.randn_like(y).bfloat16()
    y.backward(dy.double())
    assert PointwiseConv2d.replaces(conv)
    conv.__class__ = PointwiseConv2d
    with torch.autocast("cpu", torch.bfloat16):
        ours = conv(x)
    dx, dw = gradients(conv, x, dy)
    assert exact.weight.grad is not None
    assert reference.grad is not None
    for mine, expected in ((ours, y), (dx, reference.grad), (dw, exact.weight.grad)):
        assert mine.shape == expected.shape
        assert (mine.double() - expected).norm() < 0.005 * expected.norm()
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert dx.is_contiguous(memory_format=torch.channels_last)
    conv.eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(x), F.conv2d(x, conv.weight.bfloat16(), stride=stride))


@needs_compiler
def test_only_wide_pointwise_convolutions_become_products_and_only_with_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    def num_products(*, has_amx: bool) -> int:
        monkeypatch.setattr(fused, "cpu_has", lambda capability: has_amx and capability == "amx_bf16")
        net = ResNet(depth=29, family="cifar", num_classes=10, unit="bottleneck", order="full_preact", shortcut="B")
        fuse(net)
        return sum(isinstance(module, PointwiseConv2d) for module in net.modules())

    assert num_products(has_amx=True) == 2 * 3 + 2, "of the last stage, and the shortcuts from 64 and 128 channels"
    assert num_products(has_amx=False) == 0
    usual = {"kernel_size": 1, "bias": False}
    assert PointwiseConv2d.replaces(nn.Conv2d(64, 64, **usual))
    for options in ({"kernel_size": 3}, {"bias": True}, {"groups": 2}, {"padding": 1}, {"stride": 3}):
        assert not PointwiseConv2d.replaces(nn.Conv2d(64, 64, **usual | options))


@needs_compiler
@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_change_no_gradient_but_by_rounding(num_threads: int) -> None:
    def step() -> list[Tensor]:
        torch.manual_seed(0)
        net = ResNet(depth=8, family="cifar", num_classes=10).to(memory_format=torch.channels_last)
        fuse(net)
        with torch.autocast("cpu", torch.bfloat16):
            F.cross_entropy(net(torch.randn(16, 3, 32, 32)), torch.arange(16) % 10).backward()
        return [p.grad for p in net.parameters() if p.grad is not None]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = step()
        torch.set_num_threads(num_threads)
        for mine, expected in zip(step(), alone, strict=True):
            assert (mine - expected).norm() < 0.02 * expected.norm()
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.slow
def test_a_compiled_fused_network_equals_the_eager_one() -> None:
    """In every loss of four steps, and in every weight, to rounding."""
    results = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        net = ResNet(depth=8, family="cifar", num_classes=10).to(memory_format=torch.channels_last)
        fuse(net)
        if is_compiled:
            compile_network(net)
        optimizer, losses = torch.optim.SGD(net.parameters(), lr=0.1), []
        images = torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        for _ in range(4):
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(net(images), torch.arange(16) % 10)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        results.append((losses, net.state_dict()))
    (eager, weights), (compiled, compiled_weights) = results
    assert compiled == pytest.approx(eager, rel=1e-2)
    for name, weight in weights.items():
        torch.testing.assert_close(compiled_weights[name], weight, rtol=0.05, atol=0.01)


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
@pytest.mark.slow
def test_a_resumed_compiled_run_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("hardware.fused=true", "hardware.compile=true", "hardware.precision=bf16-mixed")
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
