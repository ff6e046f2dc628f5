"""A job's own process. Cheap to import: what is heavy is imported in the new process, or once in the fork server."""

import errno
import os
import signal
import sys
import threading
import traceback
from multiprocessing.connection import wait
from multiprocessing.process import parent_process
from pathlib import Path

from resnet_repro.errors import UserError
from resnet_repro.rundir import InUse, RunDir, write_json

PRELOAD = ["resnet_repro.run", "wandb", "wandb.sdk.launch", "sklearn.datasets"]
"""Everything that a job imports sooner or later, for a fork server to import once."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

DONE, FAILED, UNWRITABLE, FULL, IN_USE, STOPPED = 0, 1, 73, 74, 75, 130
"""Exit statuses; after the first two as sysexits.h (CANTCREAT, IOERR, TEMPFAIL) and shells have them."""

DISK_FULL = "the disk is full; free some space and run the same command again to go on"


def work(path: Path, gpu: str | None = None) -> None:
    """Run the job in `path` to its end, on that GPU alone. The exit status tells what came of it, status.json why.

    Where the folder cannot be written, the exit status alone tells.
    """
    os.setsid()  # Ctrl-C goes to the launching process alone, which passes it on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    run = RunDir(path)
    try:
        with run.owned():
            run.remove_parts()
            sys.exit(DONE if run.is_done else _train(run))  # another sweep may have made it in the meantime
    except InUse:
        sys.exit(IN_USE)
    except OSError as error:
        _say_no_more()
        sys.exit(FULL if _is_full(error) else UNWRITABLE)


def _train(run: RunDir) -> int:
    with run.log.open("a", buffering=1) as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    _say(run, "running", "starting")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from resnet_repro.callbacks import Stopped
    from resnet_repro.run import run as train

    try:
        train(run.path)
    except Stopped as stop:
        _say(run, "stopped", str(stop))
        return STOPPED
    except UserError as error:
        _say(run, "failed", str(error))
        return FAILED
    except Exception as error:
        if _is_full(error):
            _say(run, "failed", DISK_FULL)  # raises again where not even this finds room
            return FAILED
        traceback.print_exc()
        _say(run, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
        return FAILED
    return DONE


def _say(run: RunDir, state: str, reason: str) -> None:
    print(f"{state}: {reason}", flush=True)
    write_json(run.status, {**run.read_status(), "state": state, "reason": reason})


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _say_no_more() -> None:
    """Let what Python still wants to print go nowhere: a failure to write it would become the exit status."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())


def _end_with_parent() -> None:
    """Stop this run, its state saved, when the launching process is gone, however it went."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
