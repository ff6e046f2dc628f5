"""Hydra's own flags and settings apply to every job of a command, or are refused in one line."""

import stat
from pathlib import Path

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from resnet_repro.conf_dir import config_dir
from tests.helpers.commands import DIGITS, imported_modules, manifests, run

SMALL = ("data=digits", "depth=8", "schedule.steps=3", "logger=csv", "hardware.fused=false")


# --- what cannot be heeded is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        ("train.py", ["hydra.mode=RUN"], "hydra.mode=RUN: leave it out"),
        ("train.py", ["hydra/launcher=submitit_local"], "hydra/launcher=submitit_local: this program has its own"),
        ("train.py", ["hydra/launcher=basic"], "leave it out: hardware=cpu or gpu runs jobs on this machine"),
        ("train.py", ["+hydra/launcher=basic"], "hardware=slurm_8gpu through SLURM"),
        (
            "train.py",
            ["hydra.sweeper.max_batch_size=0"],
            "max_batch_size=0 is not a number of jobs, at least 1",
        ),
        ("train.py", ["-m", "depth=20,56", "--info"], "--info shows one job and stands alone"),
        ("train.py", ["--resolve"], "--resolve flag can only be used in conjunction with --cfg"),
        ("train.py", ["--package", "arch"], "--package arch narrows what --cfg shows: give both, or none"),
        ("train.py", ["--experimental-rerun", "x.pickle"], "the same command again goes on with its runs"),
        ("train.py", ["--config-dir", "nowhere"], "--config-dir nowhere is not a folder"),
        ("train.py", ["--config-name", "nothing"], "--config-name=nothing is not known; use one of config, evaluate"),
        ("train.py", ["hydra.searchpath=[file:///nowhere]"], "path=/nowhere is not available"),
        ("train.py", ["hydra.job.env_copy=[NO_SUCH]"], "Hydra does not take these options: 'NO_SUCH'"),
        ("train.py", ["--nonsense"], "unrecognized arguments: --nonsense"),
        ("report.py", ["-m", "outputs=a,b"], "report.py does one thing per command: leave -m out"),
        ("evaluate.py", ["-m", "test=1crop,10crop"], "evaluate.py does one thing per command: leave -m out"),
    ],
)
def test_a_flag_that_cannot_be_heeded_is_refused(script: str, options: list[str], message: str, tmp_path: Path) -> None:
    status, said, modules = imported_modules(*options, home=tmp_path, script=script)
    assert status == 2
    assert said.startswith("error: ")
    assert message in said
    assert said.strip().count("\n") == 0
    assert "torch" not in modules
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("option", "quoted"),
    [
        ("outputs=/x/lr=0.1", """'outputs="/x/lr=0.1"'"""),
        ("data.root=~/data", """'data.root="~/data"'"""),
        ("outputs=/x/(old)", """'outputs="/x/(old)"'"""),
        ("outputs=/x/größe", """'outputs="/x/größe"'"""),
    ],
)
def test_a_value_that_hydra_cannot_read_is_shown_quoted(option: str, quoted: str, tmp_path: Path) -> None:
    status, said = run("train.py", option, home=tmp_path)
    assert (status, said) == (2, f"error: cannot read the option '{option}'; quote its value: {quoted}\n")


def test_a_folder_whose_name_is_a_number_is_shown_quoted(tmp_path: Path) -> None:
    status, said = run("report.py", "outputs=2024", home=tmp_path)
    assert (status, said.count("\n")) == (2, 1)
    assert """outputs=2024 is not a folder; a name that is a number is quoted, 'outputs="2024"'""" in said


# --- the config of each job -------------------------------------------------------------------------------------------


def shown(*options: str, home: Path) -> list[dict[str, object]]:
    status, said = run("train.py", *options, home=home)
    assert status == 0, said
    assert [path for path in home.iterdir() if path.name == "outputs"] == []
    return list(yaml.safe_load_all(said))


def test_the_config_of_each_job_of_a_sweep_is_shown(tmp_path: Path) -> None:
    configs = shown("-m", "depth=20,56", "--cfg", "job", "data=digits", home=tmp_path)
    assert [config["depth"] for config in configs] == [20, 56]
    assert all(config["data"] == configs[0]["data"] for config in configs)
    (launcher,) = shown("hardware=slurm_1gpu", "--cfg", "all", "--resolve", "-p", "hydra.launcher", home=tmp_path)
    assert launcher["gpus_per_node"] == 1


def test_the_configs_of_an_experiment_are_those_of_its_rows(tmp_path: Path) -> None:
    """The table itself is in none of them."""
    of_table = shown("experiment=v1_fig1", "seed=3", "--cfg", "job", home=tmp_path)
    of_sweep = shown("protocol=paper_v1", "arch=plain", "depth=20,56", "seed=3", "--cfg", "job", home=tmp_path)
    assert of_table == of_sweep
    assert [(config["depth"], config["seed"]) for config in of_table] == [(20, 3), (56, 3)]
    assert "experiment" not in of_table[0]


@pytest.mark.parametrize(
    "overrides",
    [
        ["depth=21"],
        ["experiment=v1_fig1", "seed=3"],
        ["hardware=slurm_1gpu"],
        ["hydra.job.name=mine", "~arch.stride_on"],
    ],
    ids=" ".join,
)
def test_the_config_of_a_command_is_that_of_its_only_job(overrides: list[str]) -> None:
    """The launcher rests on this, so that a refusal waits for one composition less."""
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        of_command = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
        of_job = loader.load_sweep_config(of_command, OmegaConf.to_container(of_command.hydra.overrides.task))
    assert OmegaConf.to_container(of_command) == OmegaConf.to_container(of_job)


# --- no job is dropped ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_batch_of_jobs_is_made_and_counts(tmp_path: Path) -> None:
    """The first batch fails: the exit status says so, and the second batch is made all the same."""
    (tmp_path / "outputs/digits/resnet_v1-8-s0__steps=3__fused=False/metrics.csv").mkdir(parents=True)
    options = ("-m", *SMALL, "seed=0,1", "jobs=1", "hydra.sweeper.max_batch_size=1")
    status, output = run("train.py", *options, home=tmp_path)
    assert status == 1, output
    assert [manifest["config"]["seed"] for manifest in manifests(tmp_path / "outputs").values()] == [1]


@pytest.mark.parametrize(
    ("experiments", "num_jobs"),
    [
        ("v1_table6,cifar_short", 30 + 4),
        ("cifar_short,constructed_solution,v1_fig1", 4 + 9),  # v1_fig1 is among the 9
    ],
)
def test_experiments_that_sweep_are_swept_beside_others(experiments: str, num_jobs: int, tmp_path: Path) -> None:
    status, output = run("train.py", f"experiment={experiments}", "plan=true", home=tmp_path)
    assert status == 0, output
    assert f"{num_jobs} jobs" in output
    assert "plain-56-s0__val_size=5000__steps=4000" in output
    assert ("resnet_v2-56-s0__init_from=20" in output) == ("constructed_solution" in experiments)


# --- settings that jobs heed, too -------------------------------------------------------------------------------------


@pytest.fixture
def own_group(tmp_path: Path) -> Path:
    """Return a folder with a config group of the user's own."""
    folder = tmp_path / "mycfg"
    (folder / "arch").mkdir(parents=True)
    (folder / "arch" / "mine.yaml").write_text("defaults: [resnet_v2, _self_]\nname: mine\nshortcut: B\n")
    return folder


@pytest.mark.slow
def test_a_users_config_group_and_a_variable_reach_the_jobs(own_group: Path, tmp_path: Path) -> None:
    search = f"hydra.searchpath=[file://{own_group}]"
    variable = "+hydra.job.env_set.WANDB_MODE=disabled"
    status, output = run("train.py", "-m", *SMALL[:-2], "arch=mine,plain", search, variable, home=tmp_path)
    assert status == 0, output
    made = manifests(tmp_path / "outputs")
    assert {manifest["config"]["arch"]["name"] for manifest in made.values()} == {"mine", "plain"}
    assert made["mine-8-s0__steps=3"]["config"]["arch"]["shortcut"] == "B"
    assert not (tmp_path / "outputs" / "wandb").exists()


def test_a_launcher_chosen_in_a_config_file_is_refused(own_group: Path, tmp_path: Path) -> None:
    (own_group / "arch" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [resnet_v2@arch, {override /hydra/launcher: submitit_local}]\n"
    )
    status, output = run("train.py", *SMALL, "-cd", str(own_group), "arch=mine", home=tmp_path)
    assert (status, output.count("\n")) == (2, 1)
    assert "error: hydra/launcher=submitit_local: this program has its own launcher; leave it out" in output


def test_a_folder_of_configs_given_by_a_flag_is_heeded(own_group: Path, tmp_path: Path) -> None:
    status, output = run("train.py", *SMALL, "-cd", str(own_group), "arch=mine", "plan=true", home=tmp_path)
    assert status == 0, output
    assert "mine-8-s0" in output


OWN_TABLE = """
source: v3 Table 1
what: a table of the user's own
seeds: [7]
overrides: [data=digits, protocol=paper_v2, arch=resnet_v2]
rows:
  - {printed: deep, overrides: [depth=20], error: 5.0}
  - {printed: another's, why: not ours, error: 9.0}
"""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (OWN_TABLE, "resnet_v2-20-s7"),
        (
            "paper: v1 Table 6\nseeds: [0]\n",
            "error: experiment=mine is no table of a paper: give it source, what, seeds, overrides and rows, as "
            "conf/experiment/v1_table6.yaml has them\n",
        ),
    ],
    ids=["new form", "old form"],
)
def test_a_table_of_the_users_own_runs_or_is_refused(content: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "mycfg" / "experiment").mkdir(parents=True)
    (tmp_path / "mycfg" / "experiment" / "mine.yaml").write_text(content)
    status, output = run("train.py", "experiment=mine", "-cd", str(tmp_path / "mycfg"), "plan=true", home=tmp_path)
    assert expected in output
    assert status == 2 * output.startswith("error")
    assert output.count("\n") == 1 or status == 0


# --- plans and SLURM --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("experiment=v1_table6", "hardware=gpu"),
        ("data=cifar10", "data.root=nowhere", "hardware=ddp_8gpu"),
        ("data=digits", "hardware=slurm_1gpu", "jobs=4", "outputs=elsewhere"),
        ("data=imagenet", "depth=50", "hardware=slurm_2x8gpu"),
        ("data=imagenet_streaming", "depth=50", "data.root=s3://no-such-bucket/x", "hardware=slurm_8gpu"),
    ],
)
def test_a_plan_asks_this_machine_for_nothing(options: tuple[str, ...], tmp_path: Path) -> None:
    variables = {"CUDA_VISIBLE_DEVICES": "", "AWS_EC2_METADATA_DISABLED": "true"}
    status, output = run("train.py", *options, "plan=true", home=tmp_path, variables=variables)
    assert status == 0, output
    assert "to run" in output
    assert not [path.name for path in tmp_path.iterdir() if path.name in ("outputs", "elsewhere")]


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_runs_with_any_options_are_submitted_as_one_array(tmp_path: Path) -> None:
    for name, script in (
        ("sbatch", f'cp "$1" {tmp_path}/submitted.sh; echo Submitted batch job 12'),
        ("squeue", r"printf '12_0|FAILED|None\n12_1|FAILED|None\n'"),
        ("srun", "true"),
    ):
        program(tmp_path / name, script)
    options = ("-m", *DIGITS, "depth=8,14", "jobs=4", f"outputs={tmp_path / 'shared'}", "hardware=slurm_1gpu")
    setup = "hydra.launcher.setup=[module load x]"
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    status, output = run("train.py", *options, setup, home=tmp_path, variables=variables)
    assert status == 1, output
    assert "Submitted to SLURM: jobs 12_0, 12_1" in output
    submitted = (tmp_path / "submitted.sh").read_text()
    assert "#SBATCH --array=0-1%2" in submitted
    assert f"export PYTHONPATH={Path(__file__).parents[2] / 'src'}" in submitted
    assert "module load x" in submitted


# --- home directories -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_home_directory_is_written_out_in_every_folder(tmp_path: Path) -> None:
    status, output = run("train.py", *SMALL, 'outputs="~/runs"', home=tmp_path)
    assert status == 0, output
    name = "resnet_v1-8-s0__steps=3__fused=False"
    assert manifests(tmp_path / "runs").keys() == {name}
    (tmp_path / "elsewhere").mkdir()
    for command in (
        ("report.py", 'outputs="~/runs"', 'results="~/kept"'),
        ("evaluate.py", f"run=~/runs/digits/{name}"),
    ):
        status, output = run(*command, home=tmp_path)
        assert status == 0, output
    assert (tmp_path / "runs" / "report" / "index.html").exists()
    assert (tmp_path / "runs" / "digits" / name / "evaluations.json").exists()
    assert not (tmp_path / "~").exists()


def test_a_home_directory_of_nobody_is_refused(tmp_path: Path) -> None:
    status, output = run("train.py", *SMALL, 'data.root="~no.such.person/x"', "data=cifar10", home=tmp_path)
    assert (status, output.count("\n")) == (2, 1)
    assert "data.root=~no.such.person/x: there is no such home directory" in output
