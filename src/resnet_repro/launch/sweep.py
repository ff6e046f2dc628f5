"""What every sweep does, here or through SLURM: claim folders, announce, conclude; and a run started by torchrun."""

import shlex
import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from resnet_repro.errors import UserError
from resnet_repro.launch import checks, plan
from resnet_repro.launch.exit_status import FULL, IN_USE, UNWRITABLE
from resnet_repro.launch.progress import Outcome, announcement, print_results, print_wandb_hint
from resnet_repro.launch.worker import DISK_FULL, train
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.job import Job
from resnet_repro.runs.ranks import Rank


def outcome(job: Job, exitcode: int, reason: str, *, was_stopped: bool) -> Outcome:
    """What came of a job that ran just now: from its folder, the exit status of its process and what that has told."""
    run = RunDir(job.dir)
    if run.is_done:
        return Outcome("done")
    if exitcode < 0 and was_stopped:
        return Outcome("stopped", "stopped at once" if -exitcode == signal.SIGKILL else "stopped while it started")
    if exitcode < 0:
        name = signal.Signals(-exitcode).name
        return Outcome("failed", f"killed by {name}" + " (out of memory?)" * (name == "SIGKILL"))
    if exitcode == IN_USE:
        return Outcome("in use", f"{reason} runs it")
    if exitcode == FULL:
        return Outcome("failed", DISK_FULL)
    if exitcode == UNWRITABLE:
        return Outcome("failed", f"{reason}; mend that and run the same command again to go on")
    status = run.read_status()
    if status.get("state") in ("failed", "stopped"):
        return Outcome(status["state"], status["reason"])
    return Outcome("failed", f"its process ended with status {exitcode}")


def claim_all(jobs: list[Job]) -> list[Job]:
    """Give every job its folder, as one sweep; those that are not done yet."""
    checks.check_services(jobs)
    group, command = time.strftime("%Y-%m-%d_%H-%M-%S"), shlex.join(["python", *sys.argv])
    for job in jobs:
        checks.claim(job, group=group, command=command)
    return [job for job in jobs if not RunDir(job.dir).is_done]


def announce(console: Console, jobs: list[Job], todo: list[Job], parallel: int) -> plan.Estimator:
    """Say what is about to be done and about how long it will take."""
    estimator = plan.Estimator(Path(jobs[0].config["outputs"]))
    seconds = estimator.wall_seconds(todo, parallel)
    console.print(
        announcement(jobs, todo, parallel, seconds, is_guess=any(map(estimator.is_guess, todo))), highlight=False
    )
    return estimator


def conclude(console: Console, jobs: list[Job], outcomes: dict[Job, Outcome], *, seconds: float) -> int:
    """Show what came of every job; the exit status, 0 when all of them are done."""
    everything = {job: outcomes.get(job) or Outcome("done" if RunDir(job.dir).is_done else "waiting") for job in jobs}
    print_results(console, everything, seconds=seconds)
    print_wandb_hint(console, jobs)
    return 0 if {o.state for o in everything.values()} == {"done"} else 1


def run_as(rank: Rank, jobs: list[Job]) -> int:
    """Take this process's part in the one run that torchrun or srun has started it for.

    Returns:
        Exit status of this process, as of `resnet_repro.launch.worker.train`.

    Raises:
        UserError: where the command asks for another number of runs or of processes.
    """
    if len(jobs) != 1:
        raise UserError(
            f"{rank.started_by} has started the processes of one run and this command has {len(jobs)}: "
            f"give every option one value, or leave {rank.started_by} out"
        )
    (job,) = jobs
    num_nodes = job.config["hardware"]["num_nodes"]
    if job.num_devices * num_nodes != rank.world_size:
        raise UserError(
            f"{rank.started_by} has started {rank.world_size} processes, and hardware.devices={job.num_devices} on "
            f"hardware.num_nodes={num_nodes} needs {job.num_devices * num_nodes}: make them agree"
        )
    about = {"group": "", "command": "", **job.description}
    if rank.is_first:
        checks.check_folders(jobs)
        checks.check_services(jobs)
        group, command = time.strftime("%Y-%m-%d_%H-%M-%S"), shlex.join([rank.started_by, *sys.argv])
        about = checks.claim(job, group=group, command=command)
    start = time.monotonic()
    reasons = [""]
    status = train(RunDir(job.dir), about, rank, log=False, tell=reasons.append)
    if rank.is_first:
        console = Console(soft_wrap=True)
        print_results(
            console, {job: outcome(job, status, reasons[-1], was_stopped=False)}, seconds=time.monotonic() - start
        )
        print_wandb_hint(console, jobs)
    return status
