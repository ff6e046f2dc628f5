"""A sweep that is stopped: Ctrl-C once and twice, a killed process; what it saves and how it goes on."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from resnet_repro.rundir import RunDir, read_json
from resnet_repro.worker import STOPPED
from tests.commands import assert_gone, descendants, manifests, run, start, wait_for_step
from tests.runs import prepared

LONG = ("-m", "seed=0,1,2", "depth=14", "arch=plain", "data=digits", "schedule.steps=150", "logger=csv", "jobs=2")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_stopped_saves_its_runs_leaves_no_process_and_goes_on_exactly(
    how: signal.Signals, tmp_path: Path
) -> None:
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
        from resnet_repro.run import run as train

        expected = train(undisturbed)
        assert manifests(tmp_path / "outputs")["plain-14-s1__steps=150"]["weights_sha256"] == expected["weights_sha256"]


@pytest.mark.parametrize("seconds", [1.0, 3.0])
def test_ctrl_c_while_the_first_job_starts_ends_everything_quietly(seconds: float, tmp_path: Path) -> None:
    process = start("train.py", *LONG, home=tmp_path)
    time.sleep(seconds)
    children = descendants(process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == STOPPED, output
    assert "Traceback" not in output
    assert not manifests(tmp_path / "outputs")
    assert_gone(children)


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
def test_a_job_whose_process_is_killed_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    process = start("train.py", *LONG, home=tmp_path)
    wait_for_step(tmp_path / "outputs", 5, num_runs=2)
    logs = {str(path): path for path in tmp_path.glob("outputs/digits/plain-14-s0*/train.log")}
    (worker,) = (p for p in descendants(process) if any(f.path in logs for f in p.open_files()))
    worker.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "✗ plain-14-s0__steps=150: killed by SIGKILL (out of memory?)" in output
    assert manifests(tmp_path / "outputs").keys() == {"plain-14-s1__steps=150", "plain-14-s2__steps=150"}
