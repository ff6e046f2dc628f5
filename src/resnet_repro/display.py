"""What a person sees of a sweep: a bar a run on a terminal, a line now and then elsewhere, and the table at its end."""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from resnet_repro.config import Job
from resnet_repro.login import wandb_mode
from resnet_repro.rundir import RunDir, read_json

MARKS = {
    "done": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "stopped": "[yellow]…[/]",
    "in use": "[yellow]…[/]",
    "waiting": "-",
}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    state: str
    """One of `MARKS`."""
    reason: str = ""


class Display:
    """Shows runs while they go: bars with errors and images/s on a terminal, else a line every 10 s."""

    def __init__(self, console: Console, jobs: list[Job], *, every_s: float = 10.0) -> None:
        self.console, self.num_jobs, self.every_s = console, len(jobs), every_s
        self.num_done = sum(RunDir(job.dir).is_done for job in jobs)
        self.tasks: dict[Job, TaskID] = {}
        self._last_line: dict[Job, float] = {}
        width = max(len(job.name) for job in jobs)
        self.progress = Progress(
            TextColumn(f"{{task.description:<{width}}}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def start(self, job: Job) -> None:
        begun = RunDir(job.dir).checkpoint_files()
        completed = int(begun[0].stem.split("-")[1]) if begun else 0
        self.tasks[job] = self.progress.add_task(job.name, total=job.steps, completed=completed, numbers="starting")
        self._last_line[job] = time.monotonic()
        if not self.console.is_terminal:
            self.say(f"  {job.name}: started" + (f" again from step {completed}" if completed else ""))

    def update(self, job: Job) -> None:
        status = RunDir(job.dir).read_status()
        if status.get("state") != "running" or "step" not in status:
            return
        self.progress.update(self.tasks[job], completed=status["step"], numbers=numbers(status))
        if not self.console.is_terminal and time.monotonic() - self._last_line[job] > self.every_s:
            self._last_line[job] = time.monotonic()
            self.say(f"  {job.name}: step {status['step']:,} of {status['steps']:,}, {numbers(status)}")

    def put_back(self, job: Job) -> None:
        """A run whose machine was taken away: it waits for another and goes on there."""
        self.progress.remove_task(self.tasks.pop(job))
        self.say(f"  {job.name}: {RunDir(job.dir).read_status().get('reason', '')}; in the queue again")

    def finish(self, job: Job, outcome: Outcome) -> None:
        if job in self.tasks:
            self.progress.remove_task(self.tasks.pop(job))
        reason = outcome.reason
        if outcome.state == "done":
            self.num_done += 1
            manifest = read_json(RunDir(job.dir).manifest)
            reason = f"{numbers(manifest['results'])}, {duration(manifest['wall_time_s'])}"
        self.say(f"{MARKS[outcome.state]} {job.name}: {escape(reason)} ({self.num_done} of {self.num_jobs} done)")


def numbers(values: dict[str, Any]) -> str:
    """The errors and the speed in a status or in a manifest's results, as far as they are there."""
    parts = [f"{split} {values[f'{split}/error']:.2f} %" for split in SPLITS if f"{split}/error" in values]
    if "time/images_per_s" in values:
        parts.append(f"{values['time/images_per_s']:,.0f} images/s")
    return "  ".join(parts) if parts else "first steps"


def duration(seconds: float) -> str:
    """`9.5 s`, `12 s`, `3 min 05 s`, `2 h 40 min`, `4 days`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole // 60 % 60:02d} min" if whole < 48 * 3600 else f"{whole / 86400:.0f} days"


def announcement(jobs: list[Job], todo: list[Job], parallel: int, seconds: float, *, is_guess: bool) -> str:
    """What a command is about to do, and about how long it will take."""
    num_done = len(jobs) - len(todo)
    num_begun = sum(bool(RunDir(job.dir).checkpoint_files()) for job in todo)
    parts = ["1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"]
    parts += [f"{num_done} done already"] * bool(num_done) + [f"{num_begun} begun"] * bool(num_begun)
    if todo:
        steps = sorted({job.steps for job in todo})
        each = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        about = f"about {duration(seconds)}" + " (a first guess: nothing has run here yet)" * is_guess
        parts.append(f"{len(todo)} to run of {each} steps each, {parallel} at a time: {about}")
    return "; ".join(parts)


def print_results(console: Console, outcomes: dict[Job, Outcome], *, seconds: float) -> None:
    """The table of every job that the command named: errors and times, or why there are none."""
    results = {job: _results(job) for job in outcomes}
    errors = [(s, f"{s}/error") for s in SPLITS] + [(f"{s} top-5", f"{s}/error_top5") for s in SPLITS]
    errors = [(heading, key) for heading, key in errors if any(key in values for values in results.values())]
    table = Table(title=f"Error in % after the last step; {duration(seconds)} in all", title_justify="left")
    table.add_column("run", overflow="fold")
    for heading in ("", *dict(errors), "steps", "time", "images/s"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for job, outcome in outcomes.items():
        values = results[job]
        manifest = read_json(RunDir(job.dir).manifest) if outcome.state == "done" else {}
        table.add_row(
            job.name,
            f"{MARKS[outcome.state]} {outcome.state}",
            *(f"{values[key]:.2f}" if key in values else "" for _, key in errors),
            f"{values.get('step', 0):,}",
            duration(values["elapsed_s"] if "elapsed_s" in values else manifest.get("wall_time_s", 0.0)),
            f"{manifest['images_per_s']:,.0f}" if manifest.get("images_per_s") else "",
        )
    console.print(table)
    for job, outcome in outcomes.items():
        if outcome.state == "failed":
            reason = escape(f"{outcome.reason}; see {RunDir(job.dir).log}")
            console.print(f"{MARKS['failed']} {job.name}: {reason}", highlight=False)
        if results[job].get("diverged_at"):
            console.print(
                f"{job.name} diverged at step {results[job]['diverged_at']:,}: its loss is no number any more"
            )


def _results(job: Job) -> dict[str, Any]:
    run = RunDir(job.dir)
    return dict(read_json(run.manifest)["results"]) if run.is_done else run.read_status()


def print_wandb_hint(console: Console, jobs: list[Job]) -> None:
    """Where the W&B runs are: online an address, offline how to look at them and how to upload them."""
    manifests = [read_json(run.manifest) for job in jobs if (run := RunDir(job.dir)).is_done]
    for project in sorted({m["wandb_url"].split("/runs/")[0] for m in manifests if m.get("wandb_url")}):
        console.print(f"W&B: {project}", highlight=False)
    folder = shlex.quote(str(Path(jobs[0].config["outputs"]) / "wandb"))
    is_offline = wandb_mode(jobs[0].config["logger"].get("mode", "auto")) == "offline"
    if jobs[0].config["logger"]["name"] == "wandb" and is_offline:
        console.print(f"W&B runs are offline. Look: wandb leet {folder}", highlight=False)
        console.print(f"              Upload: wandb sync {folder}/offline-run-*", highlight=False)
    elif left := _left_by_wandb(jobs):
        console.print("W&B does not have all of these runs; metrics.csv does. To upload the rest:", highlight=False)
        console.print(f"  wandb sync --include-online {shlex.join(map(str, left))}", highlight=False)


def _left_by_wandb(jobs: list[Job]) -> list[Path]:
    """The W&B folders of runs that W&B does not have all of, less those uploaded since (`wandb sync` marks them)."""
    names = {job: RunDir(job.dir).read_status().get("wandb_left") for job in jobs}
    folders = [Path(job.config["outputs"]) / "wandb" / name for job, name in names.items() if name]
    return [folder for folder in folders if any(folder.glob("*.wandb")) and not any(folder.glob("*.synced"))]
