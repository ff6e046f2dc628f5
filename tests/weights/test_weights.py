"""Our networks take weights of torchvision, timm and akamaster/pytorch_resnet_cifar10, and theirs take ours."""

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import nn

from resnet_repro.errors import UserError
from resnet_repro.weights import load
from resnet_repro.weights.names import TIMM_V2, TORCHVISION
from tests.helpers.networks import V2, cifar, imagenet, randomise

LARGE = [pytest.param(depth, marks=pytest.mark.slow) for depth in (101, 152)]


def assert_equal_logits(ours, theirs, x):
    with torch.no_grad():
        assert torch.equal(ours.eval()(x), theirs.eval()(x))


class Akamaster(nn.Module):
    """A unit of akamaster/pytorch_resnet_cifar10; its option A pads zeros on both sides of the channels."""

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


# --- in ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [18, 34, 50, *LARGE])
def test_torchvisions_weights_give_its_logits(tmp_path, depth):
    theirs = randomise(torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=7))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = imagenet(depth)
    load.load(ours, tmp_path / "theirs.pth")
    assert_equal_logits(ours, theirs, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("depth", [18, 34, 50, *LARGE])
def test_timms_weights_give_its_logits(tmp_path, depth):
    theirs = randomise(timm.create_model(f"resnet{depth}", num_classes=7))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = imagenet(depth)
    load.load(ours, tmp_path / "theirs.safetensors")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [50, *LARGE])
def test_timms_v2_weights_give_its_logits(tmp_path, depth):
    theirs = randomise(timm.create_model(f"resnetv2_{depth}", num_classes=7))
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours = imagenet(depth, **V2)
    load.load(ours, tmp_path / "theirs.safetensors")
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
    load.load(ours, tmp_path / "model.th")
    with torch.no_grad():
        expected, logits = theirs(x), ours(x)
    assert len(expected.argmax(1).unique()) > 1
    assert torch.equal(logits.argmax(1), expected.argmax(1))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)  # sums over channels in another order


def test_a_file_without_counts_of_batches_loads(tmp_path):
    theirs = randomise(torchvision.models.resnet18(weights=None, num_classes=7))
    state = {name: t for name, t in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    ours = imagenet(18)
    load.load(ours, tmp_path / "old.pth")
    assert_equal_logits(ours, theirs, torch.randn(2, 3, 64, 64))


# --- out --------------------------------------------------------------------------------------------------------------


def test_a_torchvision_resnet50_makes_the_round_trip(tmp_path):
    theirs = randomise(torchvision.models.resnet50(weights=None))
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = imagenet(50, num_classes=1000)
    load.load(ours, tmp_path / "theirs.pth")
    x = torch.randn(2, 3, 64, 64)
    assert_equal_logits(ours, theirs, x)
    back = torchvision.models.resnet50(weights=None)
    back.load_state_dict(load.named_as(ours, TORCHVISION))
    assert_equal_logits(back, theirs, x)


def test_a_v2_network_with_negative_scales_is_the_same_in_timm():
    ours = randomise(imagenet(50, **V2))
    nn.init.uniform_(ours.stem[1].weight, -1.5, 1.5)
    theirs = timm.create_model("resnetv2_50", num_classes=7)
    theirs.load_state_dict(load.named_as(ours, TIMM_V2))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(theirs.eval()(x), ours.eval()(x), rtol=1e-3, atol=1e-4)


def test_a_network_that_a_library_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"torchvision and timm have arch\.shortcut=B, and this one has .*=none"):
        load.named_as(imagenet(18, shortcut="none"), TORCHVISION)
    with pytest.raises(UserError, match="torchvision and timm have family=imagenet, and this one has family=cifar"):
        load.named_as(cifar(20, shortcut="B"), TORCHVISION)


def prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"net": prefixed(state, "module."), "acc": 95.1, "epoch": 199},
        lambda state: {"model": prefixed(state, "_orig_mod."), "optimizer": {"state": {}}},
        lambda state: {"model_state_dict": state, "epoch": 3},
        lambda state: {"model": {"state_dict": prefixed(state, "module._orig_mod.")}},
        lambda state: {"n_averaged": torch.tensor(3)} | prefixed(state, "module."),
        lambda state: {
            "pytorch-lightning_version": "2.6.0",
            "state_dict": prefixed(state, "model.") | {"loss.weight": torch.ones(7)},
        },
        lambda state: {"pytorch-lightning_version": "2.6.0", "state_dict": prefixed(state, "net._orig_mod.")},
    ],
    ids=["kuangliu", "compiled", "tutorial", "both", "averaged", "Lightning", "Lightning compiled"],
)
def test_a_training_scripts_checkpoint_is_read(tmp_path, wrap):
    theirs, ours = torchvision.models.resnet18(weights=None, num_classes=7), imagenet(18)
    torch.save(wrap(theirs.state_dict()), tmp_path / "checkpoint.pth")
    load.load(ours, tmp_path / "checkpoint.pth")
    assert_equal_logits(ours, theirs.eval(), torch.randn(1, 3, 64, 64))
