"""A sweep stopped by Ctrl-C once or twice, or by a killed process: what it saves and how it continues."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from resnet_repro.errors import Stopped
from resnet_repro.launch.exit_status import STOPPED
from resnet_repro.machine import STOP_SIGNALS
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.training.run import run as train
from tests.helpers.commands import ROOT, assert_gone, descendants, manifests, run, start, wait_for_step
from tests.helpers.runs import interrupt_at, prepared

LONG = ("-m", "seed=0,1,2", "depth=14", "arch=plain", "data=digits", "schedule.steps=150", "logger=csv", "jobs=2")

CTRL_C_IN_AN_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(name, path, target=None):
        if name == "resnet_repro.runs.rules":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
"""
"""A module that Python imports when it starts: it sends a Ctrl-C while the package is being imported."""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL])
def test_a_stopped_sweep_saves_its_runs_and_resumes_exactly(how: signal.Signals, tmp_path: Path) -> None:
    process = start("train.py", *LONG, home=tmp_path)
    wait_for_step(tmp_path / "outputs", 20, num_runs=2)
    children = descendants(process)
    os.kill(process.pid, how)
    output, _ = process.communicate(timeout=60)
    assert_gone(children)
    checkpoints = list(tmp_path.glob("outputs/*/*/checkpoints/*.ckpt"))
    assert len(checkpoints) == 2
    assert not manifests(tmp_path / "outputs")
    if how != signal.SIGKILL:
        assert process.returncode == STOPPED
        assert output.count("stopped at step") == 2
        assert "To go on, run the same command again." in output
    if how == signal.SIGINT:  # once is enough for the rest, which takes longer
        status, output = run("train.py", *LONG, home=tmp_path)
        assert status == 0, output
        assert output.startswith("3 jobs; 2 begun; 3 to run")
        undisturbed = prepared(tmp_path / "undisturbed", "seed=1", "depth=14", "arch=plain", "schedule.steps=150")
        job = read_json(RunDir(undisturbed).job)
        for key in ("log_every", "eval_every"):  # as `LONG` has them
            job["config"]["schedule"][key] = 11
        RunDir(undisturbed).job.write_text(json.dumps(job))
        expected = train(undisturbed)
        assert manifests(tmp_path / "outputs")["plain-14-s1__steps=150"]["weights_sha256"] == expected["weights_sha256"]


@pytest.mark.parametrize("seconds", [1.0, pytest.param(3.0, marks=pytest.mark.slow)])
def test_ctrl_c_while_the_first_job_starts_ends_all_quietly(seconds: float, tmp_path: Path) -> None:
    process = start("train.py", *LONG, home=tmp_path)
    time.sleep(seconds)
    children = descendants(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == STOPPED, output
    assert "Traceback" not in output
    assert not manifests(tmp_path / "outputs")
    assert_gone(children)


@pytest.mark.parametrize("script", ["train.py", "evaluate.py", "report.py", "src/resnet_repro/__main__.py"])
def test_ctrl_c_while_a_command_is_imported_ends_it_quietly(script: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CTRL_C_IN_AN_IMPORT)
    status, output = run(script, home=tmp_path, variables={"PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}"})
    assert (status, output) == (STOPPED, "")


@pytest.mark.slow
def test_the_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    process = start("train.py", "depth=56", "data=digits", "logger=csv", home=tmp_path)
    wait_for_step(tmp_path / "outputs", 0, num_runs=1)
    children = descendants(process)
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.01)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == STOPPED
    assert "Stopped. To go on, run the same command again." in output
    assert "out of memory" not in output
    assert_gone(children)


@pytest.mark.slow
def test_a_killed_job_is_reported_and_the_others_continue(tmp_path: Path) -> None:
    process = start("train.py", *LONG, home=tmp_path)
    wait_for_step(tmp_path / "outputs", 5, num_runs=2)
    logs = {str(path): path for path in tmp_path.glob("outputs/digits/plain-14-s0*/train.log")}
    (worker,) = (p for p in descendants(process) if any(f.path in logs for f in p.open_files()))
    worker.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "✗ plain-14-s0__steps=150: killed by SIGKILL (out of memory?)" in output
    assert manifests(tmp_path / "outputs").keys() == {"plain-14-s1__steps=150", "plain-14-s2__steps=150"}


# --- signals of schedulers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", STOP_SIGNALS, ids=lambda signum: signum.name)
def test_every_signal_of_a_scheduler_saves_a_run_and_ends_it(
    signum: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = prepared(tmp_path)
    interrupt_at(5, monkeypatch, by=signum)
    with pytest.raises(Stopped, match="stopped at step 5"):
        train(path)
    assert [file.name for file in RunDir(path).checkpoint_files()] == ["step-00000005.ckpt"]


def test_a_handler_that_submitit_needs_stays_where_it_is(tmp_path: Path) -> None:
    got = []
    signal.signal(signal.SIGUSR2, lambda signum, frame: got.append(signum))
    train(prepared(tmp_path))
    os.kill(os.getpid(), signal.SIGUSR2)
    assert got == [signal.SIGUSR2]


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM], ids=lambda signum: signum.name)
def test_a_run_that_torchrun_has_started_saves_and_ends(signum: signal.Signals, tmp_path: Path) -> None:
    rank = {"TORCHELASTIC_RUN_ID": "test", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    options = ("depth=8", "data=digits", "schedule.steps=20000", "logger=csv", "hardware.fused=false")
    process = start("train.py", *options, home=tmp_path, variables=rank)
    wait_for_step(tmp_path / "outputs", 5, num_runs=1)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == STOPPED
    assert "stopped: stopped at step" in output
    assert len(list(tmp_path.glob("outputs/digits/*/checkpoints/*.ckpt"))) == 1


def test_a_schedulers_second_signal_does_not_end_a_run_at_once(tmp_path: Path) -> None:
    options = ("depth=20", "data=digits", "schedule.steps=20000", "logger=csv", "hardware.fused=false")
    process = start("train.py", *options, home=tmp_path)
    wait_for_step(tmp_path / "outputs", 5, num_runs=1)
    for signum in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        os.killpg(process.pid, signum)  # as SLURM does, to every process of the job
        time.sleep(0.01)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == STOPPED
    assert output.count("stopped at step") == 1
    assert "resource_tracker" not in output
