"""What every task of a SLURM job does: train its rank of a run, and obey when SLURM takes the nodes away."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType

from submitit.helpers import DelayedSubmission

from resnet_repro.launch.exit_status import STOPPED
from resnet_repro.launch.worker import part_in
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.ranks import Rank, rank_from_environment

WAIT_S = 900.0
"""Seconds that SLURM has to end or to requeue a job whose state is saved."""


class SlurmTask:
    """One rank of a run, as submitit pickles it into a job. Hydra plays no part here.

    SIGUSR2 announces the end of an allocation; SIGUSR1 and SIGXCPU do so too if somebody has SLURM send them. The run
    saves its state after the step it is at, and rank 0 has submitit put the job into the queue again.

    After SIGTERM the run saves its state and waits. Either `scancel` sent the signal and soon ends the job, or SLURM
    preempts the job and requeues it at the end of a time of grace. A job that ends by itself in that time is not
    requeued.
    """

    def __call__(self, path: Path) -> None:
        requeue, ignore = signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGTERM)  # submitit's
        assert callable(requeue)
        is_announced = False

        def announce(signum: int, frame: FrameType | None) -> None:
            nonlocal is_announced
            is_announced = True
            if signal.getsignal(signal.SIGTERM) == ignore:  # the run has not begun: there is nothing to save
                requeue(signum, frame)
            else:
                os.kill(os.getpid(), signal.SIGTERM)  # the run handles this signal: it stops

        for signum in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGXCPU):
            signal.signal(signum, announce)
        run = RunDir(path)
        with os.fdopen(os.dup(sys.stdout.fileno()), "w") as out:  # SLURM's own log
            tell = partial(print, "failed:", file=out, flush=True)
            rank = rank_from_environment() or Rank()
            with part_in(run, rank, log=True, tell=tell) as part:
                if part.train:
                    part.train(path, Job.of_record(read_json(run.job), path), rank)
        if part.status == STOPPED:
            signal.signal(signal.SIGUSR2, requeue)
            if is_announced:
                requeue(signal.SIGUSR2, None)  # ends this process if it is rank 0
            time.sleep(WAIT_S)  # a rank that ended now would end rank 0 before that has requeued the job
        sys.exit(part.status)

    def checkpoint(self, path: Path) -> DelayedSubmission:
        """Tell submitit what the requeued job does: the same, as a run finds its own checkpoints."""
        return DelayedSubmission(self, path)
