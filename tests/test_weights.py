"""Weights of torchvision, timm and akamaster/pytorch_resnet_cifar10 in our networks, and ours in theirs."""

import pickle
import re

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import nn

from resnet_repro import weights
from resnet_repro.errors import UserError
from resnet_repro.layouts import TIMM_V2, TORCHVISION
from resnet_repro.resnet import ResNet
from tests.test_resnet import V2, cifar, randomise

LARGE = [pytest.param(depth, marks=pytest.mark.slow) for depth in (101, 152)]


def imagenet(depth, **words):
    return ResNet(depth=depth, family="imagenet", **{"num_classes": 7, "shortcut": "B", "stride_on": "3x3"} | words)


def assert_equal_logits(ours, theirs, x):
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


class Akamaster(nn.Module):
    """A unit of akamaster/pytorch_resnet_cifar10: option A has zeros on both sides of the channels."""

    def __init__(self, c_in, c_out, option):
        super().__init__()
        stride = c_out // c_in
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential()
        self.pad = (0, 0, 0, 0, c_out // 4, c_out // 4) if stride == 2 else None
        if stride == 2 and option == "B":
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
            self.pad = None

    def forward(self, x):
        f = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(f + (self.shortcut(x) if self.pad is None else F.pad(x[:, :, ::2, ::2], self.pad)))


class AkamasterResNet(nn.Module):
    def __init__(self, depth, option):
        super().__init__()
        n, widths = (depth - 2) // 6, (16, 16, 32, 64)
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for i in (1, 2, 3):
            units = [Akamaster(widths[i] if j else widths[i - 1], widths[i], option) for j in range(n)]
            setattr(self, f"layer{i}", nn.Sequential(*units))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


# in


@pytest.mark.parametrize("depth", [18, 34, 50, *LARGE])
def test_torchvisions_weights_give_its_logits(tmp_path, depth):
    theirs = randomise(torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=7))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = imagenet(depth)
    weights.load(ours, tmp_path / "theirs.pth")
    assert_equal_logits(ours, theirs, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("depth", [18, 34, 50, *LARGE])
def test_timms_weights_give_its_logits(tmp_path, depth):
    theirs = randomise(timm.create_model(f"resnet{depth}", num_classes=7))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = imagenet(depth)
    weights.load(ours, tmp_path / "theirs.safetensors")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [50, *LARGE])
def test_timms_v2_weights_give_its_logits(tmp_path, depth):
    theirs = randomise(timm.create_model(f"resnetv2_{depth}", num_classes=7))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = imagenet(depth, **V2)
    weights.load(ours, tmp_path / "theirs.safetensors")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():  # their linear layer is a 1x1 convolution
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize("depth", [20, 56])
def test_akamasters_checkpoint_gives_its_predictions(tmp_path, depth, option):
    theirs, x = randomise(AkamasterResNet(depth, option)).eval(), torch.randn(64, 3, 32, 32)
    with torch.no_grad():
        theirs.linear.bias -= theirs(x).mean(0)  # else a random network predicts one class
    state = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.73}, tmp_path / "model.th")
    ours = cifar(depth, shortcut=option).eval()
    weights.load(ours, tmp_path / "model.th")
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
    assert len(expected.argmax(1).unique()) > 1
    assert torch.equal(found.argmax(1), expected.argmax(1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # sums over channels in another order


def test_a_file_of_before_batches_were_counted_loads(tmp_path):
    theirs = randomise(torchvision.models.resnet18(weights=None, num_classes=7))
    state = {name: t for name, t in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    ours = imagenet(18)
    weights.load(ours, tmp_path / "old.pth")
    assert_equal_logits(ours, theirs, torch.randn(2, 3, 64, 64))


# refusals: the network is as it was


@pytest.fixture
def state():
    return torchvision.models.resnet18(weights=None, num_classes=7).state_dict()


def assert_refused(tmp_path, net, content, message):
    torch.save(content, tmp_path / "w.pth")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(UserError, match=message) as raised:
        weights.load(net, tmp_path / "w.pth")
    assert "\n" not in str(raised.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_missing_weight_is_named(tmp_path, state):
    del state["layer3.1.bn2.running_var"]
    assert_refused(tmp_path, imagenet(18), state, r"weights 1 missing \(layer3\.1\.bn2\.running_var\)")


def test_an_unknown_weight_is_named(tmp_path, state):
    state["layer3.1.bn3.weight"] = torch.zeros(3)
    assert_refused(tmp_path, imagenet(18), state, r"weights 1 unknown \(layer3\.1\.bn3\.weight\)")


def test_another_depth_is_told_by_its_weights(tmp_path, state):
    assert_refused(tmp_path, imagenet(34), state, r"80 missing \(layer1\.2\.bn1\.bias, .*\.\.\.\); ask for its depth")


def test_another_number_of_classes_is_told_by_its_shape(tmp_path, state):
    net = imagenet(18, num_classes=5)
    assert_refused(tmp_path, net, state, r"fc\.weight has the shape \(7, 512\), and this network needs \(5, 512\)")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"shortcut": "C"}, r"arch\.shortcut=B, and this one has arch\.shortcut=C"),
        ({"stride_on": "first"}, r"arch\.stride_on=3x3, and this one has arch\.stride_on=first"),
        ({"mix": "half_both"}, r"arch\.mix=add, and this one has arch\.mix=half_both"),
        ({"order": "relu_before_add"}, r"arch\.order=original, and this one has arch\.order=relu_before_add"),
    ],
)
def test_a_network_that_computes_something_else_is_refused(tmp_path, words, told):
    theirs = torchvision.models.resnet50(weights=None, num_classes=7)
    assert_refused(tmp_path, imagenet(50, **words), theirs.state_dict(), told)


def test_timms_v2_with_a_negative_scale_before_its_pooling_is_refused(tmp_path):
    theirs = timm.create_model("resnetv2_50", num_classes=7)
    nn.init.constant_(theirs.stages[0].blocks[0].norm1.weight[:2], -1.0)
    assert_refused(tmp_path, imagenet(50, **V2), theirs.state_dict(), "2 scales .* are negative")


def test_a_file_that_would_be_executed_is_not(tmp_path, state):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("executed").touch, ())

    assert_refused(tmp_path, imagenet(18), {"state_dict": state, "args": Trap()}, "holds more than weights")
    assert not (tmp_path / "executed").exists()
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(UserError, match=r"plain\.pkl"):
        weights.load(imagenet(18), tmp_path / "plain.pkl")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_damaged_file_is_named(tmp_path, state, suffix):
    path = tmp_path / f"cut.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=re.escape(str(path))):
        weights.load(imagenet(18), path)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("nowhere.pth", "nowhere.pth is not there; give a file of weights"),
        ("timm:resnetblur50", "none of the networks here; use one of resnet18, resnet34"),
        (
            "torchvision:resnet50.IMAGENET",
            "is not known; use one of torchvision:resnet50.IMAGENET1K_V1, torchvision:resnet50.IMAGENET1K_V2",
        ),
    ],
)
def test_a_source_that_is_not_there_is_told_in_one_line(source, told):
    with pytest.raises(UserError, match=told):
        weights.load(imagenet(50), source)


@pytest.mark.parametrize("source", ["torchvision:resnet18", "timm:resnet18.a1_in1k"])
def test_out_of_reach_of_the_hub_the_error_says_so(monkeypatch, tmp_path, source):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it tries for 45 s
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises(UserError, match=f"^{source} could not be fetched .*; try again online, or give a file$"):
        weights.load(imagenet(18, num_classes=1000), source)


# out


def test_a_torchvision_resnet50_makes_the_round_trip_with_equal_logits(tmp_path):
    theirs = randomise(torchvision.models.resnet50(weights=None))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = imagenet(50, num_classes=1000)
    weights.load(ours, tmp_path / "theirs.pth")
    x = torch.randn(2, 3, 64, 64)
    assert_equal_logits(ours, theirs, x)
    back = torchvision.models.resnet50(weights=None)
    back.load_state_dict(weights.named_as(ours, TORCHVISION))
    assert_equal_logits(back, theirs, x)


def test_a_v2_network_with_negative_scales_is_the_same_in_timm():
    ours = randomise(imagenet(50, **V2))
    nn.init.uniform_(ours.stem[1].weight, -1.5, 1.5)
    theirs = timm.create_model("resnetv2_50", num_classes=7)
    theirs.load_state_dict(weights.named_as(ours, TIMM_V2))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(x), ours.eval()(x), rtol=1e-3, atol=1e-4)


def test_what_a_library_has_not_is_refused():
    with pytest.raises(UserError, match=r"torchvision and timm have arch\.shortcut=B, and this one has .*=none"):
        weights.named_as(imagenet(18, shortcut="none"), TORCHVISION)
    with pytest.raises(UserError, match="torchvision and timm have family=imagenet, and this one has family=cifar"):
        weights.named_as(cifar(20, shortcut="B"), TORCHVISION)
