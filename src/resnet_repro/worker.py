"""A job's own process. Cheap to import: what is heavy is imported in the new process, or once in the fork server."""

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

DONE, FAILED, IN_USE, STOPPED = 0, 1, 75, 130
"""Exit statuses; the last two as sysexits.h and shells have them."""


def work(path: Path, gpu: str | None = None) -> None:
    """Run the job in `path` to its end, on that GPU alone. The exit status tells what came of it, status.json why."""
    os.setsid()  # Ctrl-C goes to the launching process alone, which passes it on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    run = RunDir(path)
    try:
        with run.owned():
            sys.exit(DONE if run.is_done else _train(run))  # another sweep may have made it in the meantime
    except InUse:
        sys.exit(IN_USE)


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
        traceback.print_exc()
        _say(run, "failed", f"{type(error).__name__}: {error}".splitlines()[0])
        return FAILED
    return DONE


def _say(run: RunDir, state: str, reason: str) -> None:
    print(f"{state}: {reason}", flush=True)
    write_json(run.status, {**run.read_status(), "state": state, "reason": reason})


def _end_with_parent() -> None:
    """Stop this run, its state saved, when the launching process is gone, however it went."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
