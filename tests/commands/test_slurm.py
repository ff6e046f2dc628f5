"""`hardware=slurm_...` on a real SLURM: one node, started for these tests and ended after them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resnet_repro.launch.exit_status import STOPPED
from resnet_repro.runs.folder import RunDir, read_json
from tests.helpers.commands import ROOT, environment, manifests, run, start

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
SCRIPTS = Path(__file__).parent / "slurm"
SWEEP = ("-m", "depth=8,14", "arch=plain", "data=digits", "schedule.steps=600", "logger=csv")
SLURM = ("hardware=slurm_ddp_2cpu", "hydra.launcher.timeout_min=30")
NAMES = {depth: f"plain-{depth}-s0__steps=600__devices=2" for depth in (8, 14)}


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run a SLURM of one node with four CPUs for these tests."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("a SLURM is started as root on Debian or Ubuntu")
    folder = tmp_path_factory.mktemp("slurm")
    try:
        subprocess.run([SCRIPTS / "up.sh", folder], check=True)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield
    finally:
        os.environ.pop("SLURM_CONF", None)
        subprocess.run([SCRIPTS / "down.sh", folder], check=True)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return outputs/ of the same sweep without SLURM."""
    home = tmp_path_factory.mktemp("local")
    status, output = run("train.py", *SWEEP, "hardware=ddp_2cpu", home=home)
    assert status == 0, output
    return home / "outputs"


def assert_same_bits(outputs: Path, expected: Path, name: str) -> None:
    ours, theirs = (manifests(folder)[name]["weights_sha256"] for folder in (outputs, expected))
    assert ours == theirs
    csv = f"digits/{name}/metrics.csv"
    assert (outputs / csv).read_bytes() == (expected / csv).read_bytes()


def wait_until(holds: Callable[[], bool], *, what: str) -> None:
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited two minutes for: {what}")


def has_come_to(run_dir: RunDir, step: int) -> Callable[[], bool]:
    return lambda: run_dir.read_status().get("step", 0) >= step


def slurm_job(run_dir: RunDir) -> str:
    return str(read_json(run_dir.slurm)["job"])


def test_requeued_runs_equal_those_of_a_local_sweep_bitwise(tmp_path: Path, local: Path) -> None:
    runs = {depth: RunDir(tmp_path / "outputs/digits" / name) for depth, name in NAMES.items()}
    said = tmp_path / "said.txt"
    with said.open("w") as file:
        process = start("train.py", *SWEEP, *SLURM, home=tmp_path, stdout=file)
        wait_until(lambda: said.read_text().count(": started") == 2, what="the word that both have started")
        # submitit's signals for a preemption and for the end of an allocation, and SLURM's own requeue
        for depth, command in ((14, ["scancel", "--signal=USR2"]), (8, ["scontrol", "requeue"])):
            wait_until(has_come_to(runs[depth], 20), what=f"step 20 of depth={depth}")
            subprocess.run([*command, slurm_job(runs[depth])], check=True)
        wait_until(lambda: said.read_text().count("in the queue again") == 2, what="the word that both are requeued")
        for one in runs.values():  # else SLURM lets a requeued job wait for two minutes
            subprocess.run(["scontrol", "update", f"JobId={slurm_job(one)}", "StartTime=now"], check=True)
        status = process.wait(timeout=240)
    assert status == 0, said.read_text()
    for depth, one in runs.items():
        begun = [line for line in one.log.read_text().splitlines() if " of 600, {" in line]
        assert len(begun) == 2
        assert begun[0].startswith(f"{NAMES[depth]}: step 0 of 600")
        assert not begun[1].startswith(f"{NAMES[depth]}: step 0 of 600")
        assert_same_bits(tmp_path / "outputs", local, NAMES[depth])


def test_a_failed_run_shows_its_reason_and_leaves_the_others(tmp_path: Path) -> None:
    obstacle = tmp_path / "outputs/digits" / NAMES[14] / "metrics.csv"
    obstacle.mkdir(parents=True)  # a folder in place of a file
    status, output = run("train.py", *SWEEP, *SLURM, home=tmp_path)
    assert status == 1
    assert f"✗ {NAMES[14]}: rank 0: IsADirectoryError" in output
    assert manifests(tmp_path / "outputs").keys() == {NAMES[8]}


def test_after_ctrl_c_runs_continue_and_the_command_shows_them(tmp_path: Path, local: Path) -> None:
    one = RunDir(tmp_path / "outputs/digits" / NAMES[14])
    command = ("depth=14", *SWEEP[2:], *SLURM)
    process = start("train.py", *command, home=tmp_path)
    wait_until(has_come_to(one, 5), what="step 5")
    number = slurm_job(one)
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == STOPPED
    assert f"The runs go on in SLURM. The same command shows them again, `scancel {number}` stops them." in output
    status, output = run("train.py", *command, "resume=false", home=tmp_path)
    assert status == 2
    assert f"is SLURM's job {number}; resume=false would take it away" in output
    status, output = run("train.py", *command, home=tmp_path)
    assert status == 0, output
    assert f"In SLURM's queue already, and not submitted again: job {number}" in output
    assert slurm_job(one) == number
    assert_same_bits(tmp_path / "outputs", local, NAMES[14])


def test_ranks_that_srun_has_started_train_one_run_together(tmp_path: Path, local: Path) -> None:
    train = (sys.executable, ROOT / "train.py", "depth=8", *SWEEP[2:], "hardware=ddp_2cpu")
    command = ["srun", "--ntasks-per-node=2", *train]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert_same_bits(tmp_path / "outputs", local, NAMES[8])


def test_a_request_the_cluster_cannot_meet_is_one_line(tmp_path: Path) -> None:
    status, output = run("train.py", "data=digits", "hardware=slurm_2x8gpu", "logger=csv", home=tmp_path)
    assert status == 2
    assert output.splitlines()[-1].startswith("error: SLURM refuses the jobs: sbatch: error: ")
    assert "Traceback" not in output
