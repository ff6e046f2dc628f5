"""Sweepers that choose their next jobs by the last results: Optuna's, W&B's, and one of our own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from resnet_repro.launch.exit_status import STOPPED
from tests.helpers.commands import ROOT, environment, manifests, run, start, wait_for_step
from tests.helpers.wandb_server import StoredRun, StoredSweep, WandbServer

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


@pytest.mark.parametrize("split", [pytest.param("test", marks=pytest.mark.slow), "val"])
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_sweeper_may_end_the_command_at_a_failed_job(chain: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "outputs/digits" / NAME.format(seed=0) / "metrics.csv").mkdir(parents=True)
    options = (*SMALL, "hydra/sweeper=chain", "hydra.sweeper.reads_failures=true")
    status, output = run("train.py", *options, home=tmp_path, variables=chain)
    assert status == 1, output
    assert f"error: the sweeper has ended the sweep at a job that is not done: {NAME.format(seed=0)}: " in output
    assert "Traceback" not in output
    assert not manifests(tmp_path / "outputs")


@pytest.mark.slow
def test_several_runs_have_no_error_for_a_sweeper(chain: dict[str, str], tmp_path: Path) -> None:
    options = ("experiment=v1_fig1", "experiment.seeds=[0]", *SMALL[:1], *SMALL[3:], "hydra/sweeper=chain")
    status, output = run("train.py", *options, home=tmp_path, variables=chain)
    assert status == 0, output
    assert messages(output) == ["told None"] * 3
    assert len(manifests(tmp_path / "outputs")) == 2 * 3


@pytest.mark.slow
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


# --- others' sweepers -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_optuna_finds_the_rate_with_the_lowest_error(tmp_path: Path) -> None:
    search = (
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.n_jobs=1",
        "schedule.lr=choice(0.001,0.1)",
    )
    status, output = run("train.py", *SMALL, "data.val_size=300", *search, home=tmp_path)
    assert status == 0, output
    error_of = {
        manifest["config"]["schedule"]["lr"]: manifest["results"]["val/error"]
        for manifest in manifests(tmp_path / "outputs").values()
    }
    (found,) = tmp_path.glob("outputs/.sweeps/*/optimization_results.yaml")
    best = yaml.safe_load(found.read_text())
    assert best["best_value"] == min(error_of.values())
    assert error_of[best["best_params"]["schedule.lr"]] == best["best_value"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sweep_of_wandb_chooses_by_the_validation_error(
    wandb_server: Callable[..., WandbServer], tmp_path: Path
) -> None:
    """W&B starts a run, then another whose seed follows from the error of the first, then the first one again."""
    server = wandb_server()

    def choose(runs: list[StoredRun]) -> dict[str, int] | None:
        errors = [stored.summary["val/error"] for stored in runs]
        seeds = [0, *(round(100 * error) for error in errors[:1]), 0]
        return {"seed": seeds[len(runs)], "depth": 8} if len(runs) < 3 else None

    server.sweep = StoredSweep(choose)
    options = ("data=digits", "data.val_size=300", "arch=plain", "schedule.steps=3", "logger=wandb,tensorboard")
    sweep = {
        "program": str(ROOT / "train.py"),
        "method": "bayes",
        "metric": {"name": "val/error", "goal": "minimize"},
        "parameters": {"seed": {"min": 0, "max": 10_000}, "depth": {"value": 8}},
        "command": ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}", *options],
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    env = environment(tmp_path) | server.variables
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"

    def wandb(*words: str) -> str:
        command = [sys.executable, "-m", "wandb", *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert "wandb agent" in wandb("sweep", "sweep.yaml")
    said = wandb("agent", "somebody/resnet_repro/sweep1")
    assert server.unknown == []
    assert list(server.runs) == ["trial0", "trial1", "trial2"], said
    first, second, again = server.runs.values()
    error_of = {
        manifest["config"]["seed"]: manifest["results"]["val/error"]
        for manifest in manifests(tmp_path / "outputs").values()
    }
    assert error_of == {0: first.summary["val/error"], round(100 * error_of[0]): second.summary["val/error"]}
    assert again.summary["val/error"] == first.summary["val/error"]  # the run is not trained again
    assert [row["_step"] for row in again.history] == [row["_step"] for row in first.history]
    env["WANDB_SWEEP_ID"] = "sweep1"
    status, output = run("train.py", "depth=8,14", *options[:1], home=tmp_path, variables=env)
    assert (status, output) == (
        2,
        "error: `wandb agent` takes one run from a command, and this command has 2: give every option one value\n",
    )
