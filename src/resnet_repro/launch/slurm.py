"""The jobs of a command as a SLURM job array: each SLURM job is a run, each of its tasks is a rank.

The runs belong to SLURM. The command that submitted them shows how far they are; they go on without it.
"""

import os
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from types import TracebackType
from typing import Any

from rich.console import Console

from resnet_repro.errors import UserError, first_words
from resnet_repro.launch.progress import Outcome, State
from resnet_repro.launch.sweep import Backend
from resnet_repro.runs.folder import InUse, RunDir, read_failure, read_json, write_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.ranks import rank_from_environment

ASK_EVERY_S = 10.0
"""Seconds between two questions to SLURM's controller, which all users of a cluster share."""

ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"),
}
"""States of `squeue` that a job does not leave."""

QueueState = tuple[str, str]
"""What `squeue` says of a job: its state, and the reason why it waits."""


def num_parallel(jobs: list[Job], options: dict[str, Any]) -> int:
    """Return how many runs may be on the cluster at a time."""
    number = jobs[0].run.jobs
    return int(options["array_parallelism"] if number == "auto" else number)


def submit(jobs: list[Job], options: dict[str, Any]) -> dict[Job, str]:
    """Submit one job array with a job per run and a task per rank.

    Returns:
        SLURM's number of each job, such as "12_0", which is also written into the run folder.

    Raises:
        UserError: if SLURM refuses.
    """
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit.core.utils import FailedJobError

    from resnet_repro.launch.slurm_task import SlurmTask

    settings = {key: value for key, value in options.items() if value is not None}
    folder, max_num_timeout = settings.pop("submitit_folder"), settings.pop("max_num_timeout")
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=max_num_timeout)
    common = {field.name for field in fields(BaseQueueConf)}
    if code := os.environ.get("PYTHONPATH"):  # not every cluster hands on the variables of the shell
        settings["setup"] = [f"export PYTHONPATH={shlex.quote(code)}", *settings.get("setup", [])]
    parameters = {key if key in common else f"slurm_{key}": value for key, value in settings.items()}
    # A rank that fails must end the others, which wait for it.
    executor.update_parameters(**parameters, slurm_srun_args=["--kill-on-bad-exit=1"])
    try:
        submitted = executor.map_array(SlurmTask(), [job.dir.absolute() for job in jobs])
    except FailedJobError as error:
        raise UserError(f"SLURM refuses the jobs: {first_words(error, at_most=300)}") from None
    numbers = {job: slurm_job.job_id for job, slurm_job in zip(jobs, submitted, strict=True)}
    for job, slurm_job in zip(jobs, submitted, strict=True):
        write_json(RunDir(job.dir).slurm, {"job": slurm_job.job_id, "log": str(slurm_job.paths.stdout)})
    return numbers


def _in_queue(jobs: list[Job]) -> dict[Job, str]:
    """Return SLURM's number of each job that an earlier command has submitted and that has not ended."""
    runs = {job: RunDir(job.dir) for job in jobs}
    numbers = {job: str(read_json(run.slurm)["job"]) for job, run in runs.items() if run.slurm.exists()}
    states = _ask(numbers.values()) or {}
    return {job: number for job, number in numbers.items() if _is_alive(states.get(number))}


def _make_ready(jobs: list[Job], outcomes: dict[Job, Outcome]) -> list[Job]:
    """Clear the messages of an earlier attempt, and return the jobs whose folder no process on any machine holds."""
    ready = []
    for job in jobs:
        run = RunDir(job.dir)
        try:
            with run.owned():
                run.failure.unlink(missing_ok=True)
                write_json(run.status, {**run.read_status(), "state": "queued", "reason": ""})
            ready.append(job)
        except InUse as error:
            outcomes[job] = Outcome("in use", f"{error.who} runs it")
    return ready


def _ask(numbers: Iterable[str]) -> dict[str, QueueState] | None:
    """Return what SLURM says of these jobs; None if its controller does not answer.

    SLURM forgets a job some minutes after its end.
    """
    arrays = sorted({number.split("_")[0] for number in numbers})
    if not arrays:
        return {}
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r", f"--jobs={','.join(arrays)}"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return None
    rows = (line.split("|", 2) for line in answer.stdout.splitlines())
    return {number: (state, reason) for number, state, reason in rows}


def _is_alive(state: QueueState | None) -> bool:
    return state is not None and state[0] not in ENDED


class SlurmQueue(Backend):
    """SLURM: an array of the jobs that are not in its queue yet, and every job as `squeue` shows it.

    There is nothing to stop: the jobs belong to SLURM.

    Args:
        options: of hydra-submitit-launcher (conf/hydra/launcher/slurm.yaml).
    """

    in_order = False
    outlives_command = True

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.numbers: dict[Job, str] = {}
        """SLURM's number of each job that has not ended."""
        self.answer: dict[str, QueueState] = {}
        self.last_asked = -ASK_EVERY_S

    def check(self, jobs: list[Job]) -> None:
        if rank := rank_from_environment():
            raise UserError(f"{rank.started_by} has started this process already: use hardware=ddp_8gpu or similar")
        if shutil.which("sbatch") is None:
            raise UserError(
                "hardware=slurm_... needs SLURM's sbatch and there is none: go to a cluster or leave it out"
            )
        self.numbers = _in_queue(jobs)
        for job, number in self.numbers.items():
            if not job.run.resume:
                raise UserError(
                    f"{job.dir} is SLURM's job {number}; resume=false would take it away: wait for it or "
                    f"`scancel {number}`"
                )

    def num_parallel(self, jobs: list[Job]) -> int:
        return num_parallel(jobs, self.options)

    def take(self, jobs: list[Job], outcomes: dict[Job, Outcome], console: Console) -> None:
        """Submit the jobs that are not in the queue yet.

        Raises:
            UserError: if SLURM refuses them.
        """
        self.numbers = {job: number for job, number in self.numbers.items() if job in jobs}
        if self.numbers:
            known = _list(self.numbers.values())
            console.print(f"In SLURM's queue already, and not submitted again: {known}", highlight=False)
        ready = _make_ready([job for job in jobs if job not in self.numbers], outcomes)
        if ready:
            options = {**self.options, "array_parallelism": num_parallel(jobs, self.options)}
            submitted = submit(ready, options)
            self.numbers |= submitted
            console.print(f"Submitted to SLURM: {_list(submitted.values())}", highlight=False)

    def __enter__(self) -> "SlurmQueue":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        if not isinstance(error, KeyboardInterrupt):
            return False
        left = " ".join(sorted({number.split("_")[0] for number in self.numbers.values()}))
        self.farewell = f"The runs go on in SLURM. The same command shows them again, `scancel {left}` stops them."
        return True

    def poll(self) -> dict[Job, State]:
        """Ask SLURM if it is time to, and read the runs' folders."""
        if is_news := time.monotonic() - self.last_asked >= ASK_EVERY_S:
            self.last_asked = time.monotonic()
            answer = _ask(self.numbers.values())
            is_news, self.answer = answer is not None, self.answer if answer is None else answer
        states = {job: self._state(job, number, is_news=is_news) for job, number in self.numbers.items()}
        self.numbers = {job: self.numbers[job] for job in states if not isinstance(states[job], Outcome)}
        reasons = Counter(why for number in self.numbers.values() for why in _waits(self.answer.get(number)))
        counts = ", ".join(f"{count} ({why})" for why, count in sorted(reasons.items()))
        self.note = f"  waiting in SLURM's queue: {counts}" if counts else ""
        return states

    def wait(self) -> None:
        time.sleep(0.2)

    def _state(self, job: Job, number: str, *, is_news: bool) -> State:
        state = self.answer.get(number)
        if RunDir(job.dir).is_done or (is_news and not _is_alive(state)):
            return _outcome(job, number, state)
        states: dict[str, State] = {"RUNNING": "running", "PENDING": "queued"}
        return states.get(state[0], "unclear") if state else "unclear"


def _waits(state: QueueState | None) -> list[str]:
    """Return why SLURM does not run a job yet; empty until SLURM has found a reason, which takes some seconds."""
    return [state[1]] if state and state[0] == "PENDING" and state[1] != "None" else []


def _outcome(job: Job, number: str, state: QueueState | None) -> Outcome:
    """Return what came of a job that has left SLURM's queue: as the run's folder says, else as SLURM says."""
    run = RunDir(job.dir)
    if run.is_done:
        return Outcome("done")
    if run.failure.exists():
        return Outcome("failed", read_failure(run.failure))
    status = run.read_status()
    if status["state"] in ("failed", "stopped"):
        return Outcome(status["state"], status["reason"])
    word = state[0] if state else "gone from its queue"
    if word == "CANCELLED":
        return Outcome("stopped", f"SLURM's job {number} was cancelled")
    try:
        with run.owned():
            pass
    except InUse as error:
        return Outcome("in use", f"{error.who} runs it")
    return Outcome("failed", f"SLURM's job {number} is {word}, see {read_json(run.slurm)['log']}")


def _list(numbers: Iterable[str]) -> str:
    """Return `job 12`, or `jobs 12_0, 12_1`."""
    listed = list(numbers)
    return f"job{'s' * (len(listed) > 1)} {', '.join(listed)}"
