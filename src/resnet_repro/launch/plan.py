"""Estimates of how long jobs take, and what `plan=true` prints."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from resnet_repro.launch import checks, placement
from resnet_repro.launch.placement import on_gpu
from resnet_repro.launch.progress import announcement
from resnet_repro.launch.speed import Speeds, is_measurable, multiply_adds
from resnet_repro.runs.finished import DAMAGED, duration
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Run

GPU_RATES = {"cifar": 6e12, "imagenet": 35e12}
"""Multiply-adds per second in training, forward and backward, assumed of a GPU, by the family of networks.

As CUDA graphs, an H100 did 5.0e12 with ResNet-20 on CIFAR-10, 5.7e12 with ResNet-56, and 35.8e12 with ResNet-50 on
batches of 256 images of 224 x 224 that were on the GPU. [open: decoding photographs beside was not measured]
"""


def gpu_hours(jobs: Iterable[Job]) -> float:
    """Return the hours that all jobs take on one GPU, one after the other, by `GPU_RATES` and no other measurement."""
    images = ((job.run, job.steps * job.run.schedule.batch_size) for job in jobs)
    return sum(3 * multiply_adds(run) * num / GPU_RATES[run.images.family] for run, num in images) / 3600


class Timed(NamedTuple):
    """How fast a finished run was, and when it went on."""

    run: Run
    rate: float
    """Images/s, beside the runs that went on at the same time."""
    on_gpu: bool
    begin: float
    """Seconds since 1970. The parts of a continued run count as one without a break."""
    end: float

    @property
    def middle(self) -> float:
        return (self.begin + self.end) / 2

    def was_going_on(self, at: float) -> bool:
        return self.begin <= at <= self.end


def _timed(outputs: Path) -> Iterator[Timed]:
    for path in outputs.glob("*/*/manifest.json"):
        try:
            manifest = read_json(path)
            end = datetime.fromisoformat(manifest["finished"]).timestamp()
            begin, rate = end - manifest["wall_time_s"], manifest["images_per_s"]
            if rate:
                yield Timed(Run.of_record(manifest["config"]), rate, bool(manifest["machine"]["gpu"]), begin, end)
        except DAMAGED:
            continue  # damaged, or of another version: the report names it, an estimate does not need it


class Estimator:
    """Estimates how long jobs take, from the finished runs in outputs/ on the same data and kind of device.

    Small networks wait for the host as much as for arithmetic, so the estimate scales the finished run of the nearest
    cost. Without a finished run it takes what a plan has measured on this machine (`resnet_repro.launch.speed`).
    """

    def __init__(self, outputs: Path) -> None:
        self.speeds = Speeds()
        self.known: dict[tuple[str, bool], list[tuple[int, float]]] = {}  # multiply-adds per image, images/s alone
        finished = list(_timed(outputs))
        for each in finished:
            at_a_time = sum(other.on_gpu and other.was_going_on(each.middle) for other in finished)
            rate = each.rate * placement.slowdown(each.run, at_a_time)
            self.known.setdefault((each.run.data.name, each.on_gpu), []).append((multiply_adds(each.run), rate))

    def measure(self, jobs: Iterable[Job]) -> str:
        """Measure this machine for jobs that no finished run tells about. Return why that fails, else an empty text."""
        return self.speeds.measure([job for job in jobs if not self._known(job) and is_measurable(job)])

    def is_measured(self, job: Job) -> bool:
        """Return whether the estimate rests on a short measurement, because no run on this data has finished yet."""
        return not self._known(job)

    def seconds(self, job: Job) -> float | None:
        """Return the estimate for one job, alone; None if nothing is known about this machine."""
        cost = multiply_adds(job.run)
        if known := self._known(job):
            _, speed = min((abs(other - cost), rate * other) for other, rate in known)
            return job.steps * job.run.schedule.batch_size * cost / speed
        if not is_measurable(job):
            return None
        a_step = self.speeds.seconds(job.run)
        return None if a_step is None else job.steps * a_step

    def _known(self, job: Job) -> list[tuple[int, float]]:
        return self.known.get((job.run.data.name, on_gpu(job)), [])

    def work(self, jobs: Iterable[Job]) -> dict[Job, float]:
        """Return the seconds that each job takes alone; its multiply-adds if the time of one of them is not known."""
        seconds = {job: self.seconds(job) for job in jobs}
        known = {job: value for job, value in seconds.items() if value is not None}
        if len(known) == len(seconds):
            return known
        return {job: float(job.steps * job.run.schedule.batch_size * multiply_adds(job.run)) for job in seconds}

    def longest_first(self, jobs: Iterable[Job]) -> list[Job]:
        """Return the jobs, the longest first."""
        work = self.work(jobs)
        return sorted(work, key=work.__getitem__, reverse=True)

    def wall_seconds(self, jobs: Iterable[Job], parallel: int) -> float | None:
        """Return the estimate for all jobs, the longest first, `parallel` at a time; None if one is not known."""
        slots = [0.0] * parallel
        for job in self.longest_first(jobs):
            if (seconds := self.seconds(job)) is None:
                return None
            slots[slots.index(min(slots))] += seconds * placement.slowdown(job.run, parallel)
        return max(slots)


def show_plan(jobs: list[Job], *, parallel: int | None = None, console: Console | None = None) -> int:
    """Print what a command would do: every job with its state, its steps and an estimate of its time.

    The first plan on a machine measures its speed, which takes a few seconds.

    Args:
        parallel: how many runs go on at a time; None: as many as this machine takes.

    Returns:
        Exit status 0.

    Raises:
        UserError: if a run folder holds another run.
    """
    console = console or Console(soft_wrap=True)
    checks.check_folders(jobs)
    states = {job: _state(job) for job in jobs}
    todo = [job for job, state in states.items() if state != "done"]
    estimator = Estimator(Path(jobs[0].run.outputs))
    why_not = estimator.measure(todo)
    table = Table()
    table.add_column("run", overflow="fold")
    table.add_column("")
    table.add_column("steps", justify="right")
    table.add_column("estimate", justify="right")
    for job, state in states.items():
        seconds = None if state == "done" else estimator.seconds(job)
        table.add_row(job.name, state, f"{job.steps:,}", "" if seconds is None else duration(seconds))
    console.print(table)
    parallel = min(parallel or placement.num_parallel(jobs), max(len(todo), 1))
    total = estimator.wall_seconds(todo, parallel)
    is_measured = any(map(estimator.is_measured, todo))
    console.print(announcement(jobs, todo, parallel, total, is_measured=is_measured), highlight=False)
    if why_not:
        console.print(f"This machine's speed was not measured: {why_not}", markup=False, highlight=False)
    hours = gpu_hours(jobs)
    console.print(f"On one GPU about {duration(3600 * hours)} in all, estimated from multiply-adds", highlight=False)
    return 0


def _state(job: Job) -> str:
    run = RunDir(job.dir)
    if not job.run.resume:
        return "to run"
    if run.is_done:
        return "done"
    begun = run.checkpoint_files()
    return f"begun, at step {int(begun[0].stem.split('-')[1]):,}" if begun else "to run"
