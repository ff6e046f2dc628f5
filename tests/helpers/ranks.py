"""One run on several ranks, each a process."""

import multiprocessing as mp
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from resnet_repro.launch.worker import modules_for
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.job import Job
from resnet_repro.runs.ranks import Rank
from resnet_repro.training.run import run
from tests.helpers.runs import job_in

FLOAT32 = ("hardware.precision=32-true", "hardware.fused=false")


def in_ranks(num_ranks: int, target: Callable[..., Any], path: Path) -> None:
    """Call `target(path, job, rank)` in as many processes as there are ranks."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(modules_for([job_in(path).run]))
    ranks = [Rank(n, num_ranks, n, meeting_point=path / "store") for n in range(num_ranks)]
    processes = [context.Process(target=target, args=(path, job_in(path), rank)) for rank in ranks]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * num_ranks


def final_state(path: Path) -> dict[str, torch.Tensor]:
    (checkpoint, *_) = RunDir(path).checkpoint_files()
    return dict(torch.load(checkpoint, weights_only=True)["state_dict"])


def run_rank(path: Path, job: Job, rank: Any) -> None:
    run(path, job, rank)
