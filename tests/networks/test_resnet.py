import itertools
import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import BatchNormAct2d, create_conv2d
from timm.models.resnetv2 import ResNetV2
from torch import nn

from resnet_repro.errors import UserError
from resnet_repro.networks.resnet import ResNet
from resnet_repro.networks.unit import MIXES, ORDERS, SHORTCUTS
from tests.helpers.networks import V2, cifar, randomise
from tests.helpers.runs import network_of, resolved

WORDS = [(shortcut, mix) for shortcut, mix in itertools.product(SHORTCUTS, MIXES) if shortcut != "none" or mix == "add"]


def on_meta(**words):
    with torch.device("meta"):
        return ResNet(**words)


def num_parameters(net, *kinds):
    """Count the parameters of the network, or only of its modules of these kinds."""
    modules = [m for m in net.modules() if isinstance(m, kinds)] if kinds else [net]
    return sum(p.numel() for module in modules for p in module.parameters())


def weighted(net):
    """Return the layers with weights, in order."""
    return [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)]


# published counts


@pytest.mark.parametrize(
    ("depth", "count", "millions"),
    [
        (20, 269_722, 0.27),
        (32, 464_154, 0.46),
        (44, 658_586, 0.66),
        (56, 853_018, 0.85),
        (110, 1_727_962, 1.7),
        (1202, 19_421_274, 19.4),
    ],
)
def test_cifar_parameters_are_those_of_v1_table_6(depth, count, millions):
    net = on_meta(depth=depth, family="cifar", num_classes=10)
    assert num_parameters(net) == count
    assert round(count / 1e6, 2 if millions < 1 else 1) == millions


def test_v2_parameters_are_those_of_the_paper():
    deep = {depth: on_meta(depth=depth, family="cifar", num_classes=10, **V2) for depth in (164, 1001)}
    assert num_parameters(deep[164]) == 1_703_258  # 1.7 M
    assert num_parameters(deep[1001]) == 10_327_706
    assert num_parameters(deep[1001], nn.Conv2d, nn.Linear) == 10_178_490  # 10.2 M


@pytest.mark.parametrize(
    ("depth", "count"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808), (200, 64_673_832)],
)
def test_imagenet_parameters_are_the_published_ones(depth, count):
    with torch.device("meta"):
        assert num_parameters(network_of(resolved("data=imagenet", f"depth={depth}"))) == count


@pytest.mark.parametrize(
    ("family", "depth", "unit"),
    [("cifar", 20, "basic"), ("cifar", 29, "bottleneck"), ("cifar", 14, "one_layer"), ("imagenet", 50, "auto")],
)
def test_the_depth_counts_weighted_layers_outside_shortcuts(family, depth, unit):
    words = {"shortcut": "C", "mix": "shortcut_gate"}
    net = on_meta(depth=depth, family=family, num_classes=10, unit=unit, **words)
    names = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert sum("shortcut" not in name and "gate" not in name for name in names) == depth


# equality with references


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_outputs_equal_torchvisions_bit_for_bit(depth):
    theirs = randomise(torchvision.models.get_model(f"resnet{depth}", weights=None))
    # torchvision's bottleneck is v1.5
    ours = ResNet(depth=depth, family="imagenet", num_classes=1000, shortcut="B", stride_on="3x3")
    names = zip(ours.state_dict(), theirs.state_dict(), strict=True)
    ours.load_state_dict({our: theirs.state_dict()[their] for our, their in names})
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.train()(x), theirs.train()(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_a_v2_network_equals_timms():
    # only in evaluation: timm has the max pooling before the first BN and ReLU. With fixed statistics and positive
    # scales, pooling commutes with both, bit for bit
    theirs = randomise(ResNetV2([3, 4, 6, 3], conv_layer=create_conv2d, norm_layer=BatchNormAct2d)).eval()
    ours = ResNet(depth=50, family="imagenet", num_classes=1000, stride_on="3x3", **V2).eval()
    their_layers = [theirs.stem.conv]
    for block in itertools.chain.from_iterable(stage.blocks for stage in theirs.stages):
        their_layers += [block.norm1, block.conv1, block.norm2, block.conv2, block.norm3, block.conv3]
        their_layers += [block.downsample.conv] if block.downsample is not None else []
    their_layers += [theirs.norm, theirs.head.fc]
    for our, their in zip(weighted(ours), their_layers, strict=True):
        state = their.state_dict()
        our.load_state_dict({name: state[name].view_as(tensor) for name, tensor in our.state_dict().items()})
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.head[:2](ours.stages(ours.stem(x))), theirs.forward_features(x))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-3, atol=1e-4)  # timm's linear layer is a 1x1 convolution


def test_stages_of_v2s_basic_units_equal_timms_in_training():
    # from stage 2 on: the shortcut of timm's first basic unit lacks the activation that v2's Appendix asks for
    theirs = ResNetV2(
        [2, 2, 2, 2],
        channels=(64, 128, 256, 512),
        basic=True,
        bottle_ratio=1.0,
        conv_layer=create_conv2d,
        norm_layer=BatchNormAct2d,
    )
    ours = ResNet(depth=18, family="imagenet", num_classes=1000, **V2)
    randomise(theirs)
    our_part = nn.Sequential(*ours.stages[1:], *ours.head[:2])
    their_layers = []
    for block in itertools.chain.from_iterable(stage.blocks for stage in theirs.stages[1:]):
        their_layers += [block.norm1, block.conv1, block.norm2, block.conv2]
        their_layers += [block.downsample.conv] if block.downsample is not None else []
    for our, their in zip(weighted(our_part), [*their_layers, theirs.norm], strict=True):
        our.load_state_dict(their.state_dict())
    x = torch.randn(2, 64, 16, 16)
    assert torch.equal(our_part(x), theirs.norm(theirs.stages[1:](x)))


# laws


@pytest.mark.parametrize("unit", ["basic", "bottleneck", "one_layer"])
@pytest.mark.parametrize("order", ORDERS)
def test_every_combination_trains_every_parameter(order, unit):
    torch.manual_seed(0)
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8)
    depth = {"basic": 8, "bottleneck": 11, "one_layer": 5}[unit]
    for shortcut, mix in WORDS:
        net = cifar(depth, in_channels=1, order=order, shortcut=shortcut, mix=mix, unit=unit)
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        torch.optim.SGD(net.parameters(), lr=0.1).step()
        assert math.isfinite(loss.item())
        for name, p in net.named_parameters():
            assert p.grad is not None, (shortcut, mix, name)
            assert p.isfinite().all(), (shortcut, mix, name)
            assert not torch.equal(p, before[name]), (shortcut, mix, name)


@pytest.mark.parametrize(("family", "depth"), [("cifar", 20), ("cifar", 110), ("imagenet", 18), ("imagenet", 34)])
def test_a_plain_network_has_exactly_the_weights_of_its_resnet(family, depth):
    plain, resnet = (
        on_meta(depth=depth, family=family, num_classes=10, shortcut=shortcut).state_dict()
        for shortcut in ("none", "A")
    )
    assert {name: w.shape for name, w in plain.items()} == {name: w.shape for name, w in resnet.items()}


def test_a_network_runs_under_bfloat16_autocast():
    net, x = cifar(8, mix="exclusive_gate"), torch.randn(4, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(net(x), torch.arange(4))
    loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


# initialisation


def test_convolutions_start_with_hes_deviation_by_fan_out():
    torch.manual_seed(0)
    for module in ResNet(depth=18, family="imagenet", num_classes=10, shortcut="B").modules():
        if isinstance(module, nn.Conv2d):
            he = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            sigmas = 5 * he / math.sqrt(2 * module.weight.numel())  # five standard errors of the estimate
            assert abs(module.weight.std().item() - he) < sigmas


@pytest.mark.parametrize("gate_bias", [-6.0, 0.0])
def test_biases_start_at_zero_except_those_of_gates(gate_bias):
    net = cifar(20, mix="shortcut_gate", gate_bias=gate_bias)
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            assert (p == (gate_bias if "gate" in name else 0)).all(), name
    assert sum("gate.bias" in name for name, _ in net.named_parameters()) == 9


def test_the_seed_decides_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return nn.utils.parameters_to_vector(cifar(8).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_the_constructor_refuses_an_illegal_depth():
    with pytest.raises(UserError, match=r"^depth=21 is not 6n\+2 \(basic units\); nearest are 20 and 26$"):
        cifar(21)
