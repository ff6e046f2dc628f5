"""Sweepers such as Optuna's, which choose their next jobs by the last results."""

import signal
from pathlib import Path

import pytest

from resnet_repro.launch.exit_status import STOPPED
from tests.helpers.commands import manifests, run, start, wait_for_step

SMALL = ("data=digits", "arch=plain", "depth=8", "schedule.steps=3", "logger=csv", "hardware.fused=false")
NAME = "plain-8-s{seed}__steps=3__fused=False"

SWEEPER = '''
"""A sweeper of three jobs; each seed follows from the last job's error."""

from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobStatus
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class Chain(Sweeper):
    def __init__(self, reads_failures):
        self.reads_failures = reads_failures

    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        seed = 0
        for number in range(3):
            (job,) = self.launcher.launch([[*arguments, f"seed={seed}"]], initial_job_idx=number)
            if job.status == JobStatus.FAILED and not self.reads_failures:
                print("sweeper: failed,", job._return_value)
                seed = 1_000
            else:
                print("sweeper: told", repr(job.return_value))
                seed = round(100 * job.return_value) if job.return_value else seed + 1


@dataclass
class ChainConf:
    _target_: str = "hydra_plugins.chain.Chain"
    reads_failures: bool = False


ConfigStore.instance().store(group="hydra/sweeper", name="chain", node=ChainConf)
'''


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, str]:
    """Return the environment variables by which Hydra finds this sweeper's plugin."""
    plugins = tmp_path / "site" / "hydra_plugins"
    plugins.mkdir(parents=True)
    (plugins / "chain.py").write_text(SWEEPER)
    return {"PYTHONPATH": str(plugins.parent)}


def messages(output: str) -> list[str]:
    """Return what the sweeper has printed."""
    return [line.removeprefix("sweeper: ") for line in output.splitlines() if line.startswith("sweeper: ")]


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_sweeper_chooses_each_job_by_the_error_of_the_last(split: str, chain: dict[str, str], tmp_path: Path) -> None:
    val_size = ("data.val_size=300",) if split == "val" else ()
    status, output = run("train.py", *SMALL, *val_size, "hydra/sweeper=chain", home=tmp_path, variables=chain)
    assert status == 0, output
    error_of = {
        manifest["config"]["seed"]: manifest["results"][f"{split}/error"]
        for manifest in manifests(tmp_path / "outputs").values()
    }
    seed, told = 0, []
    for _ in range(3):
        told.append(f"told {error_of.pop(seed)!r}")
        seed = round(100 * float(told[-1].removeprefix("told ")))
    assert messages(output) == told
    assert not error_of


def test_a_failed_job_tells_the_sweeper_its_reason(chain: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "outputs/digits" / NAME.format(seed=0) / "metrics.csv").mkdir(
        parents=True
    )  # a folder in place of a file
    status, output = run("train.py", *SMALL, "hydra/sweeper=chain", home=tmp_path, variables=chain)
    assert status == 1, output
    first, second, _ = messages(output)
    assert first.startswith(f"failed, {NAME.format(seed=0)}: IsADirectoryError: ")
    error = manifests(tmp_path / "outputs")[NAME.format(seed=1000)]["results"]["test/error"]
    assert second == f"told {error!r}"


def test_a_sweeper_may_end_the_command_at_a_failed_job(chain: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "outputs/digits" / NAME.format(seed=0) / "metrics.csv").mkdir(parents=True)
    options = (*SMALL, "hydra/sweeper=chain", "hydra.sweeper.reads_failures=true")
    status, output = run("train.py", *options, home=tmp_path, variables=chain)
    assert status == 1, output
    assert f"error: the sweeper has ended the sweep at a job that is not done: {NAME.format(seed=0)}: " in output
    assert "Traceback" not in output
    assert not manifests(tmp_path / "outputs")


def test_several_runs_have_no_error_for_a_sweeper(chain: dict[str, str], tmp_path: Path) -> None:
    options = ("experiment=v1_fig1", "experiment.seeds=[0]", *SMALL[:1], *SMALL[3:], "hydra/sweeper=chain")
    status, output = run("train.py", *options, home=tmp_path, variables=chain)
    assert status == 0, output
    assert messages(output) == ["told None"] * 3
    assert len(manifests(tmp_path / "outputs")) == 2 * 3


def test_a_stop_ends_another_sweeper_at_once(chain: dict[str, str], tmp_path: Path) -> None:
    options = (*SMALL, "schedule.steps=20000", "hydra/sweeper=chain")
    process = start("train.py", *options, home=tmp_path, variables=chain)
    wait_for_step(tmp_path / "outputs", 5, num_runs=1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == STOPPED, output
    assert messages(output) == []
    assert len(list(tmp_path.glob("outputs/digits/*/job.json"))) == 1


@pytest.mark.parametrize("word", ["plan=true", "summary=true", "--cfg=job"])
def test_options_that_need_all_jobs_beforehand_are_refused(word: str, chain: dict[str, str], tmp_path: Path) -> None:
    status, output = run("train.py", *SMALL, word, "hydra/sweeper=chain", home=tmp_path, variables=chain)
    assert (status, output.count("\n")) == (2, 1)
    word = word.removesuffix("=job")
    assert f"error: {word} needs to know all jobs beforehand, and hydra/sweeper=chain chooses" in output


def test_bad_input_ends_another_sweeper_too(chain: dict[str, str], tmp_path: Path) -> None:
    status, output = run("train.py", *SMALL, "depth=9", "hydra/sweeper=chain", home=tmp_path, variables=chain)
    assert (status, output.count("\n")) == (2, 1)
    assert "error: depth=9 is not 6n+2" in output
