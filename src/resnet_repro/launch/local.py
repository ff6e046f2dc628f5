"""Runs jobs, each in a process of its own, several at a time; shows how far they are and what came of them."""

import multiprocessing as mp
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import FrameType

from rich.console import Console

from resnet_repro import machine
from resnet_repro.launch import checks, placement
from resnet_repro.launch.exit_status import STOPPED
from resnet_repro.launch.progress import Display, Outcome
from resnet_repro.launch.rank_processes import start_tracker
from resnet_repro.launch.sockets import make_room
from resnet_repro.launch.sweep import announce, claim_all, conclude, outcome
from resnet_repro.launch.worker import PRELOAD, work
from resnet_repro.machine import STOP_SIGNALS
from resnet_repro.runs.job import Job


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
        if placement.on_gpu(job):
            taken = list(chain.from_iterable(self.gpus.values()))
            gpus = sorted(machine.gpus(), key=taken.count)[: job.num_devices]  # those with the fewest jobs
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


def run_jobs(jobs: list[Job], *, console: Console | None = None) -> int:
    """Do what a command asked for: skip the runs that are done, go on with those begun, make the others.

    Returns:
        Exit status: 0 when every job is done, 1 when one is not, 130 when it was stopped.

    Raises:
        UserError: before anything starts, where the machine, the data or a run folder is not what is asked for.
    """
    console = console or Console(soft_wrap=True)
    checks.check_folders(jobs)
    jobs = list({job.dir: job for job in jobs}.values())
    placement.check_devices(jobs)
    placement.check_memory(jobs)
    checks.check_beginnings(jobs, in_order=True)
    todo = claim_all(jobs)
    parallel = min(placement.num_parallel(jobs), max(len(todo), 1))
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


def start_method(jobs: list[Job]) -> ForkServerContext | SpawnContext:
    """How a process is made: forked from a server that has imported everything once, where that is safe.

    Safe means Linux and no GPU: the server runs no operation, so it has no threads and no CUDA context to inherit.
    """
    make_room()
    start_tracker()
    if not sys.platform.startswith("linux") or any(placement.on_gpu(job) for job in jobs):
        return mp.get_context("spawn")
    threads = str(jobs[0].config["hardware"]["num_threads"])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = threads
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context
