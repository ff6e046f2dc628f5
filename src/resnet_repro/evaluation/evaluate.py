"""Test finished runs as the papers do: `python evaluate.py run=FOLDER test=10crop`."""

import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from resnet_repro.errors import UserError
from resnet_repro.evaluation.record import Request, entry, record, show
from resnet_repro.evaluation.request import check_classes, make_request
from resnet_repro.launch import checks, placement
from resnet_repro.launch.exit_status import FAILED, STOPPED
from resnet_repro.launch.rank_processes import follow_parent, run_ranks, start_tracker
from resnet_repro.machine import STOP_SIGNALS
from resnet_repro.output import make_lenient
from resnet_repro.runs.job import Config, Job
from resnet_repro.runs.ranks import Rank, rank_from_environment


def main(options: Config) -> None:
    """Run `python evaluate.py` with these options, on one process or several.

    Raises:
        UserError: if options, runs, data or devices do not allow the test.
    """
    request, rank = make_request(options), rank_from_environment()
    hardware = request.options.hardware
    num_ranks = hardware.world_size
    job = Job(request.options, "evaluate", request.runs[0], {})
    if rank is None:
        placement.check_devices([job])
    elif rank.world_size != num_ranks:
        raise UserError(
            f"{rank.started_by} has started {rank.world_size} processes, and hardware.devices={hardware.devices} on "
            f"hardware.num_nodes={hardware.num_nodes} needs {num_ranks}: make them agree"
        )
    if rank is None or rank.is_first:
        checks.check_services([job])
        check_classes(request.options.data)
    if rank is None and num_ranks > 1:
        _start_ranks(request, num_ranks)
    else:
        _evaluate(request, rank or Rank())


def _start_ranks(request: Request, num_ranks: int) -> None:
    """Start processes that share the images. Report the reason if a process fails."""
    start_tracker()
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    with tempfile.TemporaryDirectory(prefix="resnet_repro-") as scratch:
        failure = Path(scratch) / "failure.txt"
        end = run_ranks(_run_rank, (request, failure), num_ranks, fork=False)
        if failure.exists():
            raise UserError(failure.read_text("utf-8"))
    if end.was_stopped:
        sys.exit(STOPPED)
    if end.killer:
        raise UserError(f"rank {end.rank} was killed by {end.killer}; nothing was recorded, run the same command again")
    sys.exit(end.exitcode)


def _run_rank(request: Request, failure: Path, rank: Rank) -> None:
    make_lenient()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launching process reacts to a terminal's Ctrl-C
    follow_parent()
    try:
        _evaluate(request, rank)
    except Exception as error:
        # only the first rank to fail has the reason: its failure makes the others fail
        with suppress(FileExistsError), failure.open("x", encoding="utf-8", errors="replace") as file:
            if not isinstance(error, UserError):
                traceback.print_exc()
            file.write(f"rank {rank.rank}: {error}")
        sys.exit(FAILED)


def _evaluate(request: Request, rank: Rank) -> None:
    from resnet_repro.evaluation.measure import evaluate_runs

    start = time.monotonic()
    measured = evaluate_runs(request, rank)
    if rank.is_first:
        entries = [entry(request, measured, split) for split in measured["splits"]]
        show(request, entries, Console(soft_wrap=True), seconds=time.monotonic() - start)
        record(request, entries)
