"""`python -m resnet_repro export`: finished runs' networks for others."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from resnet_repro import cli
from resnet_repro.errors import UserError
from resnet_repro.launch.checks import claim
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import make_job
from resnet_repro.runs.options import Run
from resnet_repro.training.run import run
from resnet_repro.weights import load
from resnet_repro.weights.export import export
from tests.helpers.commands import environment
from tests.helpers.commands import run as command
from tests.helpers.photo_files import make_tree
from tests.helpers.runs import composed, network_of

RUN = "outputs/digits/resnet_v2-8-s0__steps=2"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run on digits, and what the command exports of it to mine/."""
    home = tmp_path_factory.mktemp("home")
    options = ("data=digits", "arch=resnet_v2", "depth=8", "schedule.steps=2", "logger=csv")
    status, output = command("train.py", *options, home=home)
    assert status == 0, output
    asked = [sys.executable, "-m", "resnet_repro", "export", f"run={RUN}", "to=ours", "out=mine"]
    done = subprocess.run(asked, cwd=home, env=environment(home), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "mine/model.safetensors\n"), done.stderr
    return home


SMALL = ("data=imagenet", "data.crop=32", "schedule.steps=2", "schedule.batch_size=8", "schedule.eval_batch_size=50")


def trained_on_photos(outputs: Path, *options: str) -> RunDir:
    """A finished run on a tree of photographs."""
    root = make_tree(outputs / "photos", num=11)
    config = composed(*SMALL, "logger=csv", f"data.root={root}", f"outputs={outputs}", *options)
    job = make_job(config, usual=composed("data=imagenet"))
    claim(job, group="test", command="python train.py")
    run(job.dir)
    return RunDir(job.dir)


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, *options: str) -> str:
    """What the command says where it refuses: one line."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["export", *options])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the command changes
    with pytest.raises(SystemExit) as end:
        cli.export()
    line = capsys.readouterr().err
    assert end.value.code == 2
    assert line.count("\n") == 1, line
    return line


def test_a_run_in_our_names_loads_again(home: Path) -> None:
    config = read_json(home / "mine" / "config.json")["config"]
    run = Run.of_record(config)
    net, same = network_of(run), network_of(run)
    load.load(net, home / "mine")
    load.load(same, home / RUN)
    trained = load.trained(RunDir(home / RUN)).state_dict()
    assert trained.keys() == net.state_dict().keys()
    for name, tensor in trained.items():
        assert torch.equal(net.state_dict()[name], tensor)
        assert torch.equal(same.state_dict()[name], tensor)


@pytest.mark.parametrize("source", ["mine", RUN, f"{RUN}/checkpoints/step-00000002.ckpt"])
def test_ours_are_refused_by_a_network_of_other_words(home: Path, source: str) -> None:
    config = read_json(home / RUN / "manifest.json")["config"]
    net = network_of(Run.of_record({**config, "arch": {**config["arch"], "mix": "half_both"}}))
    with pytest.raises(UserError, match="holds a network of mix=add and not half_both; ask for that"):
        load.load(net, home / source)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "depth"), [("resnet_v1", 18), ("resnet_v1", 50), ("resnet_v2", 50)])
def test_timm_makes_the_network_of_what_is_exported(tmp_path: Path, arch: str, depth: int) -> None:
    made = trained_on_photos(tmp_path, f"arch={arch}", f"depth={depth}", "arch.stride_on=3x3")
    path = export(made, to="timm", out=tmp_path / "theirs")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True)
    ours, back, x = load.trained(made), load.trained(made), torch.randn(4, 3, 64, 64)
    nn.init.zeros_(back.head[-1].weight)
    load.load(back, tmp_path / "theirs")
    with torch.no_grad():
        torch.testing.assert_close(back.eval()(x), ours.eval()(x))
        expected = ours.eval()(x)
        torch.testing.assert_close(theirs.eval()(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        if arch == "resnet_v1":
            theirs = torchvision.models.get_model(f"resnet{depth}", num_classes=expected.shape[1])
            theirs.load_state_dict(load_file(path))
            torch.testing.assert_close(theirs.eval()(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_the_papers_own_stride_is_not_to_be_had_there(tmp_path: Path) -> None:
    made = trained_on_photos(tmp_path, "depth=50")
    with pytest.raises(UserError, match=r"have arch\.stride_on=3x3, and this one has arch\.stride_on=first"):
        export(made, to="timm", out=tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), "give the folder of a finished run: python -m resnet_repro export run="),
        ((f"run={RUN}", "form=timm"), "give the folder of a finished run"),
        ((f"run={RUN}", "to=keras"), "to=keras is not known; use one of torchvision, timm, ours"),
        ((f"run={RUN}",), "timm's resnetv2 have family=imagenet, and this one has family=cifar"),
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
