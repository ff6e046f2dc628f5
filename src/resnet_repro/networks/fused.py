"""Batch norm, addition of the shortcut and ReLU as one CPU operation, compiled by this machine's C compiler."""

import ctypes
import os
import platform
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resnet_repro.errors import UserError
from resnet_repro.networks.options import group_size
from resnet_repro.networks.unit import ResidualUnit

SOURCE = Path(__file__).with_name("fused.c")
LANES = 16
"""The number of channels must be a multiple of this: the most that fused.c takes at a time."""


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
        options = ["-O3", native, "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-lm"]
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
        kernel.argtypes = [pointer] * num_tensors + [size, size, size, ctypes.c_float, flag, flag]
        kernel.restype = None
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


def fuse(net: nn.Module) -> None:
    """Have each batch norm of a channels_last network also do the addition and the ReLU that follow, in training.

    Parameters keep their names. Results differ only by rounding, and evaluation does not change.

    Raises:
        UserError: if `kernels` cannot compile or load fused.c.
    """
    kernels()
    for layers in [module for module in net.modules() if isinstance(module, nn.Sequential)]:
        for i, norm in enumerate(layers):
            if isinstance(norm, nn.BatchNorm2d) and norm.num_features % LANES == 0:
                fused = layers[i] = FusedBatchNorm.of(norm)
                if i + 1 < len(layers) and isinstance(layers[i + 1], nn.ReLU):
                    fused.relu, layers[i + 1] = True, nn.Identity()
    for unit in [module for module in net.modules() if isinstance(module, ResidualUnit)]:
        last = unit.residual[-1]
        if isinstance(last, FusedBatchNorm) and unit.mix == "add" and [type(f) for f in unit.after] == [nn.ReLU]:
            last.relu, unit.after = True, nn.Sequential()
            unit.ends_in_one = unit.shortcut is not None


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
        if self.training:
            return _Norm.apply(self, x, h, self.weight, self.bias)
        y = super().forward(x)
        y = y if h is None else y + h
        return y.relu() if self.relu else y


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, norm: FusedBatchNorm, x: Tensor, h: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        assert x.dtype in (torch.float32, torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        h = None if h is None else h.to(x.dtype).contiguous(memory_format=torch.channels_last)
        y, c = torch.empty_like(x), x.shape[1]
        rows_an_image = x.numel() // c // len(x)
        size = group_size(len(x), at_most=norm.group_at_most)
        rows = size * rows_an_image  # of a group
        saved = torch.empty(-(-len(x) // size), 4, c)
        ctx.options = len(x) * rows_an_image, rows, c, norm.eps, norm.relu, x.dtype == torch.bfloat16
        kernels().norm_forward(*_addresses(x, h, y, weight, bias, saved), *ctx.options)
        mean, var, *_ = saved[0]
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(var * (rows / (rows - 1)), norm.momentum)
        norm.num_batches_tracked += 1
        ctx.adds = h is not None
        ctx.save_for_backward(x, y if norm.relu and ctx.adds else None, saved)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, y, saved = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        dx, dh = torch.empty_like(x), None if y is None else torch.empty_like(x)
        dweight, dbias = torch.empty_like(saved[0, :2])
        kernels().norm_backward(*_addresses(dy, y, x, saved, dx, dh, dweight, dbias), *ctx.options)
        return None, dx, (dy if dh is None else dh) if ctx.adds else None, dweight, dbias


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
