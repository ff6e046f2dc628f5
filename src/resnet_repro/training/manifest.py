"""The record of a finished run: its options, its machine and its results."""

import hashlib
import math
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
from torch import nn

from resnet_repro.errors import first_words
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Run
from resnet_repro.training.recorder import Recorder
from resnet_repro.training.schedule import log_every

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
    job: Job,
    options: Run,
    net: nn.Module,
    recorder: Recorder,
    *,
    step: int,
    num_images: dict[str, int],
) -> dict[str, Any]:
    """Return the manifest of a finished run, except for the commit, which was read when the run began.

    Args:
        options: the job's options, with the hardware that the run used.
        num_images: number of evaluated images by split.
    """
    schedule, on_gpu, begun = options.schedule, options.hardware.accelerator == "gpu", read_json(folder.begun)
    return {
        "name": job.name,
        "state": "done",
        "config": options.record(),
        "departures": job.departures,
        "results": {
            "step": step,
            "diverged_at": recorder.diverged_at,
            **{key: _finite(value) for key, value in recorder.results.items() if "/loss" in key or "/error" in key},
            "num_train_images": log_every(schedule) * schedule.batch_size,  # train/error is over these images
            **{f"num_{split}_images": number for split, number in num_images.items()},
        },
        "num_parameters": sum(p.numel() for p in net.parameters()),
        "weights_sha256": weights_sha256(net),
        "begun_with_weights": begun.get("begun_with_weights"),
        "data_checksum": begun["data_checksum"],
        "code_sha256": begun["code_sha256"],
        "packages": versions(PACKAGES),
        "machine": machine(on_gpu=on_gpu),
        "wall_time_s": round(recorder.elapsed_s, 1),
        "first_step_s": recorder.first_step_s,
        "images_per_s": round(statistics.median(recorder.rates), 1) if recorder.rates else None,
        "peak_memory_mb": peak_memory_mb(on_gpu=on_gpu),
        "group": job.group,
        "command": job.command,
        "started": recorder.started,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed. A run whose logger is `csv` does not need W&B."""
    found = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no word for the loss of a diverged run


def weights_sha256(net: nn.Module) -> str:
    """Return a SHA-256 over names, types, shapes and bytes of all weights and buffers: only equal networks share it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Commit(NamedTuple):
    """The commit of the code."""

    name: str | None
    """The hash, followed by "+" if files differ from that commit; None if there is no commit."""
    why_none: str | None = None
    """Why there is no commit, and what to do about it."""

    @property
    def facts(self) -> dict[str, str]:
        """Return the manifest's entry on why there is no commit, empty if there is one."""
        return {} if self.why_none is None else {"why_no_commit": self.why_none}


def git_commit(here: Path = Path(__file__).parent) -> Commit:
    """Return the commit of the checkout that holds this package, or the package in another folder."""
    redirects = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    env = {key: value for key, value in os.environ.items() if key not in redirects} | {"LC_ALL": "C"}

    def git(*args: str) -> str:
        command = ["git", "-C", str(here), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout.strip()

    try:
        if not git("ls-files", "manifest.py"):
            return Commit(None, f"{here} is an installed copy and no checkout: run the code of a checkout")
        commit = git("rev-parse", "--verify", "HEAD")
    except FileNotFoundError:
        return Commit(None, "git is not installed: install it")
    except OSError as error:
        return Commit(None, f"git does not start ({first_words(error)}): fix that")
    except subprocess.CalledProcessError as error:
        return Commit(None, _why_git_refuses(error, here))
    try:
        return Commit(commit + "+" * bool(git("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.CalledProcessError):  # for example if somebody kills this git
        return Commit(commit + "+")


def _why_git_refuses(error: subprocess.CalledProcessError, here: Path) -> str:
    repository = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), None)
    if repository is None:
        return f"{here} is in no git repository: run the code of a checkout"
    if "dubious ownership" in error.stderr:
        allow = f"git config --global --add safe.directory {shlex.quote(str(repository))}"
        return f"git does not read {repository}, which belongs to another user: allow it with `{allow}`"
    if "Needed a single revision" in error.stderr:
        return f"the repository {repository} has no commit yet: make one"
    reason = error.stderr.removeprefix("fatal: ") or f"status {error.returncode}"
    return f"the repository {repository} is damaged ({first_words(Exception(reason))}): clone it again"


def machine(*, on_gpu: bool) -> dict[str, Any]:
    """Return the facts about this machine that a reader of a result needs."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "cpu": capabilities.get("cpu_name") or platform.processor() or platform.machine(),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "gpu": torch.cuda.get_device_name() if on_gpu else None,
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def peak_memory_mb(*, on_gpu: bool) -> float:
    """Return the peak memory in MiB: allocated on the GPU if the run used one, otherwise resident in this process."""
    if on_gpu:
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
