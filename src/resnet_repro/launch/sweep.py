"""What local sweeps and sweeps through SLURM share: claim folders, announce, watch, conclude."""

import signal
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from rich.console import Console

from resnet_repro.conf_dir import command_line
from resnet_repro.launch import checks, plan
from resnet_repro.launch.exit_status import FULL, IN_USE, STOPPED, UNWRITABLE
from resnet_repro.launch.progress import (
    Display,
    Outcome,
    State,
    TimeLeft,
    announcement,
    print_results,
    print_wandb_hint,
)
from resnet_repro.launch.worker import DISK_FULL
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.wandb_account import in_wandb_sweep


@dataclass(frozen=True)
class Result:
    """What came of a command, or of a batch of its jobs."""

    status: int
    """The exit status."""
    outcomes: dict[Job, Outcome]
    """Empty if the command only told of jobs: `plan=true`, `summary=true`."""


class Backend(ABC):
    """Where jobs run: processes of this machine, or SLURM. A context while they do."""

    in_order: ClassVar[bool]
    """Whether a run of this command ends before those that begin with its weights start."""
    note = ""
    """A line for people about the jobs as a whole; printed when it changes."""
    farewell = ""
    """What to say to a person who has ended the command before all jobs were done."""
    outlives_command = False
    """Whether the jobs go on after such an end, so that nothing has come of them yet."""

    @abstractmethod
    def check(self, jobs: list[Job]) -> None:
        """Raise UserError if these jobs cannot run here."""

    @abstractmethod
    def num_parallel(self, jobs: list[Job]) -> int:
        """Return how many jobs may run at a time."""

    @abstractmethod
    def take(self, jobs: list[Job], outcomes: dict[Job, Outcome], console: Console) -> None:
        """Take over jobs that are not done, the longest first; note what came of those that cannot start."""

    @abstractmethod
    def poll(self) -> dict[Job, State]:
        """Do what is due, and return the state of every job that is on its way; an empty dict if none is any more.

        An outcome is returned once; after that the job is left out.
        """

    @abstractmethod
    def wait(self) -> None:
        """Wait a moment, or until there is something new."""

    @abstractmethod
    def __enter__(self) -> "Backend": ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool | None: ...


def run_jobs(jobs: list[Job], backend: Backend, *, console: Console | None = None) -> Result:
    """Run the jobs of a command: skip finished runs, go on with begun ones, start the others, show how far they are.

    Returns:
        What came of the jobs. The exit status is 0 if every job is done, 1 if one is not, 130 after a stop.

    Raises:
        UserError: before anything starts, if the machine, the data or a run folder does not fit the command.
    """
    console = console or Console(soft_wrap=True)
    backend.check(jobs)
    checks.check_folders(jobs)
    jobs = list({job.dir: job for job in jobs}.values())
    checks.check_beginnings(jobs, in_order=backend.in_order)
    todo = claim_all(jobs)
    parallel = min(backend.num_parallel(jobs), max(len(todo), 1))
    estimator, seconds = announce(console, jobs, todo, parallel)
    start, outcomes = time.monotonic(), dict[Job, Outcome]()
    if todo:
        backend.take(estimator.longest_first(todo), outcomes, console)  # no core idles at the end
        left = TimeLeft(estimator.work(todo), parallel=parallel, seconds=seconds)
        display, last_note = Display(console, jobs, left), ""
        with backend, display:
            while states := backend.poll():
                display.tell(states, outcomes)
                if backend.note not in ("", last_note):
                    display.say(backend.note)
                last_note = backend.note
                backend.wait()
    if backend.farewell and backend.outlives_command:
        console.print(backend.farewell, highlight=False)
        return Result(STOPPED, outcomes)
    result = conclude(console, jobs, outcomes, seconds=time.monotonic() - start)
    if backend.farewell:
        console.print(backend.farewell, highlight=False)
        return replace(result, status=STOPPED)
    return result


def outcome(job: Job, exitcode: int, reason: str, *, was_stopped: bool) -> Outcome:
    """Return what came of a job that ran just now.

    Args:
        exitcode: of the job's process; negative if a signal ended it.
        reason: what the process said that it could not write into the run's folder.
        was_stopped: whether the sweep was asked to stop.
    """
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
        return Outcome("failed", f"{reason}; fix that and run the same command again to go on")
    status = run.read_status()
    if status.get("state") in ("failed", "stopped"):
        return Outcome(status["state"], status["reason"])
    return Outcome("failed", f"its process ended with status {exitcode}")


def claim_all(jobs: list[Job]) -> list[Job]:
    """Give every job its folder, as one sweep, and return the jobs that are not done yet.

    In a sweep of W&B's, a finished job has something to do, too: W&B waits for its results.
    """
    checks.check_services(jobs)
    group, command = time.strftime("%Y-%m-%d_%H-%M-%S"), command_line()
    for job in jobs:
        checks.claim(job, group=group, command=command)
    return [job for job in jobs if in_wandb_sweep() or not RunDir(job.dir).is_done]


def announce(console: Console, jobs: list[Job], todo: list[Job], parallel: int) -> tuple[plan.Estimator, float | None]:
    """Say what the command is about to do; return an estimator of time, and the seconds if known."""
    estimator = plan.Estimator(Path(jobs[0].run.outputs))
    seconds = estimator.wall_seconds(todo, parallel)
    is_measured = any(map(estimator.is_measured, todo))
    console.print(announcement(jobs, todo, parallel, seconds, is_measured=is_measured), highlight=False)
    return estimator, seconds


def conclude(console: Console, jobs: list[Job], outcomes: dict[Job, Outcome], *, seconds: float) -> Result:
    """Print what came of every job and return it; the exit status is 0 if all of them are done, else 1."""
    everything = {job: outcomes.get(job) or Outcome("done" if RunDir(job.dir).is_done else "waiting") for job in jobs}
    print_results(console, everything, seconds=seconds)
    print_wandb_hint(console, jobs)
    return Result(0 if {o.state for o in everything.values()} == {"done"} else 1, everything)


def final_error(job: Job) -> float | None:
    """Return the last validation error in % of a finished run, its test error if it has no validation images.

    None if it has neither.
    """
    results = read_json(RunDir(job.dir).manifest)["results"]
    error = results.get("val/error", results.get("test/error"))
    return None if error is None else float(error)
