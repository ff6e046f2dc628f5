"""The record of a finished run: what was asked, on what it ran, and what came out."""

import hashlib
import platform
import resource
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "wandb", "numpy", "resnet_repro")


def describe(
    net: nn.Module, *, accelerator: str, data_checksum: str, rates: list[float], wall_time_s: float
) -> dict[str, Any]:
    """The measured half of a manifest; images/s is the median over the run's rows, evaluation left out."""
    return {
        "num_parameters": sum(p.numel() for p in net.parameters()),
        "weights_sha256": weights_sha256(net),
        "data_checksum": data_checksum,
        "packages": {name: version(name) for name in PACKAGES},
        "machine": machine(accelerator),
        "wall_time_s": round(wall_time_s, 1),
        "images_per_s": round(statistics.median(rates), 1) if rates else None,
        "peak_memory_mb": peak_memory_mb(accelerator),
    }


def weights_sha256(net: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of every weight and buffer: equal if and only if the networks are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def git_commit() -> str | None:
    """The commit of this package's checkout, "+" where files differ from it; None outside of one."""
    here = Path(__file__).parent

    def git(*args: str) -> str | None:
        try:
            result = subprocess.run(["git", "-C", str(here), *args], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return result.stdout.strip()

    if not git("ls-files", "manifest.py"):  # an installed copy inside somebody else's repository
        return None
    return f"{git('rev-parse', 'HEAD')}{'+' if git('status', '--porcelain', '--untracked-files=no') else ''}"


def machine(accelerator: str) -> dict[str, Any]:
    """What a reader of a result wants to know of the machine that it was made on."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "cpu": capabilities.get("cpu_name") or platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "gpu": torch.cuda.get_device_name() if accelerator == "gpu" else None,
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def peak_memory_mb(accelerator: str) -> float:
    """Of the GPU where one trained, else of the process."""
    if accelerator == "gpu":
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
