"""What a person sees of a sweep: a bar per run on a terminal, lines elsewhere, and a table at the end."""

import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from resnet_repro.runs.finished import duration
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Wandb
from resnet_repro.runs.wandb_account import wandb_mode

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


State = Outcome | Literal["running", "queued", "unclear"]
"""What a backend says of a job: that it runs, that it waits (again) for a machine, neither, or what came of it."""


class TimeLeft:
    """Estimates when a sweep ends, from what its jobs have done since the command began."""

    SHARE = 0.03
    """What share of the work has to be done before its pace counts for more than the estimate made beforehand."""

    def __init__(self, work: Mapping[Job, float], *, parallel: int, seconds: float | None) -> None:
        """Begin to measure now.

        Args:
            work: the estimated seconds of each job from its first step to its last, alone, or anything that is in
                proportion to them.
            seconds: the estimate for all jobs; None if nothing is known.
        """
        self.work, self.parallel, self.seconds = dict(work), parallel, seconds
        self.start = time.monotonic()
        self.done = {job: _share_saved(job) for job in work}
        self.at_start = dict(self.done)

    def drop(self, job: Job) -> None:
        """Leave out a job that has ended without being done: nothing more is going to be done of it."""
        self.work.pop(job, None)

    def seconds_left(self) -> float | None:
        """Return the seconds until the last job ends; None if nothing is known yet."""
        elapsed = time.monotonic() - self.start
        left = {job: work * (1 - self.done[job]) for job, work in self.work.items()}
        done = sum(work * (self.done[job] - self.at_start[job]) for job, work in self.work.items())
        if done <= self.SHARE * (done + sum(left.values())):
            return None if self.seconds is None else max(self.seconds - elapsed, 0.0)
        pace = done / elapsed  # of all jobs together; the longest one may go on alone at the end
        return max(sum(left.values()), max(left.values()) * self.parallel) / pace


def _share_saved(job: Job) -> float:
    """Return the share of a job's steps that its newest checkpoint has."""
    saved = RunDir(job.dir).checkpoint_files()
    return int(saved[0].stem.split("-")[1]) / job.steps if saved else 0.0


class Bars(Progress):
    """A line on the sweep, a bar for each run that is going on, and as many of the ended runs as the screen holds."""

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        self.head = ""
        self.ended: list[str] = []
        super().__init__(*columns, console=console, disable=not console.is_terminal, transient=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield Text(self.head, no_wrap=True, overflow="ellipsis")
        yield self.make_tasks_table(self.tasks)
        if self.ended:
            room = self.console.height - 2 - 2 * len(self.tasks)
            yield from (Text.from_markup(line, overflow="ellipsis") for line in self.ended[-max(room, 1) :])


class Display:
    """Shows runs while they go on, on one screen: the sweep, a bar a run, what ended last; elsewhere lines.

    A file or a pipe gets a line when a run starts or ends, and one every 10 s while it goes on.
    """

    def __init__(self, console: Console, jobs: list[Job], left: TimeLeft, *, every_s: float = 10.0) -> None:
        self.console, self.num_jobs, self.left, self.every_s = console, len(jobs), left, every_s
        self.num_done = sum(RunDir(job.dir).is_done for job in jobs)
        self.tasks: dict[Job, TaskID] = {}
        self._last_line: dict[Job, float] = {}
        columns, room = _columns(jobs, console.width)
        self.names = dict(zip(jobs, telling([job.name for job in jobs], room), strict=True))
        self.progress = Bars(*columns, console=console)

    def __enter__(self) -> "Display":
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    @property
    def state(self) -> str:
        """How far the sweep is: `3 of 6 done, about 40 s left`."""
        done = f"{self.num_done} of {self.num_jobs} done"
        if not self.tasks:  # over, or nothing goes on
            return done
        seconds = self.left.seconds_left()
        if seconds is None:
            return done
        return f"{done}, {'a few seconds' if seconds < 10 else f'about {duration(seconds)}'} left"

    def start(self, job: Job) -> None:
        """Show a run that has just started, or gone on from a checkpoint."""
        completed = round(_share_saved(job) * job.steps)
        self.tasks[job] = self.progress.add_task(
            self.names[job], total=job.steps, completed=completed, numbers="starting"
        )
        self._last_line[job] = time.monotonic()
        if not self.console.is_terminal:
            self.say(f"  {job.name}: started" + (f" again from step {completed}" if completed else ""))

    def update(self, job: Job) -> None:
        """Show how far a run is, as its status.json says."""
        status = RunDir(job.dir).read_status()
        if status.get("state") != "running" or "step" not in status:
            return
        self.left.done[job] = status["step"] / job.steps
        self.progress.update(self.tasks[job], completed=status["step"], numbers=numbers(status))
        if not self.console.is_terminal and time.monotonic() - self._last_line[job] > self.every_s:
            self._last_line[job] = time.monotonic()
            self.say(f"  {job.name}: step {status['step']:,} of {status['steps']:,}, {numbers(status)}")

    def tell(self, states: dict[Job, State], outcomes: dict[Job, Outcome]) -> None:
        """Show the state of each job, and add what came of those that have ended to `outcomes`."""
        for job, state in states.items():
            if isinstance(state, Outcome):
                outcomes[job] = state
                self.finish(job, state)
            elif state == "running":
                if job not in self.tasks:
                    self.start(job)
                self.update(job)
            elif state == "queued" and job in self.tasks:
                self.put_back(job)
        self.progress.head = self.state

    def put_back(self, job: Job) -> None:
        """Say that a run lost its machine and waits for another one."""
        self.progress.remove_task(self.tasks.pop(job))
        self.say(f"  {job.name}: {RunDir(job.dir).read_status().get('reason', '')}; in the queue again")

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Say what came of a run."""
        if job in self.tasks:
            self.progress.remove_task(self.tasks.pop(job))
        reason = outcome.reason
        if outcome.state != "done":
            self.left.drop(job)
        else:
            self.num_done += 1
            self.left.done[job] = 1.0
            manifest = read_json(RunDir(job.dir).manifest)
            reason = f"{numbers(manifest['results'])}, {duration(manifest['wall_time_s'])}"
        line = f"{MARKS[outcome.state]} {job.name}: {escape(reason)}"
        if self.console.is_terminal:  # the table at the end has every run
            self.progress.ended.append(line)
        else:
            self.say(f"{line} ({self.state})")


NAME_ROOM = 24
"""A name shares a line with numbers only if it has at least this many columns of the terminal."""


def _columns(jobs: list[Job], width: int) -> tuple[list[ProgressColumn], int]:
    """Return the columns of a progress display that fit a terminal of this width, and the width left for a name."""
    digits = len(str(max(job.steps for job in jobs)))
    widest = max(len(numbers(_widest(job.run.data.num_held_out))) for job in jobs)
    count, left = MofNCompleteColumn(), TimeRemainingColumn(compact=True)
    errors = TextColumn("{task.fields[numbers]}")
    for bar in (24, 10):
        room = width - sum(part + 1 for part in (bar, 2 * digits + 1, widest, len("12:34:56")))
        if room >= min(NAME_ROOM, max(len(job.name) for job in jobs)):
            name = TextColumn(f"{{task.description:<{min(room, max(len(job.name) for job in jobs))}}}")
            return [name, BarColumn(bar_width=bar), count, errors, left], room
    return [BelowEachOther(BarColumn(bar_width=10), count, left, errors)], width


def _widest(num_held_out: int) -> dict[str, float]:
    """Return errors and a speed that take as much room as those of any run."""
    splits = {"train", "test"} | ({"val"} if num_held_out else set())
    return {f"{split}/error": 99.99 for split in splits} | {"time/images_per_s": 9999.0}


class BelowEachOther(ProgressColumn):
    """A run's name above its bar and numbers, which wrap on a very narrow terminal."""

    def __init__(self, bar: BarColumn, *texts: TextColumn | MofNCompleteColumn | TimeRemainingColumn) -> None:
        super().__init__()
        self.bar, self.texts = bar, texts

    def render(self, task: Task) -> Group:
        grid = Table.grid(padding=(0, 1))
        grid.add_row("", self.bar(task), Text("  ").join(text.render(task) for text in self.texts))
        return Group(Text(task.description, no_wrap=True), grid)


def telling(names: list[str], width: int) -> list[str]:
    """Shorten names to at most `width` characters so that no two are alike.

    Words that all names share are dropped first; then the end, the beginning or the middle of the rest, whichever
    leaves the names different.
    """
    if max(map(len, names)) <= width:
        return names
    words = [re.split(r"__|(?<=\w)-(?=\w)", name) for name in names]
    shared = set(words[0]).intersection(*words[1:]) if len(names) > 1 else set()
    short = [" ".join(word for word in each if word not in shared) for each in words] if shared else names
    half = (width - 2) // 2
    cuts: list[Callable[[str], str]] = [
        lambda name: f"{name[: width - 2]}..",
        lambda name: f"..{name[2 - width :]}",
        lambda name: f"{name[:half]}..{name[half + 2 - width :]}",
    ]
    for cut in cuts:
        shortened = [name if len(name) <= width else cut(name) for name in short]
        if len(set(shortened)) == len(set(names)):
            return shortened
    return [f"{number} {name}"[:width] for number, name in enumerate(short, 1)]


def numbers(values: dict[str, Any]) -> str:
    """Return the errors and the speed in a status or in a manifest's results, as far as they are known."""
    parts = [f"{split} {values[f'{split}/error']:.2f} %" for split in SPLITS if f"{split}/error" in values]
    if "time/images_per_s" in values:
        parts.append(f"{values['time/images_per_s']:,.0f} images/s")
    return "  ".join(parts) if parts else "first steps"


def announcement(jobs: list[Job], todo: list[Job], parallel: int, seconds: float | None, *, is_measured: bool) -> str:
    """Return a line that says what a command is about to do, and roughly how long it will take.

    Args:
        seconds: the estimate; None if nothing is known.
        is_measured: whether the estimate rests on a short measurement and not on finished runs.
    """
    num_done = len(jobs) - len(todo)
    num_begun = sum(bool(RunDir(job.dir).checkpoint_files()) for job in todo)
    parts = ["1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"]
    parts += [f"{num_done} done already"] * bool(num_done) + [f"{num_begun} begun"] * bool(num_begun)
    if todo:
        steps = sorted({job.steps for job in todo})
        each = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        about = "how long is not known, as nothing has run here yet"
        if seconds is not None:
            about = f"about {duration(seconds)}" + " (by a short measurement: nothing has run here yet)" * is_measured
        parts.append(f"{len(todo)} to run of {each} steps each, {parallel} at a time: {about}")
    return "; ".join(parts)


def print_results(console: Console, outcomes: dict[Job, Outcome], *, seconds: float) -> None:
    """Print a table of every job of the command: errors and times; and why jobs failed."""
    results = {job: _results(job) for job in outcomes}
    errors = [(s, f"{s}/error") for s in SPLITS] + [(f"{s} top-5", f"{s}/error_top5") for s in SPLITS]
    errors = [(heading, key) for heading, key in errors if any(key in values for values in results.values())]
    headings = ["", *dict(errors), "steps", "time", "images/s"]
    rows = []
    for job, outcome in outcomes.items():
        values = results[job]
        manifest = read_json(RunDir(job.dir).manifest) if outcome.state == "done" else {}
        rows.append(
            [
                f"{MARKS[outcome.state]} {outcome.state}",
                *(f"{values[key]:.2f}" if key in values else "" for _, key in errors),
                f"{values.get('step', 0):,}",
                duration(values["elapsed_s"] if "elapsed_s" in values else manifest.get("wall_time_s", 0.0)),
                f"{manifest['images_per_s']:,.0f}" if manifest.get("images_per_s") else "",
            ]
        )
    title = f"Error in % after the last step; {duration(seconds)} in all"
    widths = [max(len(Text.from_markup(cell)) for cell in column) for column in zip(headings, *rows, strict=True)]
    room = console.width - sum(width + 3 for width in widths) - 4
    names = [job.name for job in outcomes]
    if room >= min(NAME_ROOM, max(map(len, names))):
        table = Table(title=title, title_justify="left")
        table.add_column("run", overflow="fold")
        for heading in headings:
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for name, row in zip(names, rows, strict=True):
            table.add_row(name, *row)
        console.print(table)
    else:  # a line for the name, and below it the row of the table
        console.print(title, style="italic", highlight=False)
        for name, (state, *cells) in zip(names, rows, strict=True):
            line = "  ".join(f"{heading} {cell}" for heading, cell in zip(headings[1:], cells, strict=True) if cell)
            console.print(f"{state}  {name}", highlight=False)
            console.print(f"    {line}", highlight=False)
    for job, outcome in outcomes.items():
        if outcome.state == "failed":
            reason = escape(f"{outcome.reason}; see {RunDir(job.dir).log}")
            console.print(f"{MARKS['failed']} {job.name}: {reason}", highlight=False)
        if results[job].get("diverged_at"):
            console.print(
                f"{job.name} diverged at step {results[job]['diverged_at']:,}: its loss is no longer a number"
            )


def _results(job: Job) -> dict[str, Any]:
    run = RunDir(job.dir)
    return dict(read_json(run.manifest)["results"]) if run.is_done else run.read_status()


def print_wandb_hint(console: Console, jobs: list[Job]) -> None:
    """Print where the W&B runs are: an address if they are online, else how to look at them and to upload them."""
    manifests = [read_json(run.manifest) for job in jobs if (run := RunDir(job.dir)).is_done]
    for project in sorted({m["wandb_url"].split("/runs/")[0] for m in manifests if m.get("wandb_url")}):
        console.print(f"W&B: {project}", highlight=False)
    folder = shlex.quote(str(Path(jobs[0].run.outputs) / "wandb"))
    asked = jobs[0].run.logger
    if isinstance(asked, Wandb) and wandb_mode(asked.mode) == "offline":
        console.print(f"W&B runs are offline. Look: wandb leet {folder}", highlight=False)
        console.print(f"              Upload: wandb sync {folder}/offline-run-*", highlight=False)
    elif left := _left_by_wandb(jobs):
        console.print("W&B lacks part of these runs; metrics.csv has it all. To upload the rest:", highlight=False)
        console.print(f"  wandb sync --include-online {shlex.join(map(str, left))}", highlight=False)


def _left_by_wandb(jobs: list[Job]) -> list[Path]:
    """Return the W&B folders of runs that W&B lacks a part of, without those that `wandb sync` has uploaded since."""
    names = {job: RunDir(job.dir).read_status().get("wandb_left") for job in jobs}
    folders = [Path(job.run.outputs) / "wandb" / name for job, name in names.items() if name]
    return [folder for folder in folders if any(folder.glob("*.wandb")) and not any(folder.glob("*.synced"))]
