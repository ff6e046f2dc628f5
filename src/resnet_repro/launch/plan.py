"""Estimates of how long jobs take, and what `plan=true` prints."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from resnet_repro.launch import checks, placement
from resnet_repro.launch.placement import on_gpu
from resnet_repro.launch.progress import announcement
from resnet_repro.runs.finished import DAMAGED, duration
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Run

FIRST_GUESS = {"cpu": 30e9, "gpu": 6e12}
"""Multiply-adds per second in training, forward and backward, until something was measured on this machine."""


def multiply_adds(run: Run) -> int:
    """Return the multiply-adds of one image's forward pass."""
    known = run.network.known_multiply_adds(run.images)
    if known is not None:
        return known
    from resnet_repro.networks.parts import count_multiply_adds  # imports torch

    return count_multiply_adds(run.network, run.images)


def gpu_hours(jobs: Iterable[Job]) -> float:
    """Return the hours that all jobs take on one GPU, by `FIRST_GUESS` and nothing that was measured."""
    images = ((job, job.steps * job.run.schedule.batch_size) for job in jobs)
    return sum(3 * multiply_adds(job.run) * n for job, n in images) / FIRST_GUESS["gpu"] / 3600


class Estimator:
    """Estimates how long jobs take, from the finished runs in outputs/ on the same data and kind of device.

    Small networks wait for the host as much as for arithmetic, so the estimate scales the finished run of the nearest
    cost. Without a finished run it falls back on `FIRST_GUESS`.
    """

    def __init__(self, outputs: Path) -> None:
        self.known: dict[tuple[str, bool], list[tuple[int, float]]] = {}  # multiply-adds per image, images/s
        for path in outputs.glob("*/*/manifest.json"):
            try:
                manifest = read_json(path)
                run, rate = Run.of_record(manifest["config"]), manifest["images_per_s"]
                key = run.data.name, bool(manifest["machine"]["gpu"])
                self.known.setdefault(key, []).append((multiply_adds(run), rate))
            except DAMAGED:
                continue  # damaged, or of another version: the report names it, an estimate does not need it

    def is_guess(self, job: Job) -> bool:
        """Return whether no run on this data and kind of device has finished yet."""
        return (job.run.data.name, on_gpu(job)) not in self.known

    def seconds(self, job: Job) -> float:
        """Return the estimate for one job, alone."""
        cost = multiply_adds(job.run)
        known = self.known.get((job.run.data.name, on_gpu(job)), [])
        speeds = [(abs(other - cost), rate * other) for other, rate in known if rate]
        speed = min(speeds)[1] if speeds else FIRST_GUESS["gpu" if on_gpu(job) else "cpu"] / 3
        return job.steps * job.run.schedule.batch_size * cost / speed

    def wall_seconds(self, jobs: Iterable[Job], parallel: int) -> float:
        """Return the estimate for all jobs, the longest first, `parallel` at a time."""
        slots = [0.0] * parallel
        for seconds in sorted((self.seconds(job) for job in jobs), reverse=True):
            slots[slots.index(min(slots))] += seconds
        return max(slots)


def show_plan(jobs: list[Job], *, parallel: int | None = None, console: Console | None = None) -> int:
    """Print what a command would do: every job with its state, its steps and an estimate of its time.

    Args:
        parallel: how many runs go on at a time; None: as many as this machine takes.

    Returns:
        Exit status 0.

    Raises:
        UserError: if a run folder holds another run.
    """
    console = console or Console(soft_wrap=True)
    checks.check_folders(jobs)
    estimator = Estimator(Path(jobs[0].run.outputs))
    table = Table()
    table.add_column("run", overflow="fold")
    table.add_column("")
    table.add_column("steps", justify="right")
    table.add_column("estimate", justify="right")
    todo = []
    for job in jobs:
        state = _state(job)
        todo += [job] if state != "done" else []
        table.add_row(job.name, state, f"{job.steps:,}", "" if state == "done" else duration(estimator.seconds(job)))
    console.print(table)
    parallel = min(parallel or placement.num_parallel(jobs), max(len(todo), 1))
    seconds = estimator.wall_seconds(todo, parallel)
    is_guess = any(map(estimator.is_guess, todo))
    console.print(announcement(jobs, todo, parallel, seconds, is_guess=is_guess), highlight=False)
    hours = gpu_hours(jobs)
    console.print(f"On one GPU about {duration(3600 * hours)} in all, a guess from multiply-adds", highlight=False)
    return 0


def _state(job: Job) -> str:
    run = RunDir(job.dir)
    if not job.run.resume:
        return "to run"
    if run.is_done:
        return "done"
    begun = run.checkpoint_files()
    return f"begun, at step {int(begun[0].stem.split('-')[1]):,}" if begun else "to run"
