"""Runs jobs, each in a process of its own, several at a time; shows how far they are and what came of them."""

import multiprocessing as mp
import os
import signal
import sys
import time
from dataclasses import replace
from itertools import chain
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import NamedTuple

from rich.console import Console

from resnet_repro import machine
from resnet_repro.launch import checks, placement
from resnet_repro.launch.exit_status import STOPPED
from resnet_repro.launch.progress import Display, Outcome
from resnet_repro.launch.rank_processes import start_tracker
from resnet_repro.launch.sockets import make_room
from resnet_repro.launch.sweep import Result, State, announce, claim_all, conclude, outcome, watch
from resnet_repro.launch.worker import PRELOAD, work
from resnet_repro.machine import STOP_SIGNALS
from resnet_repro.runs.job import Job


class Running(NamedTuple):
    """A job and the process that runs it."""

    job: Job
    process: BaseProcess
    gpus: list[str]
    reasons: Connection
    """Gets what the process could not write into the run's folder."""


class LocalProcesses:
    """The backend of this machine (`resnet_repro.launch.sweep.Backend`): each job is a process, several run at a time.

    A job that fails does not touch the others. Inside `with`, stop signals are passed on to the runs instead of ending
    this process.
    """

    def __init__(self, jobs: list[Job], parallel: int) -> None:
        self.waiting, self.parallel = list(jobs), parallel
        self.running: list[Running] = []
        self.note = ""
        self.num_stops_asked = self.num_stops_passed_on = 0

    def __enter__(self) -> "LocalProcesses":
        self.context = start_method(self.waiting)
        self.handlers = {signum: signal.signal(signum, self._stop) for signum in STOP_SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for each in self.running:  # only after an error of our own
            each.process.terminate()
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler)

    def poll(self) -> dict[Job, State]:
        """Pass on stops, collect the processes that have ended, start as many jobs as may run now."""
        self._pass_on_stops()
        states: dict[Job, State] = {}
        for each in [each for each in self.running if each.process.exitcode is not None]:
            states[each.job] = self._finish(each)
        while len(self.running) < self.parallel and not self.num_stops_asked and (job := self._ready()):
            self.waiting.remove(job)
            self._start(job)
        return states | {each.job: "running" for each in self.running}

    def wait(self) -> None:
        if self.running:
            wait([each.process.sentinel for each in self.running], timeout=0.2)

    def _ready(self) -> Job | None:
        """The first job that begins with no other's weights, or whose other has ended, well or not."""
        ahead = {job.dir for job in (*self.waiting, *(each.job for each in self.running))}
        return next((job for job in self.waiting if job.waits_for not in ahead), None)

    def _start(self, job: Job) -> None:
        gpus: list[str] = []
        if placement.on_gpu(job):
            taken = list(chain.from_iterable(each.gpus for each in self.running))
            gpus = sorted(machine.gpus(), key=taken.count)[: job.num_devices]  # those with the fewest jobs
        # The server runs no operation, so a job that came from it may be forked again, into its ranks.
        reasons, writer = self.context.Pipe(duplex=False)
        kwargs = {"fork_ranks": isinstance(self.context, ForkServerContext), "reasons": writer}
        process = self.context.Process(target=work, args=(job.dir, gpus or None), kwargs=kwargs, name=job.name)
        # A Ctrl-C reaches the whole terminal. What is started here (the fork server too) must not be hit by it while
        # it still imports; `work` lifts the block, and this process gets the signal as soon as it is lifted here.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
            writer.close()
        self.running.append(Running(job, process, gpus, reasons))

    def _finish(self, ended: Running) -> Outcome:
        self.running.remove(ended)
        ended.process.join()
        assert ended.process.exitcode is not None
        with ended.reasons as reasons:
            reason = _received(reasons)
        return outcome(ended.job, ended.process.exitcode, reason, was_stopped=self.num_stops_asked > 0)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT or not self.num_stops_asked:  # a scheduler's second signal is no impatience
            self.num_stops_asked += 1

    def _pass_on_stops(self) -> None:
        """The first Ctrl-C lets every run save its state; the second does not wait for that."""
        if self.num_stops_asked == self.num_stops_passed_on:
            return
        self.num_stops_passed_on = self.num_stops_asked
        if self.num_stops_asked == 1:
            self.note = "Stopping: each run saves its state after the step it is at. Ctrl-C again: stop at once"
        for each in self.running:
            if self.num_stops_asked == 1:
                each.process.terminate()
            else:
                _kill(each.process)


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


def run_jobs(jobs: list[Job], *, console: Console | None = None) -> Result:
    """Do what a command asked for: skip the runs that are done, go on with those begun, make the others.

    Returns:
        What came of the jobs. Exit status: 0 when every job is done, 1 when one is not, 130 when it was stopped.

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
    outcomes: dict[Job, Outcome] = {}
    longest_first = sorted(todo, key=estimator.seconds, reverse=True)  # no core idles at the end
    processes = LocalProcesses(longest_first, parallel)
    if todo:
        with processes:
            watch(processes, Display(console, jobs), outcomes)
    result = conclude(console, jobs, outcomes, seconds=time.monotonic() - start)
    if processes.num_stops_asked:
        console.print("Stopped. To go on, run the same command again.")
        return replace(result, status=STOPPED)
    return result


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
