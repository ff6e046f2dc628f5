"""Choose the device of a run, and the fastest number format and kernels for that device."""

import contextlib
import ctypes
import os
import platform
import shutil
import sys

import torch
from torch import nn

from resnet_repro.errors import UserError
from resnet_repro.networks.fused import FusedBatchNorm, cpu_has, find_compiler, kernels
from resnet_repro.networks.resnet import ResNet
from resnet_repro.networks.unit import ResidualUnit
from resnet_repro.runs.options import Hardware, Run, SettledHardware
from resnet_repro.runs.rules import why_no_graph

WORTH_COMPILING = 4_000
"""Steps from which a run repays the time that torch.compile takes. By the figures in benchmarks/NOTES.md, a Xeon with
AMX needs 200 to 2,000 steps for that."""


def repays_compiling(run: Run) -> bool:
    """Return whether a run is long enough to repay compiling, and of a network that gains: ResNet-50 does not."""
    return run.family == "cifar" and run.schedule.steps >= WORTH_COMPILING


def gains_by_a_graph(run: Run) -> bool:
    """Return whether a GPU would wait for its host without CUDA graphs, and the steps of the run can be recorded."""
    return run.network.of_units and not why_no_graph(run)


def settle(hardware: Hardware, *, may_compile: bool = False, may_graph: bool = False) -> SettledHardware:
    """Return the hardware with every `auto` decided for this machine.

    - `precision`: bf16 autocast if the device multiplies bf16 natively; weights and batch-norm statistics stay float32.
    - `channels_last`: true if the device multiplies bf16 natively or is an x86 CPU.
    - `fused`: true on an x86 CPU in channels_last under Linux, if there is a C compiler.
    - `compile`: true for a fused network on a CPU with AMX, if there is a C++ compiler and `may_compile`.
    - `graph`: true on a GPU, if `may_graph`.

    Each other choice was measured to be faster for every network of the papers, see benchmarks/.
    [deviates: the papers trained in float32; `hardware.precision=32-true` does]

    Args:
        may_compile: whether `auto` may choose torch.compile, see `repays_compiling`.
        may_graph: whether `auto` may choose CUDA graphs, see `gains_by_a_graph`.

    Raises:
        UserError: if the options ask for a GPU or fused batch norms and this machine cannot have them, or if the C
            compiler that `auto` has chosen fails.
    """
    accelerator = hardware.accelerator
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("hardware=gpu needs a CUDA device that PyTorch can use, and there is none; use hardware=cpu")
    if hardware.graph is True and accelerator != "gpu":
        raise UserError("hardware.graph=true needs a CUDA device; leave it out on a CPU")
    native_bf16 = has_native_bf16(accelerator)
    on_x86 = accelerator == "cpu" and platform.machine() in ("x86_64", "AMD64")
    precision, channels_last, fused = hardware.precision, hardware.channels_last, hardware.fused
    if precision == "auto":
        precision = "bf16-mixed" if native_bf16 else "32-true"
    if channels_last == "auto":
        channels_last = native_bf16 or on_x86
    fusable = accelerator == "cpu" and channels_last
    if fused == "auto":
        measured = on_x86 and sys.platform == "linux"
        fused = fusable and measured and find_compiler() is not None
    elif fused and not fusable:
        raise UserError("hardware.fused=true needs a CPU and hardware.channels_last=true; use hardware.fused=auto")
    if fused:
        kernels()  # compile now: a run may not fall back later, because other kernels give other last digits
    compiles = hardware.compile
    if compiles == "auto":
        # elsewhere convolutions take nearly all of a step, and compiling what is around them gains 1 %
        compiles = bool(may_compile and fused and not hardware.recompute and cpu_has("amx_bf16") and _finds_cxx())
    graph = may_graph and accelerator == "gpu" if hardware.graph == "auto" else hardware.graph
    decided = {"accelerator": accelerator, "precision": precision, "channels_last": channels_last}
    return SettledHardware(**hardware.record() | decided | {"fused": fused, "compile": compiles, "graph": graph})


def compile_network(net: nn.Module) -> None:
    """Have torch.compile compile a network.

    A fused network on a CPU is compiled as a whole, for training alone. It keeps the operations of fused.c, and
    the generated code does the casts, copies and additions between them in fewer passes. Of others, every residual
    unit, the stem and the head are compiled, or all of another library's network. Units of the same shape share their
    code, so compiling takes as long at depth 1001 as at 20.
    """
    import torch._dynamo  # takes a second

    if any(isinstance(module, FusedBatchNorm) for module in net.modules()):
        eager, compiled = net.forward, torch.compile(net.forward, dynamic=False)
        net.forward = lambda x: (compiled if net.training else eager)(x)
        return
    torch._dynamo.config.recompile_limit = 64  # shapes of units, times training and evaluation, times batch sizes
    regions = [net]
    if isinstance(net, ResNet):
        regions = [net.stem, net.head, *(module for module in net.modules() if isinstance(module, ResidualUnit))]
    for region in regions:
        region.compile(dynamic=False)


def keep_freed_memory() -> None:
    """Have the C library keep freed activations for the next step instead of giving them back to the system.

    Otherwise every step gets fresh pages for tensors of megabytes: thousands of page faults, 3 % of a CPU step.
    """
    with contextlib.suppress(AttributeError, OSError):  # only the GNU C library has mallopt
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no memory of its own for a large tensor, which would be given back
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: none; the largest number would be 2 GiB, and ResNet-50 frees more


def has_native_bf16(accelerator: str) -> bool:
    """Return whether the device, "cpu" or "gpu", multiplies bf16 natively."""
    if accelerator == "gpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return cpu_has("avx512_bf16") or cpu_has("amx_bf16")


def _finds_cxx() -> bool:
    """Return whether torch.compile will find the C++ compiler that it needs."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
