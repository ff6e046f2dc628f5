"""W&B gets every row of a run once, whatever happens to the run; read back from a stand-in for its server."""

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_repro.errors import Stopped
from resnet_repro.launch.checks import claim
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.job import make_job
from resnet_repro.training.run import run as train
from tests.helpers.commands import DIGITS, descendants, environment, run, start, wait_for_step
from tests.helpers.runs import composed, interrupt_at
from tests.helpers.wandb_server import StoredRun, WandbServer

SMALL = ("data=digits", "depth=8", "schedule.steps=24", "schedule.eval_every=8", "schedule.log_every=3")
LONG = ("train.py", "data=digits", "depth=8", "schedule.steps=400", "hardware.checkpoint_steps=50")


def prepared(outputs: Path) -> RunDir:
    """Return a run folder as the sweep leaves it to the job's process, with W&B offline."""
    job = make_job(composed(*SMALL, "logger.mode=offline", f"outputs={outputs}"), usual=composed("data=digits"))
    claim(job, group="test", command="python train.py")
    return RunDir(job.dir)


def wandb(*arguments: str | Path, home: Path, server: WandbServer) -> None:
    """Run W&B's own command as a logged-in user."""
    command = [Path(sys.executable).with_name("wandb"), *arguments]
    env = environment(home) | server.variables
    subprocess.run(command, cwd=home, env=env, check=True, capture_output=True)


def the_folder(home: Path) -> RunDir:
    (path,) = home.glob("outputs/digits/*/manifest.json")
    return RunDir(path.parent)


def columns(path: Path) -> dict[int, dict[str, float]]:
    """Return the values of a run's file by step."""
    with path.open() as file:
        return {
            int(row.pop("step")): {key: float(value) for key, value in row.items() if value}
            for row in csv.DictReader(file)
        }


def assert_has_every_row_once(stored: StoredRun, folder: RunDir) -> None:
    """Assert that W&B has the rows of metrics.csv, timing.csv and responses.csv, in this order and in full."""
    rows = columns(folder.metrics)
    logged = [row for row in stored.history if "responses/layer" not in row]
    assert [row["_step"] for row in logged] == list(rows)
    assert [row["trainer/global_step"] for row in logged] == list(rows)
    for row in logged:
        assert rows[row["_step"]].items() <= row.items()
    rates = {step: row["time/images_per_s"] for step, row in columns(folder.timing).items()}
    assert {row["_step"]: row["time/images_per_s"] for row in logged if "time/images_per_s" in row} == rates
    with folder.responses.open() as file:
        responses = [(int(row["layer"]), float(row["std"])) for row in csv.DictReader(file)]
    assert [(r["responses/layer"], r["responses/std"]) for r in stored.history[len(logged) :]] == responses


@pytest.mark.slow
def test_an_online_run_logs_every_row_once_and_its_identity(
    wandb_server: Callable[..., WandbServer], tmp_path: Path
) -> None:
    server = wandb_server()
    status, output = run("train.py", "depth=8", "arch=resnet_v2", *DIGITS, home=tmp_path, variables=server.variables)
    assert status == 0, output
    assert f"W&B: {server.url}/somebody/resnet_repro" in output
    (stored,) = server.runs.values()
    assert_has_every_row_once(stored, the_folder(tmp_path))
    assert stored.config["network"]["value"] == "resnet_v2-8"
    assert stored.config["architecture"]["value"] == "resnet_v2"
    assert stored.summary["images_per_s"] > 0
    assert server.unknown == []


def stopped_at_step_10(home: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    folder = prepared(home / "outputs")
    with monkeypatch.context() as patch:
        interrupt_at(10, patch)
        with pytest.raises(Stopped, match="stopped at step 10"):
            train(folder.path)
    return folder


@pytest.mark.slow
def test_a_run_stopped_offline_uploads_every_row_once(
    wandb_server: Callable[..., WandbServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, folder = wandb_server(), stopped_at_step_10(tmp_path, monkeypatch)
    train(folder.path)
    (offline,) = (tmp_path / "outputs" / "wandb").glob("offline-run-*")
    wandb("sync", offline, home=tmp_path, server=server)
    (stored,) = server.runs.values()
    assert_has_every_row_once(stored, folder)


@pytest.mark.slow
def test_a_stopped_and_uploaded_run_continues_offline(
    wandb_server: Callable[..., WandbServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server, folder = wandb_server(), stopped_at_step_10(tmp_path, monkeypatch)
    offline = tmp_path / "outputs" / "wandb"
    wandb("sync", *offline.glob("offline-run-*"), home=tmp_path, server=server)
    train(folder.path)
    assert len(list(offline.glob("offline-run-*"))) == 2
    wandb("sync", *offline.glob("offline-run-*"), home=tmp_path, server=server)
    (stored,) = server.runs.values()
    assert_has_every_row_once(stored, folder)


def interrupted(home: Path, variables: dict[str, str], *, by: signal.Signals) -> RunDir:
    """Return a run that was killed, or stopped with SIGINT, some 20 steps after its checkpoint."""
    process = start(*LONG, home=home, variables=variables)
    wait_for_step(home / "outputs", 120, num_runs=1)
    (status_file,) = home.glob("outputs/digits/*/status.json")
    if by == signal.SIGKILL:
        leaders = (child for child in descendants(process) if child.pid == os.getpgid(child.pid))
        (work,) = (child for child in leaders if child.name().startswith("python"))  # not W&B's own process
        work.kill()
    else:
        process.send_signal(by)
    output, _ = process.communicate(timeout=60)
    assert ("killed by SIGKILL" if by == signal.SIGKILL else "stopped at step") in output
    return RunDir(status_file.parent)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "by", "second"),
    [
        ("online", signal.SIGKILL, "online"),
        ("offline", signal.SIGKILL, "offline"),
        ("offline", signal.SIGKILL, "online"),
        ("online", signal.SIGINT, "offline"),
    ],
)
def test_an_interrupted_run_has_every_row_once_on_wandb(
    first: str, by: signal.Signals, second: str, wandb_server: Callable[..., WandbServer], tmp_path: Path
) -> None:
    server = wandb_server()
    variables = {"online": server.variables, "offline": {}}
    folder = interrupted(tmp_path, variables[first], by=by)
    status, output = run(*LONG, home=tmp_path, variables=variables[second])
    assert status == 0, output
    assert "started again from step" in output
    offline = list((tmp_path / "outputs" / "wandb").glob("offline-run-*"))
    assert len(offline) == (second == "offline")
    if offline:
        wandb("sync", *offline, home=tmp_path, server=server)
    (stored,) = server.runs.values()
    assert_has_every_row_once(stored, folder)


@pytest.mark.slow
def test_a_run_killed_online_and_continued_offline_loses_no_row(
    wandb_server: Callable[..., WandbServer], tmp_path: Path
) -> None:
    server = wandb_server()
    folder = interrupted(tmp_path, server.variables, by=signal.SIGKILL)  # how much W&B had got by then is unknown
    status, output = run(*LONG, home=tmp_path)
    assert status == 0, output
    wandb("sync", *(tmp_path / "outputs" / "wandb").glob("offline-run-*"), home=tmp_path, server=server)
    (stored,) = server.runs.values()
    rows = columns(folder.metrics)
    logged = {row["trainer/global_step"]: row for row in stored.history if "responses/layer" not in row}
    assert logged.keys() == rows.keys()
    assert all(rows[step].items() <= logged[step].items() for step in rows)
