"""`python -m resnet_repro export` exports finished runs' networks for other libraries."""

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
    """Return a folder with a finished run on digits, exported to mine/ by the command."""
    home = tmp_path_factory.mktemp("home")
    options = ("data=digits", "arch=resnet_v2", "depth=8", "schedule.steps=2", "logger=csv")
    status, output = command("train.py", *options, home=home)
    assert status == 0, output
    arguments = [sys.executable, "-m", "resnet_repro", "export", f"run={RUN}", "to=ours", "out=mine"]
    done = subprocess.run(arguments, cwd=home, env=environment(home), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "mine/model.safetensors\n"), done.stderr
    return home


SMALL = ("data=imagenet", "data.crop=32", "schedule.steps=2", "schedule.batch_size=8", "schedule.eval_batch_size=50")


def trained_on_photos(outputs: Path, *options: str) -> RunDir:
    """Return a finished run on a tree of photographs."""
    root = make_tree(outputs / "photos", num=11)
    config = composed(*SMALL, "logger=csv", f"data.root={root}", f"outputs={outputs}", *options)
    job = make_job(config, usual=composed("data=imagenet"))
    claim(job, group="test", command="python train.py")
    run(job.dir)
    return RunDir(job.dir)


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, *options: str) -> str:
    """Return the one line with which the command refuses."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["export", *options])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # the command changes it
    with pytest.raises(SystemExit) as end:
        cli.export()
    line = capsys.readouterr().err
    assert end.value.code == 2
    assert line.count("\n") == 1, line
    return line


def test_a_run_exported_in_our_names_loads_again(home: Path) -> None:
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
def test_a_network_of_other_words_is_refused(home: Path, source: str) -> None:
    config = read_json(home / RUN / "manifest.json")["config"]
    net = network_of(Run.of_record({**config, "arch": {**config["arch"], "mix": "half_both"}}))
    with pytest.raises(UserError, match="holds a network of mix=add and not half_both; build that network"):
        load.load(net, home / source)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "depth"), [("resnet_v1", 18), ("resnet_v1", 50), ("resnet_v2", 50)])
def test_timm_builds_the_exported_network(tmp_path: Path, arch: str, depth: int) -> None:
    run = trained_on_photos(tmp_path, f"arch={arch}", f"depth={depth}", "arch.stride_on=3x3")
    path = export(run, to="timm", out=tmp_path / "theirs")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'theirs'}", pretrained=True)
    ours, back, x = load.trained(run), load.trained(run), torch.randn(4, 3, 64, 64)
    nn.init.zeros_(back.head[-1].weight)
    load.load(back, tmp_path / "theirs")
    with torch.no_grad():
        expected = ours.eval()(x)
        torch.testing.assert_close(back.eval()(x), expected)
        torch.testing.assert_close(theirs.eval()(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        if arch == "resnet_v1":
            theirs = torchvision.models.get_model(f"resnet{depth}", num_classes=expected.shape[1])
            theirs.load_state_dict(load_file(path))
            torch.testing.assert_close(theirs.eval()(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_timm_has_no_network_with_the_papers_stride(tmp_path: Path) -> None:
    run = trained_on_photos(tmp_path, "depth=50")
    with pytest.raises(UserError, match=r"have arch\.stride_on=3x3, and this one has arch\.stride_on=first"):
        export(run, to="timm", out=tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give the folder of a finished run: python -m resnet_repro export run="),
        ((f"run={RUN}", "form=timm"), "give the folder of a finished run"),
        ((f"run={RUN}", "to=keras"), "to=keras is not known; use one of torchvision, timm, ours"),
        ((f"run={RUN}",), "timm's resnetv2 have family=imagenet, and this one has family=cifar"),
        (("run=nowhere",), "nowhere holds no finished run"),
    ],
)
def test_an_export_that_cannot_be_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    home: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    assert message in refusal(monkeypatch, capsys, home, *options)


def test_a_run_whose_weights_are_gone_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path
) -> None:
    shutil.copytree(home / RUN, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    line = refusal(monkeypatch, capsys, tmp_path, "run=run")
    assert "does not hold the weights of the finished run; make the run again with resume=false" in line
