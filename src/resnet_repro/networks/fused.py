"""The operations of fused.c on a CPU, compiled by this machine's C compiler, in place of PyTorch's own."""

import ctypes
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnet_repro.errors import UserError
from resnet_repro.networks.options import group_size
from resnet_repro.networks.unit import KeepLayout, ResidualUnit

SOURCE = Path(__file__).with_name("fused.c")
LANES = 16
"""Numbers of channels must be multiples of this: the most that fused.c takes at a time."""


def find_compiler() -> str | None:
    """Return the C compiler that `kernels` calls; None if there is none.

    Only its presence is checked, a lasting fact of the machine. A failure may pass, for example if somebody kills it.
    """
    return next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)


@cache
def kernels() -> ctypes.CDLL:
    """Return fused.c compiled for this processor. Compiling takes half a second once per process and leaves no file.

    Raises:
        UserError: if there is no compiler, or fused.c cannot be compiled or loaded.
    """
    compiler = find_compiler()
    if compiler is None:
        raise UserError(
            "hardware.fused=true needs a C compiler, and none is on the PATH; install gcc, or use hardware.fused=auto"
        )
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "fused.so"
        # -O3 takes twice as long, for slower loops
        options = ["-O2", "-funswitch-loops", native, "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-lm"]
        variables = os.environ | {"TMPDIR": folder}  # this folder has room; a compiler does not look for another
        process = subprocess.run([compiler, *options], env=variables, capture_output=True, text=True, check=False)
        if status := process.returncode:
            end = f"status {status}" if status > 0 else f"killed by {signal.Signals(-status).name}"
            lines = process.stderr.strip().splitlines() or [end]
            reason = next((line for line in lines if "error" in line), lines[-1])
            raise UserError(
                f"{compiler} cannot compile {SOURCE.name} ({reason}): run the same command again, or with "
                "hardware.fused=false"
            )
        try:
            loaded = _load(library)
        except OSError as error:
            raise UserError(
                f"{SOURCE.name}, compiled by {compiler}, cannot be loaded ({error}): if {tempfile.gettempdir()} is "
                "mounted noexec, set TMPDIR to another folder, or use hardware.fused=false"
            ) from None
    pointer, size, flag = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    for kernel, num_tensors in ((loaded.norm_forward, 6), (loaded.norm_backward, 8)):
        kernel.argtypes = [pointer] * num_tensors + [size, size, size, ctypes.c_float, flag, flag, flag]
        kernel.restype = None
    if loaded.weights_gradient_bytes():
        loaded.weights_gradient.argtypes = [pointer] * 3 + [size] * 6 + [flag]
        loaded.weights_gradient.restype = None
    return loaded


def _load(library: Path) -> ctypes.CDLL:
    """Load a library from its file or, if its folder is mounted noexec, from memory (Linux)."""
    try:
        return ctypes.CDLL(str(library))
    except OSError:
        if not hasattr(os, "memfd_create"):
            raise
        with os.fdopen(os.memfd_create(library.name), "wb") as memory:
            memory.write(library.read_bytes())
            memory.flush()
            return ctypes.CDLL(f"/proc/self/fd/{memory.fileno()}")


def gradient_dtype() -> torch.dtype | None:
    """Return the format in which fused.c has the weights' gradient on this processor; None if it has none."""
    return {2: torch.bfloat16, 4: torch.float32}.get(kernels().weights_gradient_bytes())


def cpu_has(capability: str) -> bool:
    """Return whether the processor has a set of instructions, such as "avx512_bf16" or "amx_bf16"."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get(capability))


def fuse(net: nn.Module) -> None:
    """Have a channels_last network use the operations of this module in training.

    Each batch norm also does the addition and the ReLU that follow. On processors where fused.c has it, the weights'
    gradient of 3x3 convolutions is its own, in bf16 or, with AVX2 alone, in float32. With AMX, wide 1x1 convolutions in
    bf16 are matrix products. Parameters keep their names. Results differ only by rounding, and evaluation does not
    change.

    Raises:
        UserError: if `kernels` cannot compile or load fused.c.
    """
    dtype = gradient_dtype()
    for layers in [module for module in net.modules() if isinstance(module, nn.Sequential)]:
        for i, layer in enumerate(layers):
            if isinstance(layer, nn.BatchNorm2d) and layer.num_features % LANES == 0:
                fused = layers[i] = FusedBatchNorm.of(layer)
                if i + 1 < len(layers) and isinstance(layers[i + 1], nn.ReLU):
                    fused.relu, layers[i + 1] = True, nn.Identity()
            elif isinstance(layer, nn.Conv2d):
                if dtype and FusedConv2d.replaces(layer):
                    FusedConv2d.take(layer, dtype)
                elif cpu_has("amx_bf16") and PointwiseConv2d.replaces(layer):
                    layer.__class__ = PointwiseConv2d
    for unit in [module for module in net.modules() if isinstance(module, ResidualUnit)]:
        last = unit.residual[-1]
        if isinstance(last, FusedBatchNorm) and unit.mix == "add" and [type(f) for f in unit.after] == [nn.ReLU]:
            last.relu, unit.after = True, nn.Sequential()
            unit.ends_in_one = unit.shortcut is not None


# --- batch norm, addition and ReLU ------------------------------------------------------------------------------------


class FusedBatchNorm(nn.BatchNorm2d):
    """Batch norm of x, plus h if given, followed by ReLU if `relu` is set."""

    relu = False
    group_at_most: int | None = None
    """Most images in a group that is normalised by itself, see `resnet_repro.networks.ghost`; None: no groups."""
    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "FusedBatchNorm":
        """Return a fused batch norm that shares the parameters and statistics of `norm`."""
        fused = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        fused.load_state_dict(norm.state_dict(keep_vars=True), assign=True)
        return fused

    def forward(self, x: Float[Tensor, "n c h w"], h: Float[Tensor, "n c h w"] | None = None) -> Tensor:
        if not self.training:
            y = super().forward(x)
            y = y if h is None else y + h
            return y.relu() if self.relu else y
        assert x.dtype in (torch.float32, torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        h = None if h is None else h.to(x.dtype).contiguous(memory_format=torch.channels_last)
        size = group_size(len(x), at_most=self.group_at_most)
        y, saved = _Norm.apply(x, h, self.weight, self.bias, size, self.eps, self.relu)
        with torch.no_grad():
            num = size * x.shape[2] * x.shape[3]
            self.running_mean.lerp_(saved[0, 0], self.momentum)
            self.running_var.lerp_(saved[0, 1] * (num / (num - 1)), self.momentum)
            self.num_batches_tracked += 1
        return y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h: Tensor | None, weight: Tensor, bias: Tensor, size: int, eps: float, relu: bool
    ) -> tuple[Tensor, Tensor]:
        y, saved = norm_forward(x, h, weight, bias, size, eps, relu)
        ctx.options, ctx.adds = (size, eps, relu), h is not None
        ctx.save_for_backward(x, y if relu and ctx.adds else None, saved)
        ctx.mark_non_differentiable(saved)
        return y, saved

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, y, saved = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        dx, dh, dweight, dbias = norm_backward(dy, y, x, saved, *ctx.options)
        return dx, (dy if y is None else dh) if ctx.adds else None, dweight, dbias, None, None, None


def _norm_forward(
    x: Tensor, h: Tensor | None, weight: Tensor, bias: Tensor, size: int, eps: float, relu: bool
) -> tuple[Tensor, Tensor]:
    y, saved = _like_norm_forward(x, h, weight, bias, size, eps, relu)
    kernels().norm_forward(*_addresses(x, h, y, weight, bias, saved), *_numbers(x, size, eps, relu))
    return y, saved


def _norm_backward(
    dy: Tensor, y: Tensor | None, x: Tensor, saved: Tensor, size: int, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dx, dh, dweight, dbias = _like_norm_backward(dy, y, x, saved, size, eps, relu)
    addresses = _addresses(dy, y, x, saved, dx, None if y is None else dh, dweight, dbias)
    kernels().norm_backward(*addresses, *_numbers(x, size, eps, relu))
    return dx, dh, dweight, dbias


def _like_norm_forward(
    x: Tensor, h: Tensor | None, weight: Tensor, bias: Tensor, size: int, eps: float, relu: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), weight.new_empty(-(-len(x) // size), 4, x.shape[1])


def _like_norm_backward(
    dy: Tensor, y: Tensor | None, x: Tensor, saved: Tensor, size: int, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dh = x.new_empty(0) if y is None else torch.empty_like(x)
    return torch.empty_like(x), dh, saved.new_empty(x.shape[1]), saved.new_empty(x.shape[1])


def _numbers(x: Tensor, size: int, eps: float, relu: bool) -> tuple[int, int, int, float, bool, bool, int]:
    n, c, height, width = x.shape
    rows = height * width  # of an image
    return n * rows, size * rows, c, eps, relu, x.dtype == torch.bfloat16, torch.get_num_threads()


# --- convolutions -----------------------------------------------------------------------------------------------------


def _is_plain(conv: nn.Conv2d) -> bool:
    """Return whether a convolution has no groups, bias or dilation, and pads with zeros."""
    return conv.groups == 1 and conv.bias is None and conv.padding_mode == "zeros" and conv.dilation == (1, 1)


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution that is a matrix product, if it reads bf16 in training.

    With AMX, the gradients of ResNet-50's weights take half to all of the time that oneDNN's convolutions take, and a
    whole step 7 % less. Narrow convolutions gain nothing.
    """

    @staticmethod
    def replaces(conv: nn.Conv2d) -> bool:
        """Return whether a convolution is one of these, and wide enough to gain."""
        is_1x1 = conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.stride in [(1, 1), (2, 2)]
        return _is_plain(conv) and is_1x1 and min(conv.in_channels, conv.out_channels) >= 64

    def forward(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n c_out h2 w2"]:
        if not self.training or x.dtype != torch.bfloat16:
            return super().forward(x)
        stride = self.stride[0]
        if stride > 1:
            x = KeepLayout.apply(x)[:, :, ::stride, ::stride]
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)


class FusedConv2d(nn.Conv2d):
    """A 3x3 convolution whose weights' gradient is fused.c's, if it reads numbers of `dtype` in training.

    That gradient is float32 as its sums are, where PyTorch's of bf16 is rounded to bf16.
    """

    dtype: torch.dtype

    @classmethod
    def take(cls, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        """Make a convolution one of these; `dtype` is the format in which fused.c has the gradient."""
        conv.__class__ = cls
        assert isinstance(conv, cls)
        conv.dtype = dtype

    @staticmethod
    def replaces(conv: nn.Conv2d) -> bool:
        """Return whether fused.c has this convolution."""
        is_3x3 = conv.kernel_size == (3, 3) and conv.padding == (1, 1) and conv.stride in [(1, 1), (2, 2)]
        return _is_plain(conv) and is_3x3 and conv.in_channels % LANES == 0 and conv.out_channels % LANES == 0

    def forward(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n c_out h2 w2"]:
        if not self.training or x.dtype != self.dtype:
            return super().forward(x)
        y: Tensor = _Conv.apply(x.contiguous(memory_format=torch.channels_last), self.weight, self.stride[0])
        return y


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        weight = weight.to(x.dtype)
        ctx.stride = stride
        ctx.save_for_backward(x, weight)
        return torch.conv2d(x, weight, stride=stride, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        options = (None, [ctx.stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, [True, False, False])
        dx, *_ = torch.ops.aten.convolution_backward(dy, x, weight, *options)
        return dx, weights_gradient(x, dy, ctx.stride), None


def _weights_gradient(x: Tensor, dy: Tensor, stride: int) -> Tensor:
    n, c_in, height, width = x.shape
    num_threads, c_out = torch.get_num_threads(), dy.shape[1]
    sums = x.new_empty((num_threads, c_out, 3, 3, c_in), dtype=torch.float32)
    kernels().weights_gradient(*_addresses(x, dy, sums), n, height, width, c_in, c_out, stride, num_threads)
    return sums[0].permute(0, 3, 1, 2)


def _like_weights_gradient(x: Tensor, dy: Tensor, stride: int) -> Tensor:
    return x.new_empty((dy.shape[1], 3, 3, x.shape[1]), dtype=torch.float32).permute(0, 3, 1, 2)


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


# --- for torch.compile ------------------------------------------------------------------------------------------------


def _operation(function: Callable[..., Any], like: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, which torch.compile does not look into: it sees an operation that returns what `like` does.

    Otherwise the function is called directly, because an operation's way through the dispatcher takes 0.1 ms.
    """
    operation = torch.library.custom_op(f"resnet_repro::{function.__name__.strip('_')}", function, mutates_args=())
    operation.register_fake(like)
    return lambda *arguments: (operation if torch.compiler.is_compiling() else function)(*arguments)


norm_forward = _operation(_norm_forward, _like_norm_forward)
norm_backward = _operation(_norm_backward, _like_norm_backward)
weights_gradient = _operation(_weights_gradient, _like_weights_gradient)
