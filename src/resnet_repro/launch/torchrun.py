"""One run whose processes torchrun or srun has started: the part of this process."""

import time

from rich.console import Console

from resnet_repro.conf_dir import command_line
from resnet_repro.errors import UserError
from resnet_repro.launch import checks
from resnet_repro.launch.progress import print_results, print_wandb_hint
from resnet_repro.launch.sweep import Result, outcome
from resnet_repro.launch.worker import part_in
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.job import Job
from resnet_repro.runs.ranks import Rank


def run_as(rank: Rank, jobs: list[Job]) -> Result:
    """Train this process's rank of the one run for which torchrun or srun has started it.

    Returns:
        The exit status of this process; on rank 0 also what came of the run.

    Raises:
        UserError: if the command asks for another number of runs or of processes.
    """
    if len(jobs) != 1:
        raise UserError(
            f"{rank.started_by} has started the processes of one run and this command has {len(jobs)}: "
            f"give every option one value, or leave {rank.started_by} out"
        )
    (job,) = jobs
    num_nodes = job.run.hardware.num_nodes
    if job.num_devices * num_nodes != rank.world_size:
        raise UserError(
            f"{rank.started_by} has started {rank.world_size} processes, and hardware.devices={job.num_devices} on "
            f"hardware.num_nodes={num_nodes} needs {job.num_devices * num_nodes}: make them agree"
        )
    if rank.is_first:
        checks.check_folders(jobs)
        checks.check_services(jobs)
        group, command = time.strftime("%Y-%m-%d_%H-%M-%S"), command_line(rank.started_by)
        job = checks.claim(job, group=group, command=command)
    start = time.monotonic()
    reasons = [""]
    with part_in(RunDir(job.dir), rank, log=False, tell=reasons.append) as part:
        if part.train:
            part.train(job.dir, job, rank)
    status = part.status
    if not rank.is_first:  # rank 0 may still be writing its result
        return Result(status, {})
    outcomes = {job: outcome(job, status, reasons[-1], was_stopped=False)}
    console = Console(soft_wrap=True)
    print_results(console, outcomes, seconds=time.monotonic() - start)
    print_wandb_hint(console, jobs)
    return Result(status, outcomes)
