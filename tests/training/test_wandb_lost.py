"""W&B goes away, stops answering or dies during a run: the run keeps its numbers and ends well."""

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from resnet_repro.launch.exit_status import STOPPED
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.wandb_account import GRACE_S
from tests.helpers.commands import descendants, environment, run, start, wait_for_step
from tests.helpers.wandb_server import WandbServer

ONLINE = ("train.py", "data=digits", "depth=8", "schedule.steps=400", "logger.upload_seconds=3")


@pytest.mark.slow
def test_a_run_trains_on_without_wandb_and_says_how_to_upload(
    wandb_server: Callable[..., WandbServer], tmp_path: Path
) -> None:
    server = wandb_server()
    process = start(*ONLINE, home=tmp_path, variables=server.variables)
    wait_for_step(tmp_path / "outputs", 50, num_runs=1)
    (began,) = server.runs
    server.stop()
    wait_for_step(tmp_path / "outputs", 400, num_runs=1)
    last_step = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - last_step < 3 + GRACE_S + 10  # usually 4 s
    assert process.returncode == 0, output
    assert "✓ resnet_v1-8-s0__steps=400" in output
    assert "W&B lacks part of these runs; metrics.csv has it all. To upload the rest:\n" in output
    (command,) = (line.split() for line in output.splitlines() if line.startswith("  wandb sync "))

    again = wandb_server(port=server.port)
    wandb = str(Path(sys.executable).with_name("wandb"))
    environ = {**environment(tmp_path), **again.variables}
    subprocess.run([wandb, *command[1:]], cwd=tmp_path, env=environ, check=True, capture_output=True)
    (folder,) = (path.parent for path in tmp_path.glob("outputs/digits/*/manifest.json"))
    rows = list(csv.DictReader((folder / "metrics.csv").open()))
    uploaded = {row["trainer/global_step"] for row in again.runs[began].history if "responses/layer" not in row}
    assert uploaded == {int(row["step"]) for row in rows}
    status, output = run(*ONLINE, home=tmp_path, variables=again.variables)
    assert status == 0
    assert "wandb sync" not in output


@pytest.mark.slow
def test_a_run_whose_wandb_is_silent_stops_with_a_checkpoint(
    wandb_server: Callable[..., WandbServer], tmp_path: Path
) -> None:
    server = wandb_server()
    process = start(*ONLINE, home=tmp_path, variables=server.variables)
    wait_for_step(tmp_path / "outputs", 50, num_runs=1)
    server.http.RequestHandlerClass.do_POST = lambda self: time.sleep(3600)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == STOPPED
    assert "stopped at step" in output
    assert "To upload the rest:" in output
    assert len(list(tmp_path.glob("outputs/digits/*/checkpoints/*.ckpt"))) == 1


@pytest.mark.slow
def test_a_run_trains_on_when_wandbs_process_dies(tmp_path: Path) -> None:
    process = start(*ONLINE, home=tmp_path)  # offline: nobody is logged in
    wait_for_step(tmp_path / "outputs", 50, num_runs=1)
    cores = [child for child in descendants(process) if child.name().startswith("wandb-core")]
    assert cores
    for core in cores:
        core.kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    (folder,) = (RunDir(path.parent) for path in tmp_path.glob("outputs/digits/*/manifest.json"))
    assert "W&B has failed, the run goes on without it" in folder.log.read_text()


@pytest.mark.slow
def test_a_run_ends_well_when_wandbs_process_is_silent(tmp_path: Path) -> None:
    """Started as by torchrun: W&B's exit hook waits for that process there, while a sweep's job skips such hooks."""
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "test"}
    process = start(*ONLINE, "hardware=cpu", home=tmp_path, variables=alone)  # offline: nobody is logged in
    wait_for_step(tmp_path / "outputs", 50, num_runs=1)
    (core,) = (child for child in descendants(process) if child.name().startswith("wandb-core"))
    while not list(tmp_path.glob("outputs/digits/*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.001)
    core.suspend()
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        with suppress(psutil.NoSuchProcess):
            core.kill()
    assert process.returncode == 0, output
    assert "W&B could not be closed" in output
