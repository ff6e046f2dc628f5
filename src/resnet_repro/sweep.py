"""Runs jobs, each in a process of its own, several at a time; shows how far they are and what came of them."""

import multiprocessing as mp
import os
import shlex
import signal
import sys
import time
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from rich.console import Console

from resnet_repro import devices, plan
from resnet_repro.config import Job
from resnet_repro.display import Display, Outcome, announcement, print_results, print_wandb_hint
from resnet_repro.errors import UserError
from resnet_repro.ranks import Rank
from resnet_repro.rundir import RunDir
from resnet_repro.sockets import make_room
from resnet_repro.worker import (
    DISK_FULL,
    FULL,
    IN_USE,
    PRELOAD,
    STOP_SIGNALS,
    STOPPED,
    UNWRITABLE,
    start_tracker,
    train,
    work,
)


@dataclass
class Sweep:
    """Jobs on their way: `waiting`, `running` (a process each), and what came of the ones that ended."""

    waiting: list[Job]
    parallel: int
    display: Display
    running: dict[BaseProcess, Job] = field(default_factory=dict)
    gpus: dict[BaseProcess, list[str]] = field(default_factory=dict)
    reasons: dict[BaseProcess, Connection] = field(default_factory=dict)
    outcomes: dict[Job, Outcome] = field(default_factory=dict)
    num_stops_asked: int = 0
    num_stops_passed_on: int = 0

    def run(self) -> None:
        """Run every waiting job; one that fails does not touch the others."""
        context = start_method(self.waiting)
        handlers = {s: signal.signal(s, self._stop) for s in STOP_SIGNALS}
        try:
            with self.display:
                while self.running or (self.waiting and not self.num_stops_asked):
                    while len(self.running) < self.parallel and not self.num_stops_asked and (job := self._ready()):
                        self.waiting.remove(job)
                        self._start(context, job)
                    self._pass_on_stops()
                    wait([process.sentinel for process in self.running], timeout=0.2)
                    for process in [process for process in self.running if process.exitcode is not None]:
                        self._finish(process)
                    for job in self.running.values():
                        self.display.update(job)
        finally:
            for process in self.running:  # only after an error of our own
                process.terminate()
            for signum, handler in handlers.items():
                signal.signal(signum, handler)

    def _ready(self) -> Job | None:
        """The first job that begins with no other's weights, or whose other has ended, well or not."""
        ahead = {job.dir for job in (*self.waiting, *self.running.values())}
        return next((job for job in self.waiting if job.waits_for not in ahead), None)

    def _start(self, context: ForkServerContext | SpawnContext, job: Job) -> None:
        gpus: list[str] = []
        if devices.on_gpu(job):
            taken = list(chain.from_iterable(self.gpus.values()))
            gpus = sorted(devices.gpus(), key=taken.count)[: job.num_devices]  # those with the fewest jobs
        # The server runs no operation, so a job that came from it may be forked again, into its ranks.
        reasons, writer = context.Pipe(duplex=False)
        kwargs = {"fork_ranks": isinstance(context, ForkServerContext), "reasons": writer}
        process = context.Process(target=work, args=(job.dir, gpus or None), kwargs=kwargs, name=job.name)
        # A Ctrl-C reaches the whole terminal. What is started here (the fork server too) must not be hit by it while
        # it still imports; `work` lifts the block, and this process gets the signal as soon as it is lifted here.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            writer.close()
        self.running[process], self.gpus[process], self.reasons[process] = job, gpus, reasons
        self.display.start(job)

    def _finish(self, process: BaseProcess) -> None:
        job = self.running.pop(process)
        del self.gpus[process]
        process.join()
        assert process.exitcode is not None
        with self.reasons.pop(process) as reasons:
            reason = _received(reasons)
        self.outcomes[job] = outcome(job, process.exitcode, reason, was_stopped=self.num_stops_asked > 0)
        self.display.finish(job, self.outcomes[job])

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT or not self.num_stops_asked:  # a scheduler's second signal is no impatience
            self.num_stops_asked += 1

    def _pass_on_stops(self) -> None:
        """The first Ctrl-C lets every run save its state; the second does not wait for that."""
        if self.num_stops_asked == self.num_stops_passed_on:
            return
        self.num_stops_passed_on = self.num_stops_asked
        if self.num_stops_asked == 1:
            self.display.say("Stopping: each run saves its state after the step it is at. Ctrl-C again: stop at once")
        for process in self.running:
            if self.num_stops_asked == 1:
                process.terminate()
            else:
                _kill(process)


def _kill(process: BaseProcess) -> None:
    """The job's process and, where it has several, its ranks: they are one process group."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has not come so far as to form one
        process.kill()


def _received(reasons: Connection) -> str:
    """What the job's process had to say that it could not write into its folder."""
    try:
        return str(reasons.recv()) if reasons.poll() else ""
    except EOFError:
        return ""


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


def run_jobs(jobs: list[Job], *, console: Console | None = None) -> int:
    """Do what a command asked for: skip the runs that are done, go on with those begun, make the others.

    Returns:
        Exit status: 0 when every job is done, 1 when one is not, 130 when it was stopped.

    Raises:
        UserError: before anything starts, where the machine, the data or a run folder is not what is asked for.
    """
    console = console or Console(soft_wrap=True)
    plan.check_folders(jobs)
    jobs = list({job.dir: job for job in jobs}.values())
    devices.check_devices(jobs)
    devices.check_memory(jobs)
    plan.check_beginnings(jobs, in_order=True)
    todo = claim_all(jobs)
    parallel = min(devices.num_parallel(jobs), max(len(todo), 1))
    estimator = announce(console, jobs, todo, parallel)

    start = time.monotonic()
    longest_first = sorted(todo, key=estimator.seconds, reverse=True)  # no core idles at the end
    sweep = Sweep(longest_first, parallel, Display(console, jobs))
    if todo:
        sweep.run()
    status = conclude(console, jobs, sweep.outcomes, seconds=time.monotonic() - start)
    if sweep.num_stops_asked:
        console.print("Stopped. To go on, run the same command again.")
        return STOPPED
    return status


def claim_all(jobs: list[Job]) -> list[Job]:
    """Give every job its folder, as one sweep; those that are not done yet."""
    plan.check_services(jobs)
    group, command = time.strftime("%Y-%m-%d_%H-%M-%S"), shlex.join(["python", *sys.argv])
    for job in jobs:
        plan.claim(job, group=group, command=command)
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
        Exit status of this process, as of `resnet_repro.worker.train`.

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
        plan.check_folders(jobs)
        plan.check_services(jobs)
        group, command = time.strftime("%Y-%m-%d_%H-%M-%S"), shlex.join([rank.started_by, *sys.argv])
        about = plan.claim(job, group=group, command=command)
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


def start_method(jobs: list[Job]) -> ForkServerContext | SpawnContext:
    """How a process is made: forked from a server that has imported everything once, where that is safe.

    Safe means Linux and no GPU: the server runs no operation, so it has no threads and no CUDA context to inherit.
    """
    make_room()
    start_tracker()
    if not sys.platform.startswith("linux") or any(devices.on_gpu(job) for job in jobs):
        return mp.get_context("spawn")
    threads = str(jobs[0].config["hardware"]["num_threads"])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = threads
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context
