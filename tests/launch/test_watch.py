"""The loop that watches a sweep, wherever its jobs run: what it prints and what it notes."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from resnet_repro.launch.progress import Outcome, State
from resnet_repro.launch.sweep import Backend, run_jobs
from resnet_repro.runs.folder import RunDir, write_json
from resnet_repro.runs.job import Job
from tests.helpers.runs import resolved


@pytest.fixture(autouse=True)
def no_measured_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what a plan has measured on this machine, from which the lines would tell the time that is left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Script(Backend):
    """A backend that says what it was given to say, a round at a time."""

    in_order = True

    def __init__(self, *rounds: tuple[dict[Job, State], str]) -> None:
        self.rounds = list(rounds)
        self.num_waits = 0

    def check(self, jobs: list[Job]) -> None:
        assert jobs

    def num_parallel(self, jobs: list[Job]) -> int:
        return len(jobs)

    def take(self, jobs: list[Job], outcomes: dict[Job, Outcome], console: Console) -> None:
        assert not outcomes

    def poll(self) -> dict[Job, State]:
        states, self.note = self.rounds.pop(0)
        return states

    def wait(self) -> None:
        self.num_waits += 1

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *error: object) -> None:
        assert error == (None, None, None)


def job(name: str, outputs: Path) -> Job:
    run = RunDir(outputs / "digits" / name)
    run.path.mkdir(parents=True)
    write_json(run.status, {"state": "stopped", "reason": "stopped at step 5"})
    return Job(resolved("data=digits", "logger=csv", f"outputs={outputs}"), name, run.path, {})


def watched(*rounds: tuple[dict[Job, State], str]) -> tuple[list[str], dict[Job, Outcome], Script]:
    """Return the lines between announcement and table, the outcomes and the backend after a sweep of these rounds."""
    console, backend = Console(file=io.StringIO(), width=120), Script(*rounds)
    result = run_jobs(list(rounds[0][0]), backend, console=console)
    assert result.status == 1
    assert isinstance(console.file, io.StringIO)
    _, *lines = console.file.getvalue().splitlines()
    table = next(number for number, line in enumerate(lines) if line.startswith("Error in % after the last step"))
    return lines[:table], result.outcomes, backend


def test_each_change_of_a_jobs_state_is_printed_once(tmp_path: Path) -> None:
    a, b = job("a", tmp_path), job("b", tmp_path)
    failed = Outcome("failed", "a broken disk")
    lines, outcomes, backend = watched(
        ({a: "queued", b: "queued"}, "waiting: 2"),
        ({a: "running", b: "queued"}, "waiting: 1"),
        ({a: "running", b: "running"}, "waiting: 1"),
        ({a: "queued", b: "running"}, ""),
        ({a: "queued", b: "unclear"}, "waiting: 1"),
        ({a: failed, b: "running"}, ""),
        ({b: Outcome("stopped", "stopped at step 5")}, ""),
        ({}, "never printed"),
    )
    assert lines == [
        "waiting: 2",
        "  a: started",
        "waiting: 1",
        "  b: started",
        "  a: stopped at step 5; in the queue again",
        "waiting: 1",
        "✗ a: a broken disk (0 of 2 done)",
        "… b: stopped at step 5 (0 of 2 done)",
    ]
    assert outcomes == {a: failed, b: Outcome("stopped", "stopped at step 5")}
    assert backend.num_waits == 7


def test_a_job_that_ends_unseen_is_still_reported(tmp_path: Path) -> None:
    a = job("a", tmp_path)
    lines, outcomes, _ = watched(({a: Outcome("failed", "gone")}, ""), ({}, ""))
    assert lines == ["✗ a: gone (0 of 1 done)"]
    assert outcomes == {a: Outcome("failed", "gone")}
