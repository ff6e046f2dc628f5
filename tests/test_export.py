"""`python -m resnet_repro.export`: finished runs' networks for others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resnet_repro import weights
from resnet_repro.errors import UserError
from resnet_repro.export import main
from resnet_repro.networks import build
from resnet_repro.rundir import RunDir, read_json
from tests.commands import environment
from tests.commands import run as command

RUN = "outputs/digits/resnet_v2-8-s0__steps=2"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run on digits, and what the command exports of it to mine/."""
    home = tmp_path_factory.mktemp("home")
    options = ("data=digits", "arch=resnet_v2", "depth=8", "schedule.steps=2", "logger=csv")
    status, output = command("train.py", *options, home=home)
    assert status == 0, output
    asked = [sys.executable, "-m", "resnet_repro.export", f"run={RUN}", "to=ours", "out=mine"]
    done = subprocess.run(asked, cwd=home, env=environment(home), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "mine/model.safetensors\n"), done.stderr
    return home


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, *options: str) -> str:
    """What the command says where it refuses: one line."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["export", *options])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the command changes
    with pytest.raises(SystemExit) as end:
        main()
    line = capsys.readouterr().err
    assert end.value.code == 2
    assert line.count("\n") == 1, line
    return line


def test_a_run_in_our_names_loads_again(home: Path) -> None:
    config = read_json(home / "mine" / "config.json")["config"]
    net, same = build(config), build(config)
    weights.load(net, home / "mine")
    weights.load(same, home / RUN)
    trained = weights.trained(RunDir(home / RUN)).state_dict()
    assert trained.keys() == net.state_dict().keys()
    for name, tensor in trained.items():
        assert torch.equal(net.state_dict()[name], tensor)
        assert torch.equal(same.state_dict()[name], tensor)


@pytest.mark.parametrize("source", ["mine", RUN, f"{RUN}/checkpoints/step-00000002.ckpt"])
def test_ours_are_refused_by_a_network_of_other_words(home: Path, source: str) -> None:
    config = read_json(home / RUN / "manifest.json")["config"]
    net = build({**config, "arch": {**config["arch"], "mix": "half_both"}})
    with pytest.raises(UserError, match="holds a network of mix=add and not half_both; ask for that"):
        weights.load(net, home / source)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "give the folder of a finished run: python -m resnet_repro.export run="),
        ((f"run={RUN}", "form=timm"), "give the folder of a finished run"),
        ((f"run={RUN}", "to=keras"), "to=keras is not known; use one of torchvision, timm, ours"),
        ((f"run={RUN}",), "timm's resnetv2 has family=imagenet, and this network family=cifar"),
        (("run=nowhere",), "nowhere holds no finished run"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, options: tuple[str, ...], told: str
) -> None:
    assert told in refusal(monkeypatch, capsys, home, *options)


def test_a_run_whose_weights_are_gone_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / RUN, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    line = refusal(monkeypatch, capsys, tmp_path, "run=run")
    assert "does not hold the weights of the finished run; make it anew with resume=false" in line
