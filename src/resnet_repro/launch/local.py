"""The jobs of a command as processes of this machine, several at a time."""

import multiprocessing as mp
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import NamedTuple

from rich.console import Console

from resnet_repro import machine
from resnet_repro.launch import mps, placement
from resnet_repro.launch.progress import Outcome, State
from resnet_repro.launch.rank_processes import start_tracker
from resnet_repro.launch.sockets import make_room
from resnet_repro.launch.sweep import Backend, outcome
from resnet_repro.launch.worker import modules_for, work
from resnet_repro.machine import STOP_SIGNALS
from resnet_repro.runs.job import Job


class Running(NamedTuple):
    """A job and the process that runs it."""

    job: Job
    process: BaseProcess
    gpus: list[str]
    reasons: Connection
    """Where the process says what it could not write into the run's folder."""


class LocalProcesses(Backend):
    """This machine: each job is a process, and several run at a time.

    A job that fails does not affect the others. Inside `with`, stop signals do not end this process: they are passed on
    to the runs.
    """

    in_order = True

    def __init__(self) -> None:
        self.waiting: list[Job] = []
        self.running: list[Running] = []
        self.num_stops_asked = self.num_stops_passed_on = 0
        self.stack = ExitStack()
        """What ends with the sweep."""

    def check(self, jobs: list[Job]) -> None:
        placement.check_devices(jobs)
        placement.check_memory(jobs)

    def num_parallel(self, jobs: list[Job]) -> int:
        self.parallel = placement.num_parallel(jobs)
        return self.parallel

    def take(self, jobs: list[Job], outcomes: dict[Job, Outcome], console: Console) -> None:
        self.waiting = list(jobs)

    def __enter__(self) -> "LocalProcesses":
        self.context = start_method(self.waiting)
        self.handlers = {signum: signal.signal(signum, self._stop) for signum in STOP_SIGNALS}
        if mps.is_due(self.waiting, parallel=self.parallel):
            self.note = self.stack.enter_context(mps.daemon())
            if self.note:
                self.parallel = min(self.parallel, placement.num_parallel(self.waiting, mps=False))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for each in self.running:  # only after an error of our own
            each.process.terminate()
        self.stack.close()
        for signum, handler in self.handlers.items():
            signal.signal(signum, handler)

    def poll(self) -> dict[Job, State]:
        """Pass on stops, collect processes that have ended, and start as many jobs as may run now."""
        self._pass_on_stops()
        states: dict[Job, State] = {}
        for each in [each for each in self.running if each.process.exitcode is not None]:
            states[each.job] = self._finish(each)
        while len(self.running) < self.parallel and not self.num_stops_asked and (job := self._next()):
            gpus: list[str] = []
            if placement.on_gpu(job):
                taken = list(chain.from_iterable(each.gpus for each in self.running))
                gpus = sorted(machine.gpus(), key=taken.count)[: job.num_devices]  # the GPUs with the fewest jobs
            # The fork server runs no operation, so a job that it forked may itself fork its ranks.
            reasons, writer = self.context.Pipe(duplex=False)
            kwargs = {"fork_ranks": isinstance(self.context, ForkServerContext), "reasons": writer}
            process = self.context.Process(target=work, args=(job.dir, gpus or None), kwargs=kwargs, name=job.name)
            with _signals_held():
                process.start()
            writer.close()
            self.running.append(Running(job, process, gpus, reasons))
        return states | {each.job: "running" for each in self.running}

    def wait(self) -> None:
        if self.running:
            wait([each.process.sentinel for each in self.running], timeout=0.2)

    def _next(self) -> Job | None:
        """Take the first job that may start: the run whose weights it begins with, if any, has ended, well or not."""
        ahead = {job.dir for job in (*self.waiting, *(each.job for each in self.running))}
        job = next((job for job in self.waiting if job.waits_for not in ahead), None)
        if job:
            self.waiting.remove(job)
        return job

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
        """Ask the runs to stop: the first Ctrl-C lets every run save its state, the second does not wait for that."""
        if self.num_stops_asked == self.num_stops_passed_on:
            return
        self.num_stops_passed_on = self.num_stops_asked
        self.farewell = "Stopped. To go on, run the same command again."
        if self.num_stops_asked == 1:
            self.note = "Stopping: each run saves its state after the step it is at. Ctrl-C again: stop at once"
        for each in self.running:
            if self.num_stops_asked == 1:
                each.process.terminate()
            else:
                _kill(each.process)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Block the stop signals while a process starts.

    A Ctrl-C reaches every process of the terminal. It must not hit the new process, or the fork server, while that
    still imports: `work` unblocks the signals there. This process gets them right after the start.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _kill(process: BaseProcess) -> None:
    """Kill a job's process and its ranks, which are one process group."""
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # the process has not formed its group yet
        process.kill()


def _received(reasons: Connection) -> str:
    """Return what a job's process said that it could not write into its folder."""
    try:
        return str(reasons.recv()) if reasons.poll() else ""
    except EOFError:
        return ""


def start_method(jobs: list[Job]) -> ForkServerContext | SpawnContext:
    """Return how to start processes: forked from a server that has imported everything once, if that is safe.

    It is safe on Linux and without a GPU: the server runs no operation, so no thread or CUDA context is inherited.
    """
    make_room()
    start_tracker()
    if not sys.platform.startswith("linux") or any(placement.on_gpu(job) for job in jobs):
        return mp.get_context("spawn")
    threads = str(jobs[0].run.hardware.num_threads)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = threads
    # pages of 2 MB, if the kernel gives them to those that ask: a tenth of a step on Xeons with AMX, nothing on Zen 4
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(modules_for(job.run for job in jobs))
    return context
