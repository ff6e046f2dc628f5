"""What a plan knows about this machine's speed: measured once, remembered, beaten by any finished run."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from resnet_repro.launch import plan, speed
from resnet_repro.runs.job import Job, make_job
from resnet_repro.runs.options import Run
from tests.helpers.commands import run, start
from tests.helpers.runs import composed
from tests.helpers.synthetic_runs import write_run

SECONDS = 0.25


def job(outputs: Path, *overrides: str) -> Job:
    return make_job(composed("logger=csv", f"outputs={outputs}", *overrides), usual=composed())


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[Run]]:
    """Take the place of measurements: each step takes `SECONDS`. Return what was to be measured, call by call."""
    calls: list[list[Run]] = []

    def measured(runs: list[Run]) -> list[float]:
        calls.append(runs)
        return [SECONDS] * len(runs)

    monkeypatch.setattr(speed, "measured", measured)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(speed.SWITCH, raising=False)
    return calls


def shown(jobs: Sequence[Job]) -> str:
    console = Console(file=io.StringIO(), width=160)
    plan.show_plan(list(jobs), parallel=1, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_plan_scales_one_measurement_to_every_depth(measurements: list[list[Run]], tmp_path: Path) -> None:
    jobs = [job(tmp_path, f"depth={depth}") for depth in (14, 20, 110)]
    assert "(by a short measurement: nothing has run here yet)" in shown(jobs)
    ((measured,),) = measurements
    assert (measured.network.depth, measured.data.name, measured.schedule.batch_size) == (14, "noise", 128)
    estimator = plan.Estimator(tmp_path)
    seconds = [estimator.seconds(each) for each in jobs]
    costs = [plan.multiply_adds(each.run) for each in jobs]
    assert seconds == pytest.approx([64_000 * SECONDS * cost / costs[0] for cost in costs])


def test_a_measurement_is_remembered_until_torch_or_the_training_code_changes(
    measurements: list[list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shown([job(tmp_path)])
    assert shown([job(tmp_path)]) == first
    assert len(measurements) == 1
    shown([job(tmp_path, "depth=164", "arch=resnet_v2")])
    assert len(measurements) == 2, "another kind of unit is measured by itself"
    for number, key in enumerate(("torch", "code_sha256"), start=3):
        monkeypatch.setitem(speed.CODE, key, "another")
        shown([job(tmp_path)])
        assert len(measurements) == number


def test_a_damaged_cache_is_measured_again(measurements: list[list[Run]], tmp_path: Path) -> None:
    path = speed.Speeds().path
    path.parent.mkdir(parents=True)
    path.write_text("{")
    shown([job(tmp_path)])
    assert len(measurements) == 1
    assert len(json.loads(path.read_text())) == 1


def test_a_finished_run_beats_a_measurement(measurements: list[list[Run]], tmp_path: Path) -> None:
    write_run(tmp_path, "resnet_v1", seed=1, data__name="cifar10")
    assert ": about 1 h 50 min\n" in shown([job(tmp_path)]), "64,000 steps of 128 images at 1,234.5 images/s"
    assert not measurements


def test_runs_that_share_a_gpu_are_estimated_to_take_longer_than_the_measured_run_alone(
    measurements: list[list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [job(tmp_path, f"seed={seed}", "hardware=cpu") for seed in range(4)]
    estimator = plan.Estimator(tmp_path)
    estimator.measure(jobs)
    alone = estimator.seconds(jobs[0])
    assert alone is not None
    monkeypatch.setattr(plan.placement, "slowdown", lambda run, at_a_time: {4: 2.2, 1: 1}[at_a_time])
    assert estimator.wall_seconds(jobs, parallel=4) == pytest.approx(2.2 * alone)
    assert estimator.wall_seconds(jobs, parallel=1) == pytest.approx(4 * alone)


def test_finished_runs_that_shared_a_gpu_tell_how_fast_one_is_alone(
    measurements: list[list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them took 12.3 s and did 1,234.5 images/s; two were going on in the middle of the first and the last."""
    monkeypatch.setattr(plan.placement, "gpus", lambda: ["0"])
    monkeypatch.setattr(plan.placement, "has_mps", lambda: False)
    on_gpu = {"hardware__accelerator": "gpu", "hardware__devices": 1}
    for seed, second in enumerate((10, 15, 20)):
        times = {"machine": {"gpu": "Example GPU"}, "finished": f"2026-01-01T10:00:{second}"}
        write_run(tmp_path, "resnet_v1", seed=seed, data__name="cifar10", manifest=times, **on_gpu)
    rates = sorted(rate for _, rate in plan.Estimator(tmp_path).known["cifar10", True])
    assert rates == pytest.approx([2 * 1234.5, 2 * 1234.5, 3 * 1234.5]), "in turns, the second beside both others"


def test_a_line_through_two_measurements_never_falls() -> None:
    assert speed.line([(1.0, 3.0), (2.0, 5.0)]) == speed.Line(1.0, 2.0)
    assert speed.line([(1.0, 3.0), (2.0, 2.0)]) == speed.Line(0.0, 1.0)
    assert speed.line([(1.0, 1.0), (2.0, 3.0)]) == speed.Line(0.0, 1.5)


def test_a_measurement_that_fails_leaves_a_plan_without_times(
    measurements: list[list[Run]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "measured", lambda runs: "its process ended with status -9")
    said = shown([job(tmp_path)])
    assert "1 to run of 64,000 steps each, 1 at a time: how long is not known, as nothing has run here yet" in said
    assert "This machine's speed was not measured: its process ended with status -9" in said


def test_a_process_that_dies_while_it_measures_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (short,) = speed.proxies(job(tmp_path, "data=digits").run)
    unknown = short.but(data=short.data.but(name="no_such_data"))
    assert speed.measured([unknown]) == "No module named 'resnet_repro.data.no_such_data'"
    monkeypatch.setattr(speed, "MOST_S", 0)
    assert speed.measured([short]) == "it took more than 0 s"


@pytest.mark.slow
def test_a_command_measures_once_and_says_so(tmp_path: Path) -> None:
    options = ("plan=true", "data=digits", "depth=8")
    variables = {speed.SWITCH: "1"}
    process = start("train.py", *options, home=tmp_path, variables=variables)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0, said
    assert said.startswith("Measuring this machine's speed for a few seconds, once ...\n")
    assert "1 at a time: about " in said
    assert "(by a short measurement: nothing has run here yet)" in said
    status, again = run("train.py", *options, home=tmp_path)
    assert (status, again) == (0, said.split("\n", 1)[1])
