"""What a job's process does: train its rank of the run, and write into the run's folder what came of it.

Cheap to import: each process imports torch itself, or the fork server does so once for all.
"""

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection
from pathlib import Path

from resnet_repro.errors import UserError, failure
from resnet_repro.launch.exit_status import DONE, FAILED, FULL, IN_USE, STOPPED, UNWRITABLE
from resnet_repro.launch.rank_processes import follow_parent, run_ranks
from resnet_repro.launch.sockets import make_room
from resnet_repro.runs.folder import InUse, RunDir, read_failure, read_json, write_failure, write_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.ranks import Rank
from resnet_repro.runs.wandb_account import kill_wandb_after

PRELOAD = ["resnet_repro.training.run", "wandb", "wandb.sdk.launch", "sklearn.datasets"]
"""Everything that a job imports sooner or later, for a fork server to import once."""

Tell = Callable[[str], None]
"""Takes the reason why a run cannot even write into its folder."""

DISK_FULL = "the disk is full; free some space and run the same command again to go on"

PATIENCE_S = 10.0
"""Seconds that a run waits for a folder which another process holds: a run that stops saves its state first."""


def work(
    path: Path, gpus: list[str] | None = None, *, fork_ranks: bool = False, reasons: Connection | None = None
) -> None:
    """Run the job in `path` to its end, then exit. The exit status says what came of the job, status.json why.

    Args:
        path: the run's folder.
        gpus: the only GPUs that the job may use; None: all.
        fork_ranks: whether the job's process may be forked into its ranks.
        reasons: gets the reason if the folder cannot be written.
    """
    os.setsid()  # Ctrl-C goes to the launching process alone, which passes it on
    _keep_niceness()
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    run = RunDir(path)
    job = Job.of_record(read_json(run.job), path)
    num_ranks = job.num_devices
    if num_ranks > 1:
        sys.exit(_start_ranks(run, job, num_ranks, reasons, fork=fork_ranks))
    _run_rank(path, job, reasons, Rank())


def _keep_niceness() -> None:
    """Make a run as nice as the command that started it.

    Linux may schedule each session as a group of its own, and niceness counts only within a group.
    """
    if niceness := max(os.nice(0), 0):
        with suppress(OSError):  # no such groups here
            Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")


def _run_rank(path: Path, job: Job, reasons: Connection | None, rank: Rank) -> None:
    follow_parent()
    sys.exit(train(RunDir(path), job, rank, log=True, tell=reasons.send if reasons else print))


def train(run: RunDir, job: Job, rank: Rank, *, log: bool, tell: Tell) -> int:
    """Train this process's rank of a run. Rank 0 owns the folder, whoever started the ranks.

    Args:
        run: the run's folder.
        job: the content of its job.json.
        rank: which rank this process is.
        log: whether to print into train.log instead of this process's own output.
        tell: gets the reason if the folder is in use or cannot be written.

    Returns:
        The exit status.
    """
    try:
        with run.owned(patience_s=PATIENCE_S) if rank.is_first else nullcontext("") as how_held:
            if run.is_done and rank.world_size == 1:  # several ranks learn it together, in resnet_repro.training.run
                return DONE  # another sweep has finished the run in the meantime
            if rank.is_first:
                run.remove_parts()
                run.failure.unlink(missing_ok=True)
            if log:
                _print_into(run.log)
            if how_held:
                print(how_held, flush=True)
            return _train(run, job, rank)
    except InUse as error:
        tell(error.who)
        return IN_USE
    except OSError as error:
        tell(failure(error))
        if log:
            _silence_output()
        return FULL if _is_full(error) else UNWRITABLE


def _train(run: RunDir, job: Job, rank: Rank) -> int:
    if rank.is_first and not run.is_done:
        _say(run, "running", "starting")
    from resnet_repro.training.checkpoints import Stopped
    from resnet_repro.training.run import run as train_job

    try:
        make_room()
        train_job(run.path, job, rank)
    except Stopped as stop:
        if rank.is_first:
            _say(run, "stopped", str(stop))
        return STOPPED
    except UserError as error:
        return _fail(run, rank, str(error))
    except Exception as error:
        if _is_full(error):
            return _fail(run, rank, DISK_FULL)  # raises again if even this does not fit on the disk
        traceback.print_exc()
        return _fail(run, rank, f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        kill_wandb_after()
    return DONE


def _fail(run: RunDir, rank: Rank, reason: str) -> int:
    """Record why a run failed. Only the first rank to fail knows the reason; the others see that it is gone."""
    where = f"rank {rank.rank}: " if rank.world_size > 1 else ""
    print(f"failed: {where}{reason}", flush=True)
    with suppress(OSError):  # another rank was first, or the folder cannot be written
        write_failure(run.failure, where + reason)
    if rank.is_first:
        _say(run, "failed", read_failure(run.failure) if run.failure.exists() else reason)
    return FAILED


def _say(run: RunDir, state: str, reason: str) -> None:
    print(f"{state}: {reason}", flush=True)
    write_json(run.status, {**run.read_status(), "state": state, "reason": reason})


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _print_into(path: Path) -> None:
    with path.open("a", buffering=1) as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # whatever the terminal's encoding is


def _silence_output() -> None:
    """Discard everything that Python still prints: if that could not be written, the exit status would change."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())


# --- several ranks ----------------------------------------------------------------------------------------------------


def _start_ranks(run: RunDir, job: Job, num_ranks: int, reasons: Connection | None, *, fork: bool) -> int:
    """Run a job as one process per rank, and record what came of it."""
    end = run_ranks(_run_rank, (run.path, job, reasons), num_ranks, fork=fork)
    exitcode = end.exitcode
    if end.killer and end.was_stopped:
        state, reason, exitcode = "stopped", "stopped while it started", STOPPED
    elif end.killer:
        state, reason, exitcode = "failed", f"rank {end.rank} was killed by {end.killer}", FAILED
    elif run.failure.exists():  # rank 0 may have ended before it could write the reason
        state, reason = "failed", read_failure(run.failure)
    else:
        return exitcode
    with suppress(OSError):  # the exit status says it, too
        _say(run, state, reason)
    return exitcode
