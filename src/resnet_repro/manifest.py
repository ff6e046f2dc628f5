"""The record of a finished run: what was asked, on what it ran, and what came out."""

import hashlib
import math
import platform
import resource
import statistics
import subprocess
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from resnet_repro.callbacks import Recorder
from resnet_repro.config import Config
from resnet_repro.rundir import RunDir, read_json
from resnet_repro.schedule import log_every

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "pytorch-lightning",
    "torchmetrics",
    "hydra-core",
    "wandb",
    "numpy",
    "resnet_repro",
)


def of_run(
    folder: RunDir,
    job: Config,
    config: Config,
    net: nn.Module,
    recorder: Recorder,
    *,
    step: int,
    num_images: dict[str, int],
) -> dict[str, Any]:
    """What a finished run says of itself; all but its commit, which the run noted when it began.

    Args:
        config: the job's, with the hardware that it ran on.
        num_images: that each split was evaluated on.
    """
    schedule = config["schedule"]
    accelerator, begun = config["hardware"]["accelerator"], read_json(folder.begun)
    return {
        "name": job["name"],
        "state": "done",
        "config": config,
        "departures": job["departures"],
        "results": {
            "step": step,
            "diverged_at": recorder.diverged_at,
            **{key: _finite(value) for key, value in recorder.results.items() if "/loss" in key or "/error" in key},
            "num_train_images": log_every(schedule) * schedule["batch_size"],  # that train/error is measured on
            **{f"num_{split}_images": number for split, number in num_images.items()},
        },
        "num_parameters": sum(p.numel() for p in net.parameters()),
        "weights_sha256": weights_sha256(net),
        "begun_with_weights": begun.get("begun_with_weights"),
        "data_checksum": begun["data_checksum"],
        "code_sha256": begun["code_sha256"],
        "packages": {name: version(name) for name in PACKAGES},
        "machine": machine(accelerator),
        "wall_time_s": round(recorder.elapsed_s, 1),
        "first_step_s": recorder.first_step_s,
        "images_per_s": round(statistics.median(recorder.rates), 1) if recorder.rates else None,
        "peak_memory_mb": peak_memory_mb(accelerator),
        "group": job["group"],
        "command": job["command"],
        "started": recorder.started,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # a diverged run's loss: JSON has no word for it


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
    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return None if commit is None else commit + "+" * (changes != "")  # also where git was killed at that question


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
