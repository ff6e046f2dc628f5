"""Processes that share one task, one per rank: start them, end them together, say how. Knows nothing of run folders."""

import math
import multiprocessing as mp
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess, parent_process
from pathlib import Path
from typing import Any, NamedTuple

from resnet_repro.launch.exit_status import DONE, FAILED, STOPPED
from resnet_repro.machine import STOP_SIGNALS
from resnet_repro.runs.ranks import Rank

GRACE_S = 5.0
"""Seconds that the other ranks have to end by themselves after one rank has failed."""


SAVING_S = 120.0
"""Seconds that a run has to save its state after its launching process is gone."""


def start_tracker() -> None:
    """Start multiprocessing's resource tracker so that the signals which stop a run do not end the tracker.

    Call this before you block those signals to start processes: it unblocks them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def follow_parent() -> None:
    """Unblock the stop signals, and from now on stop if the launching process is gone."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Wait until the launching process is gone, for whatever reason; then have this run save its state and stop."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SAVING_S)  # this thread does not keep the process alive
        os._exit(FAILED)  # this rank still waits for another one that is gone


class End(NamedTuple):
    """How the processes of several ranks ended."""

    rank: int
    """The first rank that did not end well, else 0."""
    exitcode: int
    was_stopped: bool
    """Whether a signal asked the processes to stop."""

    @property
    def killer(self) -> str:
        """The signal that killed this rank; empty if the rank ended by itself."""
        name = signal.Signals(-self.exitcode).name if self.exitcode < 0 else ""
        return name + " (out of memory?)" * (name == "SIGKILL")


def run_ranks(target: Callable[..., None], args: tuple[Any, ...], num_ranks: int, *, fork: bool) -> End:
    """Call `target(*args, rank)` in one process per rank, and pass stop signals on to them.

    A rank that fails ends all within seconds, as the others wait for it in a collective operation. Call this with the
    stop signals blocked; `target` unblocks them with `follow_parent`.
    """
    context: ForkContext | SpawnContext = mp.get_context("fork") if fork else mp.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="resnet_repro-") as folder:
        ranks = [Rank(n, num_ranks, n, meeting_point=Path(folder) / "store") for n in range(num_ranks)]
        processes = [context.Process(target=target, args=(*args, rank)) for rank in ranks]
        was_stopped = threading.Event()

        def stop(signum: int, frame: Any) -> None:
            was_stopped.set()
            for process in processes:
                process.terminate()

        for process in processes:
            process.start()  # the stop signals are still blocked, here and in the new process
        for signum in STOP_SIGNALS:
            signal.signal(signum, stop)
        follow_parent()
        rank, exitcode = _wait_for(processes)
    return End(rank, exitcode, was_stopped.is_set())


def _wait_for(processes: Sequence[BaseProcess]) -> tuple[int, int]:
    """Wait until all processes have ended.

    Returns:
        Number and exit code of the first rank that did not end well; of rank 0 if all ended well.
    """
    first: tuple[int, int] | None = None
    deadline = math.inf
    while True:
        # Read once per round: a process that is ending may have no exit code yet when its sentinel wakes this process.
        exitcodes = [process.exitcode for process in processes]
        bad = [(n, code) for n, code in enumerate(exitcodes) if code not in (None, DONE, STOPPED)]
        if bad and not first:  # if several have ended by now, the killed one made the others fail
            first = min(((n, code or 0) for n, code in bad), key=lambda end: end[1])
            deadline = time.monotonic() + GRACE_S
        alive = [process for process, code in zip(processes, exitcodes, strict=True) if code is None]
        if not alive:
            return first or (0, exitcodes[0] or 0)
        if time.monotonic() > deadline:
            for process in alive:
                process.kill()
        wait([process.sentinel for process in alive], timeout=0.5 if first else None)
