import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from resnet_repro.errors import UserError
from resnet_repro.networks.costs import multiply_adds
from resnet_repro.networks.depths import Stage, stages, unit_for
from resnet_repro.networks.resnet import ResNet

CIFAR = [  # depth, unit
    *[(depth, "basic") for depth in (8, 20, 32, 44, 56, 110, 164, 1202)],  # 164 = 6 x 27 + 2 too
    *[(depth, "bottleneck") for depth in (11, 164, 1001)],
    *[(depth, "one_layer") for depth in (5, 110)],
]
IMAGENET = [18, 34, 50, 101, 152, 200]
SHORTCUTS = ["none", "A", "B", "C", "dropout"]


def num_weighted_layers(stages):
    """Return the depth as the papers count it: stem, convolutions of the units and linear layer, without shortcuts."""
    return 2 + sum(stage.num_units * len(stage.convs) for stage in stages)


@pytest.mark.parametrize(
    ("family", "depth", "unit"),
    [*(("cifar", *case) for case in CIFAR), *(("imagenet", depth, "auto") for depth in IMAGENET)],
)
def test_the_depth_is_the_number_of_weighted_layers(family, depth, unit):
    assert num_weighted_layers(stages(depth, family=family, unit=unit)) == depth


def test_stages_are_the_brackets_that_the_papers_print():
    assert stages(20, family="cifar") == [
        Stage(3, [(3, 16), (3, 16)], 1),
        Stage(3, [(3, 32), (3, 32)], 2),
        Stage(3, [(3, 64), (3, 64)], 2),
    ]
    assert stages(1001, family="cifar") == [
        Stage(111, [(1, 16), (3, 16), (1, 64)], 1),
        Stage(111, [(1, 32), (3, 32), (1, 128)], 2),
        Stage(111, [(1, 64), (3, 64), (1, 256)], 2),
    ]
    assert stages(110, family="cifar", unit="one_layer")[2] == Stage(36, [(3, 64)], 2)
    assert stages(152, family="imagenet") == [
        Stage(3, [(1, 64), (3, 64), (1, 256)], 1),
        Stage(8, [(1, 128), (3, 128), (1, 512)], 2),
        Stage(36, [(1, 256), (3, 256), (1, 1024)], 2),
        Stage(3, [(1, 512), (3, 512), (1, 2048)], 2),
    ]


def test_auto_is_the_papers_unit():
    assert [unit_for(depth, "cifar") for depth in (20, 110, 1202, 164, 1001)] == ["basic"] * 3 + ["bottleneck"] * 2
    assert [unit_for(depth, "imagenet") for depth in IMAGENET] == ["basic"] * 2 + ["bottleneck"] * 4


@pytest.mark.parametrize(
    ("family", "unit", "depth", "text"),
    [
        ("cifar", "auto", 21, "depth=21 is not 6n+2 (basic units); nearest are 20 and 26"),
        *(
            ("cifar", "auto", d, f"depth={d} is less than 8, the smallest 6n+2 (basic units); nearest is 8")
            for d in (5, 2, -4)
        ),
        (
            "cifar",
            "auto",
            29,
            "depth=29 is not 6n+2 (basic units); nearest are 26 and 32; with arch.unit=bottleneck 29 is legal",
        ),
        (
            "cifar",
            "bottleneck",
            32,
            "depth=32 is not 9n+2 (bottleneck units); nearest are 29 and 38; with arch.unit=basic 32 is legal",
        ),
        ("cifar", "one_layer", 21, "depth=21 is not 3n+2 (one_layer units); nearest are 20 and 23"),
        *(
            ("cifar", "auto", d, f"depth={d} is not a whole number; use for example 20, 32, 44, 56 or 110")
            for d in ("abc", 20.5, None, True)
        ),
        ("imagenet", "auto", 35, "depth=35 is not an ImageNet ResNet; nearest are 34 and 50"),
        ("imagenet", "auto", 3, "depth=3 is not an ImageNet ResNet; nearest is 18"),
        ("imagenet", "auto", 1001, "depth=1001 is not an ImageNet ResNet; nearest is 200"),
        ("imagenet", "auto", "x", "depth=x is not a whole number; use for example 18, 34, 50, 101, 152 or 200"),
        ("imagenet", "bottleneck", 34, "arch.unit=bottleneck makes no ImageNet ResNet-34; use arch.unit=basic or auto"),
        ("cifar", "wide", 20, "arch.unit=wide is not known; use one of auto, basic, bottleneck, one_layer"),
    ],
)
def test_an_illegal_depth_is_refused_with_its_legal_neighbours(family, unit, depth, text):
    with pytest.raises(UserError) as error:
        stages(depth, family=family, unit=unit)
    assert str(error.value) == text


def test_the_neighbours_that_a_refusal_names_are_legal():
    illegal = [depth for depth in range(3, 60) if depth < 11 or depth % 9 != 2]
    for depth in illegal:
        with pytest.raises(UserError) as error:
            stages(depth, family="cifar", unit="bottleneck")
        named = str(error.value).split("nearest ")[1].split(";")[0].removeprefix("is ").removeprefix("are ")
        for neighbour in map(int, named.split(" and ")):
            assert num_weighted_layers(stages(neighbour, family="cifar", unit="bottleneck")) == neighbour


def torch_count(family, image_size, **words):
    """Return the multiply-adds as torch counts them: half of the floating point operations."""
    with torch.device("meta"):
        net = ResNet(family=family, num_classes=10, **words)
        with FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 3, image_size, image_size))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize(
    ("family", "depth", "unit", "image_size"),
    [
        ("cifar", 20, "basic", 32),
        ("cifar", 29, "bottleneck", 32),
        ("cifar", 11, "one_layer", 9),  # odd sizes round up
        ("imagenet", 18, "auto", 224),
        ("imagenet", 50, "auto", 97),
    ],
)
def test_multiply_adds_equal_torchs_own_count(family, depth, unit, image_size, shortcut):
    words = {"depth": depth, "unit": unit, "shortcut": shortcut}
    for more in ({}, {"stride_on": "3x3", "mix": "add" if shortcut == "none" else "shortcut_gate"}):
        expected = torch_count(family, image_size, **words, **more)
        assert multiply_adds(family=family, image_size=image_size, num_classes=10, **words, **more) == expected


@pytest.mark.parametrize(
    ("depth", "shortcut", "giga"), [(18, "A", 1.8), (34, "A", 3.6), (50, "B", 3.8), (101, "B", 7.6), (152, "B", 11.3)]
)
def test_imagenet_multiply_adds_are_those_of_v1_table_1(depth, shortcut, giga):
    first = torch_count("imagenet", 224, depth=depth, shortcut=shortcut) / 1e9
    assert abs(first - giga) < 0.06  # the paper rounds, except for ResNet-50: 3.856 is printed as 3.8


@pytest.mark.parametrize(("depth", "giga"), [(50, 3.8), (101, 7.6), (152, 11.3)])
def test_v1_table_1_does_not_count_a_stride_on_the_3x3(depth, giga):
    words = {"family": "imagenet", "image_size": 224, "num_classes": 1000, "shortcut": "B", "stride_on": "3x3"}
    assert multiply_adds(depth, **words) / 1e9 - giga > 0.2
