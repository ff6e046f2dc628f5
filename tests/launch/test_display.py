"""Runs with names wider than the terminal."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from resnet_repro.launch.progress import Display, Outcome, print_results, telling
from resnet_repro.runs.folder import RunDir, write_json
from resnet_repro.runs.job import Job
from tests.helpers.runs import resolved

SHARED = "paper_v2__mix=exclusive_gate"
LONG = [f"resnet_v1-110-s{seed}__{SHARED}__gate_bias=-{bias}__steps=1000" for seed in (0, 1) for bias in (5, 7)]
NUMBERS = "train 99.99 %  test 99.99 %  1,234 images/s"


def jobs_of(names: list[str], outputs: Path) -> list[Job]:
    run = resolved("data=cifar10", f"outputs={outputs}")
    return [Job(run, name, outputs / "cifar10" / name, {}) for name in names]


def shown(display: Display) -> list[str]:
    """Return the lines of the progress display."""
    for job, name in display.names.items():
        display.tasks[job] = display.progress.add_task(name, total=job.steps, completed=32_000, numbers=NUMBERS)
    console = display.console
    console.print(display.progress.get_renderable())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("names", [LONG, LONG[:1], ["plain-20-s0", "plain-56-s0"]], ids=["long", "one", "short"])
@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_bar_step_time_left_and_rate_stay_visible(width: int, names: list[str], tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    lines = shown(Display(console, jobs_of(names, tmp_path)))
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    for part in ("━━━", "32000/64000", "--:--", " ".join(NUMBERS.split())):
        assert text.count(part) >= len(names), part


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
