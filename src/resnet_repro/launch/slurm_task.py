"""What every task of a SLURM job does: its part in one run, and what SLURM expects when it takes the nodes away."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType

from submitit.helpers import DelayedSubmission

from resnet_repro.launch.exit_status import STOPPED
from resnet_repro.launch.worker import train
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.ranks import Rank, rank_from_environment

WAIT_S = 900.0
"""For SLURM to end or to requeue a job whose state is saved."""


class SlurmTask:
    """A rank of a run, as submitit pickles it into a job. Knows no Hydra.

    SIGUSR2 announces that an allocation ends, and so do SIGUSR1 and SIGXCPU where somebody has SLURM send them: the run
    saves its state after the step it is at, and rank 0 has submitit put the job into the queue again. After SIGTERM the
    run saves its state as well and waits: it is `scancel`, which soon ends it, or a preemption with a time of grace, at
    whose end SLURM itself requeues the job; a job that ends by itself in that time it does not requeue.
    """

    def __call__(self, path: Path) -> None:
        requeue, ignore = signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGTERM)  # submitit's
        assert callable(requeue)
        is_announced = False

        def announce(signum: int, frame: FrameType | None) -> None:
            nonlocal is_announced
            is_announced = True
            if signal.getsignal(signal.SIGTERM) == ignore:  # the run has not begun, there is nothing to save
                requeue(signum, frame)
            else:
                os.kill(os.getpid(), signal.SIGTERM)  # the run knows how to stop

        for signum in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGXCPU):
            signal.signal(signum, announce)
        run = RunDir(path)
        with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:  # SLURM's own log
            tell = partial(print, "failed:", file=out, flush=True)
            status = train(run, read_json(run.job), rank_from_environment() or Rank(), log=True, tell=tell)
        if status == STOPPED:
            signal.signal(signal.SIGUSR2, requeue)
            if is_announced:
                requeue(signal.SIGUSR2, None)  # ends this process if it is rank 0
            time.sleep(WAIT_S)  # a rank that ended now would end the one that requeues
        sys.exit(status)

    def checkpoint(self, path: Path) -> DelayedSubmission:
        """For submitit: what the requeued job does. The same, as a run knows its own checkpoints."""
        return DelayedSubmission(self, path)
