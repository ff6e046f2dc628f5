"""Commands as a person types them, and the one line about each mistake."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from resnet_repro.cli import errors_for_people
from tests.helpers.commands import ROOT, environment, imported_modules, run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["depth=21"], "depth=21 is not 6n+2 (basic units); nearest are 20 and 26"),
        (["-m", "depth=20,57"], "depth=57 is not 6n+2 (basic units); nearest are 56 and 62"),
        (["dpeth=20"], "dpeth is not an option; did you mean depth?"),
        (["schedule.stepz=3"], "schedule.stepz is not an option; did you mean schedule.steps?"),
        (["+trainer.max_epochs=3"], "trainer.max_epochs is not an option; max_epochs is schedule.steps here, a number"),
        (["trainer=gpu"], "trainer is not an option; trainer is hardware here"),
        (["data=digits", "data.batch_size=16"], "data.batch_size is not an option; batch_size is schedule.batch_size"),
        (
            ["data=digits", "+data.crop=28"],
            "data.crop is not an option here; data=imagenet | imagenet_streaming has it",
        ),
        (["data=digits", "data=null"], "data=null chooses nothing; use one of cifar10, cifar100, digits"),
        (["data=digits", "schedule.lr=${foo}"], "schedule.lr cannot be resolved (Interpolation key 'foo' not found)"),
        (["data=digits", "+data.flip=true"], "+data.flip adds an option that exists already; write data.flip=VALUE"),
        (["foo=1,2"], "foo is not an option; python train.py --help shows the usual ones"),
        (["arch=resnet_v3"], "use one of plain, resnet_v1, resnet_v2, timm, torchvision; did you mean resnet_v"),
        (["arch=torchvision"], "arch=torchvision needs arch.name=..., one of alexnet, squeezenet1_1, vgg16, googlenet"),
        (["arch=plain,timm", "data=digits"], "arch=timm needs arch.name=..., any of timm.list_models(), for example"),
        (["arch.name=alexnet"], "arch.name=alexnet needs arch=torchvision or arch=timm, whose networks have names"),
        (
            ["arch=torchvision", "arch.name=alexnet", "arch.order=original"],
            "arch.order is not an option here; arch=plain | resnet_v1 | resnet_v2 has it",
        ),
        (
            ["data=digits", "data.root=x"],
            "data.root is not an option here; data=cifar10 | cifar100 | imagenet | imagenet_streaming has it",
        ),
        (
            ["data=cifar"],
            "use one of cifar10, cifar100, digits, imagenet, imagenet_streaming; did you mean cifar10?",
        ),
        (["experiment=v1_tabel6"], "v2_table4, v2_table5; did you mean v1_table6?"),
        (
            ["experiment=v1_table5"],
            "v1 Table 5 cannot be run: an ensemble of six networks, on labels that are not public",
        ),
        (["experiment=v1_table2"], "data.root=data/imagenet is no folder: give a folder with train/CLASS/"),
        (["experiment=v1_fig1", "experiment.seeds=3"], "experiment.seeds=3 is not a list of seeds, [0,1,2,3,4]"),
        (["experiment=v1_fig1", "experiment.seeds=[-1]"], "seed=-1 is not a whole number from 0 on"),
        (
            ["experiment=v1_fig1", "experiment.source=v9"],
            "experiment.source is not an option; source is arch.source",
        ),
        (
            ["protocol=papr_v1"],
            "protocol=papr_v1 is not known; use one of fb_resnet, modern, official_lua, paper, paper_v1, paper_v2",
        ),
        (["--depth", "20"], "--depth: options are written without dashes, depth=VALUE"),
        (["--depth=20"], "--depth=20: options are written without dashes, depth=VALUE"),
        (["depth"], "cannot read the option 'depth'; options are written depth=20 or depth=20,56"),
        (["data.download=false"], "no cifar10 in data"),
        (["data.root=nowhere", "data.download=false"], "pass data.root=FOLDER that has it, or data.download=true"),
        (["schedule.steps=1e3"], "schedule.steps=1000.0 is not a whole number of steps, at least 1"),
        (["data=digits", "outputs=/dev/null/x"], "/dev/null/x"),
        (
            ["hardware=slurm"],
            "hardware=slurm is not known; use one of auto, cpu, ddp_2cpu, ddp_2gpu, ddp_8gpu, gpu",
        ),
        (
            ["data=digits", "hardware=slurm_1gpu,slurm_8gpu"],
            "share their hardware: give hardware one value",
        ),
        (["data=digits", "hardware=cpu,slurm_8gpu"], "share their hardware: give hardware one value"),
        (["data=digits", "hardware=slurm_8gpu", "hardware.devices=4,8"], "give hardware one value"),
    ],
)
def test_a_mistake_is_one_line_before_torch_is_imported(options: list[str], message: str, tmp_path: Path) -> None:
    status, said, modules = imported_modules(*options, home=tmp_path)
    assert status == 2
    assert said.strip().startswith("error: ")
    assert message in said
    assert said.strip().count("\n") == 0
    assert "torch" not in modules
    assert "resnet_repro.cli" in modules  # proves that the list of modules was read


def test_a_refused_option_leaves_no_folder_behind(tmp_path: Path) -> None:
    status, said = run("train.py", "depth=21", home=tmp_path)
    assert (status, said) == (2, "error: depth=21 is not 6n+2 (basic units); nearest are 20 and 26\n")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("report.py", "+foo=1"), "foo is not an option; python report.py --help shows the usual ones"),
        (("report.py", "wandb=maybe"), "wandb=maybe is not one of true, false"),
        (("evaluate.py", "run=x", "+hardware.foo=1"), "hardware.foo is not an option; python evaluate.py --help shows"),
        (("evaluate.py", "run=x", "data.root=5"), "data.root=5 is not a folder"),
    ],
)
def test_the_other_commands_take_no_unknown_option_either(
    command: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    status, said = run(*command, home=tmp_path)
    assert (status, said.strip().count("\n")) == (2, 0)
    assert message in said


@pytest.mark.parametrize("command", ["train.py", "report.py", "evaluate.py"])
def test_a_python_without_the_requirements_is_told_how_to_get_them(command: str, tmp_path: Path) -> None:
    """`-S` leaves out all that was installed, as outside the environment."""
    python = [sys.executable, "-S", str(ROOT / command), "depth=20"]
    env = environment(tmp_path)
    result = subprocess.run(python, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"needs Python 3.11 to 3.13 with its requirements, and {sys.executable} is Python 3." in result.stderr
    assert result.stderr.endswith("type `make install` and then `source .venv/bin/activate`\n")
    assert result.stderr.count("\n") == 1


def test_an_older_python_is_told_in_one_line(tmp_path: Path) -> None:
    pretended = "import sys; sys.version_info = (3, 9, 1); import resnet_repro"
    result = subprocess.run([sys.executable, "-c", pretended], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert f"needs Python 3.11 to 3.13 with its requirements, and {sys.executable} is Python 3.9" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU here")
def test_a_missing_gpu_is_reported_in_one_line(tmp_path: Path) -> None:
    status, said, modules = imported_modules("data=digits", "hardware=gpu", home=tmp_path)
    assert (status, said.strip().count("\n")) == (2, 0)
    assert "hardware=gpu needs a CUDA device and none is visible; use hardware=cpu" in said
    assert "torch" not in modules


def test_without_slurm_its_hardware_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, said, modules = imported_modules("data=digits", "hardware=slurm_1gpu", home=tmp_path)
    assert (status, said.strip().count("\n")) == (2, 0)
    assert "hardware=slurm_... needs SLURM's sbatch and there is none" in said
    assert "torch" not in modules
    assert not (tmp_path / "outputs" / "digits").exists()


@pytest.mark.parametrize(
    ("hardware", "nodes", "tasks_per_node", "gpus_per_node"),
    [
        ("slurm_1gpu", 1, 1, 1),
        ("slurm_8gpu", 1, 8, 8),
        ("slurm_2x8gpu", 2, 8, 8),
        ("slurm_ddp_2cpu", 1, 2, None),
    ],
)
def test_slurm_is_asked_for_a_task_and_a_gpu_for_each_device(
    hardware: str, nodes: int, tasks_per_node: int, gpus_per_node: int | None, tmp_path: Path
) -> None:
    options = (f"hardware={hardware}", "hydra.launcher.partition=fast", "--cfg", "all", "--resolve")
    status, said = run("train.py", *options, home=tmp_path)
    assert status == 0, said
    config = yaml.safe_load(said)
    launcher = config["hydra"]["launcher"]
    asked = [launcher[key] for key in ("nodes", "tasks_per_node", "gpus_per_node", "partition")]
    assert asked == [nodes, tasks_per_node, gpus_per_node, "fast"]
    assert (config["hardware"]["num_nodes"], config["hardware"]["devices"]) == (nodes, tasks_per_node)


def test_an_incomplete_cifar10_is_named(part_of_cifar10: Path, tmp_path: Path) -> None:
    status, said = run("train.py", f"data.root={part_of_cifar10}", home=tmp_path)
    assert status == 2
    assert "has every training file and no test_batch.bin: pass data.val_size=5000" in said


def test_a_ctrl_c_that_a_library_turned_into_an_error_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # and put back afterwards: errors_for_people sets it

    def read_a_file_as_hydra_does() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise NameError("file")

    with pytest.raises(SystemExit, match="130"), errors_for_people():
        read_a_file_as_hydra_does()


def test_help_shows_options_and_examples_without_torch(tmp_path: Path) -> None:
    status, said, modules = imported_modules("--help", home=tmp_path)
    assert status == 0
    assert "python train.py -m depth=20,56,110 arch=plain,resnet_v2" in said
    for option in ("depth=", "arch=", "data=", "seed=", "hardware=", "logger=", "jobs=", "schedule.steps="):
        assert option in said
    assert "torch" not in modules


def test_the_whole_config_is_shown_on_request(tmp_path: Path) -> None:
    for script in ("train.py", "report.py"):
        status, said = run(script, "--cfg", "job", home=tmp_path)
        assert status == 0
        assert "outputs: outputs" in said
        assert "Traceback" not in said


@pytest.mark.slow
def test_a_terminal_shows_errors_and_speed_until_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "data=digits", "depth=56", "logger=csv"]
    on_a_terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    process = subprocess.Popen(
        [sys.executable, "-c", on_a_terminal, *command],
        cwd=tmp_path,
        env=environment(tmp_path) | {"TERM": "xterm-256color", "COLUMNS": "160"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    shown, pressed = b"", False
    while chunk := os.read(process.stdout.fileno(), 4096):
        shown += chunk
        if not pressed and re.search(rb"train \d+\.\d+ %.*images/s", shown):
            process.stdin.write(b"\x03")
            process.stdin.flush()
            pressed = True
    text = shown.decode(errors="replace")
    assert process.wait(timeout=60) == 130, text
    assert "━" in text
    assert "/275" in text
    assert "To go on, run the same command again." in text
    assert list(tmp_path.glob("outputs/digits/*/checkpoints/*.ckpt"))


def test_the_report_without_runs_says_which_command_makes_some(tmp_path: Path) -> None:
    status, said = run("report.py", home=tmp_path)
    assert status == 2
    assert said.startswith("error: outputs holds no finished run")
    assert said.count("\n") == 1
