"""Other libraries' names of our networks' layers: a table for each library, read both ways."""

import re
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from resnet_repro.errors import UserError
from resnet_repro.networks.resnet import ResNet

State = dict[str, Tensor]

UNIT = re.compile(r"stages\.(\d+)\.(\d+)\.(.+)")
CONVS_FIRST = {  # the branch F of units with an activation after each convolution
    **{"residual.0": "conv1", "residual.1": "bn1", "residual.3": "conv2", "residual.4": "bn2"},
    **{"residual.6": "conv3", "residual.7": "bn3"},
}


class Layout(NamedTuple):
    """Another library's names of the layers of a network that computes the same as ours."""

    library: str
    marks: tuple[str, ...]
    """Names that only files in this layout have."""
    words: dict[str, tuple[str, ...]]
    """Values that our network's words must have; a refusal recommends the first."""
    unit: Callable[[int, int], str]
    """Takes a unit's stage and number, from 0 on; returns the prefix of its layers' names."""
    layers: dict[str, str]
    """Their name of a layer by ours; both without the prefix of a unit."""


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
    words={  # basic units differ: the first of timm's leaves out v2's activation before its shortcut [v2 Appendix]
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
    """Return a layout's name of one of our weights; None is our own layout."""
    if layout is None:
        return name
    layer, _, tensor = name.rpartition(".")
    prefix = ""
    if in_unit := UNIT.fullmatch(layer):
        stage, number, layer = in_unit.groups()
        prefix = layout.unit(int(stage), int(number))
    return f"{prefix}{layout.layers[layer]}.{tensor}"


def refuse(net: ResNet, layout: Layout, *, what: str) -> None:
    """Refuse a network that the layout's library does not have.

    Raises:
        UserError: begins with `what` and names the option to change.
    """
    for word, allowed in layout.words.items():
        irrelevant = word == "stride_on" and net.words["unit"] != "bottleneck"  # their first convolution is the 3x3
        if net.words[word] not in allowed and not irrelevant:
            name = f"arch.{word}" if word != "family" else word
            raise UserError(
                f"{what}: networks of {layout.library} have {name}={allowed[0]}, and this one has "
                f"{name}={net.words[word]}; make one with {name}={allowed[0]}"
            )


def zeros_behind(state: State) -> State:
    """Return weights for our option A, whose zero channels come last, from an option A with zeros on both sides.

    Between stages, channel i of the shortcut becomes channel i + c/4 of the next stage's c channels there, and channel
    i here. So from stage to stage, every tensor along the shortcut has its channels in another order.
    """
    state, order = dict(state), torch.arange(state["stem.0.weight"].shape[0])
    orders = [order]  # orders[s][i] is their channel that is our channel i, after stage s
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
