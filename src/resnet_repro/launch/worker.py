"""What a job's process does: train its rank of the run, and write into the run's folder what came of it.

Cheap to import: each process imports torch itself, or the fork server does so once for all.
"""

import errno
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from resnet_repro.errors import Stopped, UserError, failure
from resnet_repro.launch.exit_status import DONE, FAILED, FULL, IN_USE, STOPPED, UNWRITABLE
from resnet_repro.launch.rank_processes import follow_parent, run_ranks
from resnet_repro.launch.sockets import make_room
from resnet_repro.runs.folder import InUse, RunDir, read_failure, read_json, write_failure, write_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Run, Wandb
from resnet_repro.runs.ranks import Rank
from resnet_repro.runs.wandb_account import in_wandb_sweep, kill_wandb_after

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
    if job.num_devices > 1:
        sys.exit(_start_ranks(run, job, reasons, fork=fork_ranks))
    follow_parent()
    with part_in(run, Rank(), log=True, tell=reasons.send if reasons else print) as part:
        if part.train:
            part.train(path, job, Rank())
    sys.exit(part.status)


def modules_for(runs: Iterable[Run]) -> list[str]:
    """Return the modules that these runs on a CPU import sooner or later, for a fork server to import once."""
    runs = list(runs)
    names = ["resnet_repro.training.run"]
    if any(run.hardware.fused is not False for run in runs):
        names.insert(0, "resnet_repro.networks.precompile")
    if any(run.hardware.compile is True or run.hardware.recompute or run.hardware.world_size > 1 for run in runs):
        names += ["torch._dynamo"]
    if any(isinstance(run.logger, Wandb) for run in runs):
        names += ["resnet_repro.training.wandb_logger", "wandb.sdk.launch"]
    return names


def _keep_niceness() -> None:
    """Make a run as nice as the command that started it.

    Linux may schedule each session as a group of its own, and niceness counts only within a group.
    """
    if niceness := max(os.nice(0), 0):
        with suppress(OSError):  # no such groups here
            Path("/proc/self/autogroup").write_text(str(niceness), encoding="ascii")


@dataclass
class Part:
    """The part of this process in a run: one rank of it."""

    train: Callable[[Path, Job, Rank], Any] | None = None
    """What to call; None if another sweep has finished the run in the meantime."""
    status: int = DONE
    """The exit status, once the part has ended."""


@contextmanager
def part_in(run: RunDir, rank: Rank, *, log: bool, tell: Tell) -> Iterator[Part]:
    """Prepare a rank's part in a run, and record how it ends: no exception of the run leaves this context.

    Rank 0 owns the run's folder meanwhile, whoever started the ranks.

    Args:
        log: whether to print into train.log instead of this process's own output.
        tell: gets the reason if the folder is in use or cannot be written.
    """
    part, has_begun = Part(), False
    try:
        with run.owned(patience_s=PATIENCE_S) if rank.is_first else nullcontext("") as how_held:
            # several ranks learn it together, in training.run, which also tells a sweep of W&B's
            is_over = run.is_done and rank.world_size == 1 and not in_wandb_sweep()
            if rank.is_first and not is_over:
                run.remove_parts()
                run.failure.unlink(missing_ok=True)
            if log and not is_over:
                _print_into(run.log)
            if how_held:
                print(how_held, flush=True)
            if rank.is_first and not run.is_done:
                _say(run, "running", "starting")
            try:
                if not is_over:
                    make_room()
                    from resnet_repro.training.run import run as train  # torch

                    part.train = train
                has_begun = True
                yield part
            except Stopped as stop:
                if rank.is_first:
                    _say(run, "stopped", str(stop))
                part.status = STOPPED
            except UserError as error:
                part.status = _fail(run, rank, str(error))
            except Exception as error:
                is_full = _is_full(error)
                if not is_full:
                    traceback.print_exc()
                reason = DISK_FULL if is_full else f"{type(error).__name__}: {error}".splitlines()[0]
                part.status = _fail(run, rank, reason)  # raises again if even this does not fit on a full disk
            finally:
                kill_wandb_after()
    except InUse as error:
        tell(error.who)
        part.status = IN_USE
    except OSError as error:
        tell(failure(error))
        if log:
            _silence_output()
        part.status = FULL if _is_full(error) else UNWRITABLE
    if not has_begun:
        part.train = None
        yield part


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


def _run_rank(path: Path, job: Job, reasons: Connection | None, rank: Rank) -> None:
    follow_parent()
    with part_in(RunDir(path), rank, log=True, tell=reasons.send if reasons else print) as part:
        if part.train:
            part.train(path, job, rank)
    sys.exit(part.status)


def _start_ranks(run: RunDir, job: Job, reasons: Connection | None, *, fork: bool) -> int:
    """Run a job as one process per rank, and record what came of it."""
    end = run_ranks(_run_rank, (run.path, job, reasons), job.num_devices, fork=fork)
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
