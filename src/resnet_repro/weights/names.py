"""What other libraries call the layers of our networks: a table each, read both ways."""

import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from resnet_repro.errors import UserError
from resnet_repro.networks.resnet import ResNet

State = dict[str, Tensor]

UNIT = re.compile(r"stages\.(\d+)\.(\d+)\.(.+)")
CONVS_FIRST = {  # the branch F where an activation follows each convolution
    **{"residual.0": "conv1", "residual.1": "bn1", "residual.3": "conv2", "residual.4": "bn2"},
    **{"residual.6": "conv3", "residual.7": "bn3"},
}


class Layout(NamedTuple):
    """What another library calls the layers of a network that computes what ours does."""

    library: str
    marks: tuple[str, ...]
    """Keys by which a file is known to be in this layout."""
    words: dict[str, tuple[str, ...]]
    """What our network has to be; the first is what to ask for."""
    unit: Callable[[int, int], str]
    """The beginning of a unit's names, by stage and number, from 0 on."""
    layers: dict[str, str]
    """Our name of a layer, within its unit where it is in one: theirs."""


TORCHVISION = Layout(
    "torchvision and timm",
    marks=("conv1.weight", "layer4.0.conv1.weight"),
    words={"family": ("imagenet",), "order": ("original",), "shortcut": ("B",), "mix": ("add",), "stride_on": ("3x3",)},
    unit=lambda stage, number: f"layer{stage + 1}.{number}.",
    layers={
        **{"stem.0": "conv1", "stem.1": "bn1", **CONVS_FIRST},
        **{"shortcut.0": "downsample.0", "shortcut.1": "downsample.1", "head.2": "fc"},
    },
)
AKAMASTER = Layout(
    "akamaster/pytorch_resnet_cifar10",
    marks=("conv1.weight", "layer3.0.conv1.weight"),
    words={
        **{"family": ("cifar",), "unit": ("basic",), "order": ("original",)},
        **{"shortcut": ("A", "B"), "mix": ("add",)},
    },
    unit=lambda stage, number: f"layer{stage + 1}.{number}.",
    layers={
        **{"stem.0": "conv1", "stem.1": "bn1", **CONVS_FIRST},
        **{"shortcut.0": "shortcut.0", "shortcut.1": "shortcut.1", "head.2": "linear"},
    },
)
TIMM_V2 = Layout(
    "timm's resnetv2",
    marks=("stem.conv.weight",),
    words={  # basic units are no match: the first of timm's leaves its shortcut without the activation of v2's Appendix
        **{"family": ("imagenet",), "unit": ("bottleneck",), "order": ("full_preact",)},
        **{"shortcut": ("B",), "mix": ("add",), "stride_on": ("3x3",)},
    },
    unit=lambda stage, number: f"stages.{stage}.blocks.{number}.",
    layers={
        **{"stem.0": "stem.conv", "stem.1": "stages.0.blocks.0.norm1", "pre.0": "norm1"},
        **{"residual.0": "conv1", "residual.1": "norm2", "residual.3": "conv2", "residual.4": "norm3"},
        **{"residual.6": "conv3", "shortcut.0": "downsample.conv", "head.0": "norm", "head.4": "head.fc"},
    },
)
LAYOUTS = (TORCHVISION, AKAMASTER, TIMM_V2)


def their_name(name: str, layout: Layout | None) -> str:
    """What a layout calls one of our weights; None is our own."""
    if layout is None:
        return name
    layer, _, tensor = name.rpartition(".")
    prefix = ""
    if in_unit := UNIT.fullmatch(layer):
        stage, number, layer = in_unit.groups()
        prefix = layout.unit(int(stage), int(number))
    return f"{prefix}{layout.layers[layer]}.{tensor}"


def refuse(net: ResNet, layout: Layout, *, what: str) -> None:
    """Refuse a network that is none of this layout's.

    Raises:
        UserError: with the option to change; `what` begins the line.
    """
    for word, allowed in layout.words.items():
        irrelevant = word == "stride_on" and net.words["unit"] != "bottleneck"  # the first is a 3x3
        if net.words[word] not in allowed and not irrelevant:
            asked = f"arch.{word}" if word != "family" else word
            raise UserError(
                f"{what}: networks of {layout.library} have {asked}={allowed[0]}, and this one has "
                f"{asked}={net.words[word]}; make one with the former"
            )


def zeros_behind(state: State) -> State:
    """From option A with zeros on both sides of the channels to ours, with all of them behind.

    Where the size changes, channel i of a stage's shortcut goes on as their channel i + c/4 of the next one's c, and as
    our channel i. So from stage to stage every tensor along the shortcut has its channels in another order.
    """
    state, order = dict(state), torch.arange(state["stem.0.weight"].shape[0])
    orders = [order]  # orders[s][i] is their channel that is our channel i, behind stage s
    for _ in range(2):
        kept = order + len(order) // 2  # a quarter of the new number
        new = [channel for channel in range(2 * len(order)) if channel not in set(kept.tolist())]
        order = torch.cat([kept, torch.tensor(new)])
        orders.append(order)
    for name, tensor in state.items():
        in_unit = UNIT.fullmatch(name)
        if not in_unit or tensor.dim() == 0:
            continue
        stage, number, layer = in_unit.groups()
        if layer == "residual.0.weight":
            before = orders[int(stage) - (number == "0" and stage != "0")]
            state[name] = tensor[:, before]
        elif layer.startswith(("residual.3.", "residual.4.")):
            state[name] = tensor[orders[int(stage)]]
    state["head.2.weight"] = state["head.2.weight"][:, order]
    return state
