"""Runs with names wider than the terminal."""

import io
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from resnet_repro.launch.progress import Display, Outcome, TimeLeft, print_results, telling
from resnet_repro.runs.folder import RunDir, write_json
from resnet_repro.runs.job import Job
from tests.helpers.runs import resolved

SHARED = "paper_v2__mix=exclusive_gate"
LONG = [f"resnet_v1-110-s{seed}__{SHARED}__gate_bias=-{bias}__steps=1000" for seed in (0, 1) for bias in (5, 7)]
NUMBERS = "train 99.99 %  test 99.99 %  1,234 images/s"


def jobs_of(names: list[str], outputs: Path) -> list[Job]:
    run = resolved("data=cifar10", f"outputs={outputs}")
    return [Job(run, name, outputs / "cifar10" / name, {}) for name in names]


def display_of(jobs: list[Job], width: int, **kwargs: Any) -> Display:
    """Return the display of these jobs on a terminal, each of which is expected to take 100 s."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, **kwargs)
    return Display(console, jobs, TimeLeft(dict.fromkeys(jobs, 100.0), parallel=1, seconds=100.0 * len(jobs)))


def shown(display: Display) -> list[str]:
    """Return the lines of the progress display with every job halfway."""
    for job, name in display.names.items():
        display.tasks[job] = display.progress.add_task(name, total=job.steps, completed=32_000, numbers=NUMBERS)
    console = display.console
    console.print(display.progress.get_renderable())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("names", [LONG, LONG[:1], ["plain-20-s0", "plain-56-s0"]], ids=["long", "one", "short"])
@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_bar_step_time_left_and_rate_stay_visible(width: int, names: list[str], tmp_path: Path) -> None:
    lines = shown(display_of(jobs_of(names, tmp_path), width))
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for part in ("━━━", "32000/64000", "--:--", " ".join(NUMBERS.split())):
        assert text.count(part) >= len(names), part


def status(job: Job, step: int) -> None:
    """Write how far a running job is, with numbers."""
    RunDir(job.dir).path.mkdir(parents=True, exist_ok=True)
    values = {"state": "running", "step": step, "steps": job.steps, "train/error": 12.34, "test/error": 23.45}
    write_json(RunDir(job.dir).status, values | {"time/images_per_s": 1_234.0})


def test_a_sweep_of_many_runs_stays_on_one_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    jobs = jobs_of([f"plain-20-s{seed}" for seed in range(40)], tmp_path)
    display, outcomes = display_of(jobs, 80, height=24), dict[Job, Outcome]()
    for job in jobs[:3]:
        status(job, 0)
    display.tell(dict.fromkeys(jobs[:3], "running"), outcomes)
    assert display.progress.head == "0 of 40 done, about 1 h 06 min left"  # as expected before: 40 runs of 100 s
    now += 200.0  # twice as slow as expected: one run a 200 s
    for job in jobs[:30]:
        RunDir(job.dir).path.mkdir(parents=True, exist_ok=True)
        results = {"train/error": 1.0, "test/error": 2.0}
        write_json(RunDir(job.dir).manifest, {"results": results, "wall_time_s": 12.0})
    display.tell({jobs[0]: Outcome("done")}, outcomes)
    status(jobs[1], 32_000)
    display.tell({jobs[1]: "running"}, outcomes)
    # 1.5 of 40 runs in 200 s
    assert display.progress.head == "1 of 40 done, about 1 h 25 min left"
    display.tell(
        {job: Outcome("done") for job in jobs[1:30]} | {jobs[30]: Outcome("failed", "a broken disk")}, outcomes
    )
    display.tell({jobs[31]: "running"}, outcomes)
    console = display.console
    console.print(display.progress.get_renderable())
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert len(lines) <= 23
    assert lines[0].startswith("30 of 40 done, about 1 min ")  # 9 of 39 runs are left
    assert "✗ plain-20-s30: a broken disk" in [line.strip() for line in lines]
    assert "✓ plain-20-s29: train 1.00 %  test 2.00 %, 12 s" in [line.strip() for line in lines]


def test_the_longest_run_decides_when_a_sweep_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    short, long = jobs_of(["short", "long"], tmp_path)
    left = TimeLeft({short: 100.0, long: 300.0}, parallel=2, seconds=300.0)
    assert left.seconds_left() == 300
    now = 100.0
    left.done |= {short: 1.0, long: 1 / 3}
    assert left.seconds_left() == pytest.approx(200)
    left.drop(long)
    assert left.seconds_left() == 0


@pytest.mark.parametrize("width", [24, 40, 60, 80, 120])
def test_names_that_are_cut_differ_from_each_other(width: int) -> None:
    labels = telling(LONG, width)
    assert len(set(labels)) == len(LONG)
    assert max(map(len, labels)) <= width
    if width < len(LONG[0]):
        assert labels == ["s0 gate_bias=-5", "s0 gate_bias=-7", "s1 gate_bias=-5", "s1 gate_bias=-7"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["plain-20-s0", "plain-56-s0"], ["20", "56"]),
        (["abcdefghijk0", "abcdefghijk1"], ["..fghijk0", "..fghijk1"]),
        (["0abcdefghijk", "1abcdefghijk"], ["0abcdef..", "1abcdef.."]),
        (["0abcdefghij0", "1abcdefghij0", "0abcdefghij1"], ["0ab..hij0", "1ab..hij0", "0ab..hij1"]),
        (["abcdef0ghijklm", "abcdef1ghijklm"], ["abcdef0..", "abcdef1.."]),
        (["abcdefg0hijklmnop", "abcdefg1hijklmnop"], ["1 abcdefg", "2 abcdefg"]),
    ],
)
def test_a_cut_name_keeps_the_part_that_differs(names: list[str], labels: list[str]) -> None:
    assert telling(names, 9) == labels


@pytest.mark.parametrize("width", [40, 80])
def test_results_of_runs_with_long_names_fit_any_width(width: int, tmp_path: Path) -> None:
    jobs = jobs_of(LONG[:2], tmp_path)
    for job in jobs:
        values = {"train/error": 12.34, "val/error": 23.45, "test/error": 34.56, "step": 64_000, "elapsed_s": 7_300.0}
        RunDir(job.dir).path.mkdir(parents=True)
        write_json(RunDir(job.dir).status, values)
    console = Console(file=io.StringIO(), width=width, soft_wrap=True)
    print_results(console, {job: Outcome("stopped") for job in jobs}, seconds=7_300.0)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert all(" ".join(text.split()).count(part) >= 2 for part in ("12.34", "23.45", "34.56", "64,000", "2 h 01 min"))
    assert all(job.name in text for job in jobs)
