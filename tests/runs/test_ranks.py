"""The ranks of one run: a rank that fails ends the others, and its reason is reported."""

import os
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
from pytorch_lightning.utilities import rank_zero_only

from resnet_repro.launch import rank_processes
from resnet_repro.launch.exit_status import IN_USE
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.ranks import LEFT_OVER, forget_left_over, rank_from_environment
from resnet_repro.training.run import run as train
from tests.helpers.commands import DIGITS, assert_gone, descendants, manifests, run, start, wait_for_step
from tests.helpers.ranks import FLOAT32
from tests.helpers.runs import prepared


class Ending(BaseProcess):
    """A process of multiprocessing whose exit code comes some looks later than its sentinel's signal."""

    def __init__(self, *, exitcode: int | None, looks: int = 0) -> None:
        self._ready, self._end = os.pipe()
        self._code, self._looks = exitcode, looks
        if exitcode is not None:
            os.close(self._end)

    @property
    def sentinel(self) -> int:
        return self._ready

    @property
    def exitcode(self) -> int | None:
        self._looks -= 1
        return None if self._looks >= 0 else self._code

    def kill(self) -> None:
        if self._code is None:
            self._code = -9
            os.close(self._end)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("looks", range(5))
def test_a_rank_with_a_late_exit_code_ends_the_others(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_processes, "GRACE_S", 0.1)
    processes: list[BaseProcess] = [Ending(exitcode=IN_USE, looks=looks), Ending(exitcode=None)]
    assert rank_processes._wait_for(processes) == (0, IN_USE)
    assert processes[1].exitcode == -9


@pytest.mark.timeout(20)
@pytest.mark.parametrize("looks", range(3))
def test_the_killed_rank_is_reported(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_processes, "GRACE_S", 0.1)
    processes: list[BaseProcess] = [Ending(exitcode=1), Ending(exitcode=-9)]
    assert rank_processes._wait_for(processes) == (1, -9)
    done: list[BaseProcess] = [Ending(exitcode=0, looks=looks), Ending(exitcode=0)]
    assert rank_processes._wait_for(done) == (0, 0)


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of the only running job, rank 0 first."""
    (job,) = (p for p in descendants(process) if len(p.children()) == 2 and p.children()[0].children() == [])
    return sorted(job.children(), key=lambda p: p.pid)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killing_one_rank_ends_the_job_within_seconds(victim: int, tmp_path: Path) -> None:
    options = ("depth=8", "data=digits", "schedule.steps=20000", "hardware=ddp_2cpu", "hardware.compile=false")
    process = start("train.py", *options, "logger=csv", home=tmp_path)
    wait_for_step(tmp_path / "outputs", 5, num_runs=1)
    children, ranks = descendants(process), ranks_of(process)
    killed = time.monotonic()
    ranks[victim].kill()
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - killed < 10
    assert process.returncode == 1
    assert f"rank {victim} was killed by SIGKILL (out of memory?)" in output
    assert_gone(children)


@pytest.mark.slow
def test_the_first_rank_that_fails_gives_the_reason(tmp_path: Path) -> None:
    path = prepared(tmp_path, *FLOAT32, "depth=8", "hardware.devices=2")
    code = (
        "import sys; from pathlib import Path; from resnet_repro.launch import worker\n"
        "import resnet_repro.data.in_memory as m\n"
        "original = m.InMemoryData.train_dataloader\n"
        "def train_dataloader(self):\n"
        "    if self.trainer.global_rank == 1: raise ValueError('a broken disk')\n"
        "    return original(self)\n"
        "m.InMemoryData.train_dataloader = train_dataloader\n"
        "worker.work(Path(sys.argv[1]), fork_ranks=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, path], start_new_session=False, check=False, timeout=60)
    assert result.returncode == 1
    assert RunDir(path).read_status()["reason"] == "rank 1: ValueError: a broken disk"


# --- variables that another launcher left in the shell ----------------------------------------------------------------

LEFT_IN_A_SHELL = dict.fromkeys((*LEFT_OVER, "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"), "1")


@pytest.mark.slow
def test_rank_variables_of_another_launcher_change_nothing(tmp_path: Path) -> None:
    status, output = run("train.py", "depth=8", *DIGITS, home=tmp_path, variables=LEFT_IN_A_SHELL)
    assert status == 0, output
    ((name, manifest),) = manifests(tmp_path / "outputs").items()
    rows = (tmp_path / "outputs" / "digits" / name / "metrics.csv").read_text().splitlines()
    assert rows[-1].startswith(f"{manifest['results']['step']},")
    assert len(list(tmp_path.glob("outputs/wandb/offline-run-*"))) == 1


def test_rank_variables_that_are_not_numbers_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LEFT_OVER, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.setenv(name, "")
    forget_left_over()
    assert rank_from_environment() is None
    assert not {*LEFT_OVER} & {*os.environ}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_a_sweep_ignores_the_shells_rank_variables(devices: int, tmp_path: Path) -> None:
    options = ("depth=8", *DIGITS, "logger=csv", "hardware=ddp_2cpu", f"hardware.devices={devices}")
    status, output = run("train.py", *options, home=tmp_path, variables=LEFT_IN_A_SHELL)
    assert status == 0, output
    assert len(list(tmp_path.glob("outputs/digits/*/metrics.csv"))) == 1


@pytest.mark.parametrize("variables", [{"RANK": "1", "LOCAL_RANK": "1"}, {"SLURM_PROCID": "1"}])
def test_lightning_gets_the_runs_own_rank(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as if Lightning had been imported with these variables
    path = prepared(tmp_path)
    train(path)
    assert len(RunDir(path).metrics.read_text().splitlines()) == 25
    assert rank_zero_only.rank == 0
