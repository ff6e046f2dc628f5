"""The wheel in an environment of its own: its command works from an empty folder, far from any checkout."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.helpers.commands import ROOT, environment, manifests


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this checkout, built by way of a source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    build = ["uv", "build", "--quiet", "--offline", "--no-build-isolation", "--python", sys.executable, "-o", folder]
    subprocess.run([sys.executable, "-m", *build], cwd=ROOT, check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def bin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bin/ of an environment with the wheel; PyTorch and the rest are this environment's."""
    folder = tmp_path_factory.mktemp("env")
    venv.create(folder, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    # the .pth files in those folders, an editable install among them, are not read again
    (Path(paths["purelib"]) / "others.pth").write_text("\n".join(others))
    install = ["uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--python", folder / "bin/python", wheel]
    subprocess.run([sys.executable, "-m", *install], check=True)
    return folder / "bin"


def call(bin: Path, command: str, *, home: Path) -> tuple[int, str]:
    """Run a line of bash in an empty folder, with the environment's programs before all others."""
    env = {key: value for key, value in environment(home).items() if key != "PYTHONPATH"}
    env["PATH"] = f"{bin}{os.pathsep}{env['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


def test_the_wheel_holds_every_file_of_conf(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if name.startswith("resnet_repro/conf/")}
    conf = {f"resnet_repro/{file.relative_to(ROOT)}": file.read_bytes() for file in (ROOT / "conf").rglob("*.yaml")}
    assert packed == conf


def test_the_command_lists_its_commands_and_names_itself(bin: Path, tmp_path: Path) -> None:
    status, said = call(bin, "resnet-repro --help", home=tmp_path)
    commands = re.findall(r"^  (\w+) +[A-Z]", said, re.M)
    assert (status, commands) == (0, ["train", "evaluate", "report", "pack", "export", "keep"])
    status, said = call(bin, "resnet-repro test", home=tmp_path)
    assert (status, said) == (1, f"error: test is no command; use resnet-repro {' | '.join(commands)}\n")
    status, said = call(bin, "python -m resnet_repro report", home=tmp_path)
    assert status == 2
    assert said.startswith("error: outputs holds no finished run for a report: run `resnet-repro train -m depth=20,56")


@pytest.mark.slow
def test_an_installed_package_trains_and_reports_from_an_empty_folder(bin: Path, tmp_path: Path) -> None:
    train = "resnet-repro train -m depth=20,56 arch=plain,resnet_v2 data=digits schedule.steps=22"
    status, said = call(bin, f"{train} && resnet-repro report", home=tmp_path)
    assert status == 0, said
    runs = manifests(tmp_path / "outputs")
    assert len(runs) == 4
    assert {run["command"] for run in runs.values()} == {train}
    page = (tmp_path / "outputs/report/index.html").read_text(encoding="utf-8")
    assert "resnet-repro train experiment=v2_table1 data=digits" in page
    assert "train.py" not in page


def test_ones_own_configs_are_found(bin: Path, tmp_path: Path) -> None:
    (tmp_path / "mine/schedule").mkdir(parents=True)
    schedule = {"defaults": ["digits", "_self_"], "steps": 22}
    (tmp_path / "mine/schedule/short.yaml").write_text(yaml.safe_dump(schedule))
    defaults = ["config", {"override data": "digits"}, {"override schedule": "short"}, "_self_"]
    hydra = {"searchpath": [f"file://{tmp_path / 'mine'}"]}
    (tmp_path / "usual.yaml").write_text(yaml.safe_dump({"defaults": defaults, "depth": 8, "hydra": hydra}))
    for options in ("--config-dir mine schedule=short data=digits depth=8,14", "-cd . -cn usual depth=8,14"):
        status, said = call(bin, f"resnet-repro train {options} plan=true", home=tmp_path)
        assert status == 0, said
        assert re.findall(r"resnet_v1-(\d+)-s0.* (\d+) │ +│", said) == [("8", "22"), ("14", "22")]


COMPLETE = """
eval "$({program} -sc install=bash)"
COMP_LINE="{line}" COMP_POINT={point} COMP_WORDS=({line}) COMP_CWORD={last}
hydra_bash_completion
echo "${{COMPREPLY[*]}}"
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("resnet-repro e", "evaluate export"),
        ("resnet-repro train -m depth=20 arch=resnet", "arch=resnet_v1 arch=resnet_v2"),
        ("resnet-repro evaluate tes", "test="),
        ("resnet-repro keep outp", "outputs"),
        ("python train.py schedule.eval_b", "schedule.eval_batch_size="),
    ],
)
def test_bash_completes_commands_and_options(line: str, words: str, bin: Path, tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    program = "python train.py" if line.startswith("python") else "resnet-repro"
    script = COMPLETE.format(program=program, line=line, point=len(line), last=len(line.split()) - 1)
    assert call(bin, script, home=tmp_path) == (0, words + "\n")
