"""What local sweeps and sweeps through SLURM share: claim folders, announce, watch, conclude."""

import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from rich.console import Console

from resnet_repro.launch import checks, plan
from resnet_repro.launch.exit_status import FULL, IN_USE, UNWRITABLE
from resnet_repro.launch.progress import Display, Outcome, announcement, print_results, print_wandb_hint
from resnet_repro.launch.worker import DISK_FULL
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import Job


@dataclass(frozen=True)
class Result:
    """What came of a command, or of a batch of its jobs."""

    status: int
    """The exit status."""
    outcomes: dict[Job, Outcome]
    """Empty if the command only told of jobs: `plan=true`, `summary=true`."""


State = Outcome | Literal["running", "queued", "unclear"]
"""What a backend says of a job: that it runs, that it waits (again) for a machine, neither, or what came of it."""


@runtime_checkable
class Backend(Protocol):
    """Where jobs run: processes of this machine, or SLURM."""

    note: str
    """A line for people about the jobs as a whole; printed when it changes."""

    def poll(self) -> dict[Job, State]:
        """Do what is due, and return the state of every job that is on its way; an empty dict if none is any more.

        An outcome is returned once; after that the job is left out.
        """

    def wait(self) -> None:
        """Wait a moment, or until there is something new."""


def watch(backend: Backend, display: Display, outcomes: dict[Job, Outcome]) -> None:
    """Show a backend's jobs until all have ended, and add what came of each to `outcomes`."""
    last_note = ""
    with display:
        while states := backend.poll():
            for job, state in states.items():
                if isinstance(state, Outcome):
                    outcomes[job] = state
                    display.finish(job, state)
                elif state == "running":
                    if job not in display.tasks:
                        display.start(job)
                    display.update(job)
                elif state == "queued" and job in display.tasks:
                    display.put_back(job)
            if backend.note not in ("", last_note):
                display.say(backend.note)
            last_note = backend.note
            backend.wait()


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
        return Outcome("failed", f"{reason}; mend that and run the same command again to go on")
    status = run.read_status()
    if status.get("state") in ("failed", "stopped"):
        return Outcome(status["state"], status["reason"])
    return Outcome("failed", f"its process ended with status {exitcode}")


def claim_all(jobs: list[Job]) -> list[Job]:
    """Give every job its folder, as one sweep, and return the jobs that are not done yet."""
    checks.check_services(jobs)
    group, command = time.strftime("%Y-%m-%d_%H-%M-%S"), shlex.join(["python", *sys.argv])
    for job in jobs:
        checks.claim(job, group=group, command=command)
    return [job for job in jobs if not RunDir(job.dir).is_done]


def announce(console: Console, jobs: list[Job], todo: list[Job], parallel: int) -> plan.Estimator:
    """Say what the command is about to do and about how long it will take; return the estimator of that."""
    estimator = plan.Estimator(Path(jobs[0].run.outputs))
    seconds = estimator.wall_seconds(todo, parallel)
    is_guess = any(map(estimator.is_guess, todo))
    console.print(announcement(jobs, todo, parallel, seconds, is_guess=is_guess), highlight=False)
    return estimator


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
