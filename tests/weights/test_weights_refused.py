"""Weights that do not fit, cannot be read or would be executed are refused by name, and change no network."""

import pickle
import re
import shlex
import sys

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from resnet_repro.errors import UserError
from resnet_repro.weights import load
from tests.helpers.networks import V2, imagenet


@pytest.fixture
def state():
    return torchvision.models.resnet18(weights=None, num_classes=7).state_dict()


def assert_refused(tmp_path, net, content, message):
    torch.save(content, tmp_path / "w.pth")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(UserError, match=message) as raised:
        load.load(net, tmp_path / "w.pth")
    assert "\n" not in str(raised.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_missing_weight_is_named(tmp_path, state):
    del state["layer3.1.bn2.running_var"]
    assert_refused(tmp_path, imagenet(18), state, r"weights 1 missing \(layer3\.1\.bn2\.running_var\)")


def test_an_unknown_weight_is_named(tmp_path, state):
    state["layer3.1.bn3.weight"] = torch.zeros(3)
    assert_refused(tmp_path, imagenet(18), state, r"weights 1 unknown \(layer3\.1\.bn3\.weight\)")


def test_another_depth_is_refused_by_its_weights(tmp_path, state):
    assert_refused(tmp_path, imagenet(34), state, r"80 missing \(layer1\.2\.bn1\.bias, .*\.\.\.\); build a netw")


def test_another_number_of_classes_is_refused_by_its_shape(tmp_path, state):
    net = imagenet(18, num_classes=5)
    assert_refused(tmp_path, net, state, r"fc\.weight has the shape \(7, 512\), and this network needs \(5, 512\)")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"shortcut": "C"}, r"arch\.shortcut=B, and this one has arch\.shortcut=C"),
        ({"stride_on": "first"}, r"arch\.stride_on=3x3, and this one has arch\.stride_on=first"),
        ({"mix": "half_both"}, r"arch\.mix=add, and this one has arch\.mix=half_both"),
        ({"order": "relu_before_add"}, r"arch\.order=original, and this one has arch\.order=relu_before_add"),
    ],
)
def test_a_network_that_computes_something_else_is_refused(tmp_path, words, message):
    theirs = torchvision.models.resnet50(weights=None, num_classes=7)
    assert_refused(tmp_path, imagenet(50, **words), theirs.state_dict(), message)


def test_timms_v2_with_negative_scales_is_refused(tmp_path):
    theirs = timm.create_model("resnetv2_50", num_classes=7)
    nn.init.constant_(theirs.stages[0].blocks[0].norm1.weight[:2], -1.0)
    assert_refused(tmp_path, imagenet(50, **V2), theirs.state_dict(), "2 scales .* are negative")


def test_a_file_that_would_be_executed_is_refused(tmp_path, state):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    assert_refused(tmp_path, imagenet(18), {"state_dict": state, "args": Trap()}, "holds more than weights")
    assert not (tmp_path / "executed").exists()
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(UserError, match=r"plain\.pkl"):
        load.load(imagenet(18), tmp_path / "plain.pkl")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before PyTorch 1.6"])
def test_a_scalar_of_numpy_is_refused_with_a_way_out(tmp_path, monkeypatch, state, zipped):
    path = tmp_path / "c.pth.tar"
    torch.save({"state_dict": state, "best_acc": np.float64(91.7)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError) as raised:
        load.load(imagenet(18), path)
    line = str(raised.value)
    assert re.search(
        r"c\.pth\.tar holds more than weights \([^()]*numpy\S*\.multiarray\.scalar[^()]*\), and reading", line
    )
    assert line.isprintable()
    _, _, code, file = shlex.split(line.partition("save the weights alone: ")[2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["-c", file])
    exec(code, {})
    load.load(imagenet(18), tmp_path / "weights.pth")


def test_a_whole_network_in_a_file_is_refused_by_its_classes(tmp_path):
    theirs = torchvision.models.resnet18(weights=None, num_classes=7)
    assert_refused(
        tmp_path, imagenet(18), theirs, r"holds more than weights \(torch\.nn\.modules\..*, \.\.\.\), and reading"
    )


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", pickle.dumps([1, 2], protocol=4)])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_a_file_without_weights_is_refused_in_our_words(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    message = r"w\.pth is damaged, or neither torch\.save nor safetensors wrote it; fetch it again"
    with pytest.raises(UserError, match=message):
        load.load(imagenet(18), tmp_path / "w.pth")


def test_a_checkpoint_without_weights_is_refused_by_its_keys(tmp_path):
    content = {"epoch": 3, "optimizer": {"lr": 0.1}}
    assert_refused(
        tmp_path, imagenet(18), content, "holds no state dict but epoch, optimizer; give a file of one, or of"
    )


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_damaged_file_is_named(tmp_path, state, suffix):
    path = tmp_path / f"cut.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=re.escape(str(path))):
        load.load(imagenet(18), path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.pth", "nowhere.pth is not there; give a file of weights"),
        ("timm:resnetblur50", "is not one of our networks; use one of resnet18, resnet34"),
        (
            "torchvision:resnet50.IMAGENET",
            "is not known; use one of torchvision:resnet50.IMAGENET1K_V1, torchvision:resnet50.IMAGENET1K_V2",
        ),
    ],
)
def test_an_unknown_source_is_refused(source, message):
    with pytest.raises(UserError, match=message):
        load.load(imagenet(50), source)


@pytest.mark.parametrize("source", ["torchvision:resnet18", "timm:resnet18.a1_in1k"])
def test_a_hub_out_of_reach_is_named(monkeypatch, tmp_path, source):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # otherwise it tries for 45 s
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises(UserError, match=f"^{source} could not be fetched .*; try again online, or give a file$"):
        load.load(imagenet(18, num_classes=1000), source)
