"""The parts of a network in the form of v1 Table 1, with exact counts."""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resnet_repro.networks.build import build
from resnet_repro.networks.depths import STEMS, Stage, stages
from resnet_repro.networks.options import Images, Network
from resnet_repro.networks.resnet import ResNet


class Part(NamedTuple):
    """A row of the table: a stage, the layers before the stages, or the layers after them."""

    name: str
    size: int
    """Height and width of the output, in pixels."""
    layers: str
    """The layers as v1 Table 1 prints them, a line each."""
    parameters: int
    multiply_adds: int
    """Multiply-adds of one image's forward pass."""


def parts(network: Network, images: Images) -> list[Part]:
    """Return the parts of a network; another library's network is one part.

    The counts are exact: the network itself runs on PyTorch's meta device, where nothing is computed.
    """
    with torch.device("meta"):
        net = build(network, images).eval()
        x = torch.empty(1, *images.image)
    sizes: dict[nn.Module, int] = {}
    for module in net.modules():
        module.register_forward_hook(lambda module, _, output: sizes.update({module: output.shape[-1]}))
    with FlopCounterMode(display=False) as counter:
        net(x)
    flops = {name: sum(by_kind.values()) for name, by_kind in counter.get_flop_counts().items()}

    def part(name: str, path: str, layers: str, *, size: int) -> Part:
        module = net.get_submodule(path)
        multiply_adds = flops.get(f"{type(net).__name__}{path and '.'}{path}", 0) // 2
        return Part(name, size, layers, sum(p.numel() for p in module.parameters()), multiply_adds)

    if not isinstance(net, ResNet):
        return [part(network.name, "", "", size=1)]
    family, depth, unit = (net.words[key] for key in ("family", "depth", "unit"))
    stem = STEMS[family]
    first = f"{stem.kernel}×{stem.kernel}, {stem.width}, stride {stem.stride}"
    rows = [part("conv1", "stem", first, size=sizes[net.stem[0]])]
    for number, stage in enumerate(stages(depth, family=family, unit=unit)):
        path = f"stages.{number}"
        pool = f"3×3 max pool, stride {stem.pool}\n" if number == 0 and stem.pool > 1 else ""
        rows.append(part(f"conv{number + 2}_x", path, pool + bracket(stage), size=sizes[net.get_submodule(path)]))
    end = f"average pool, {images.num_classes}-d fc, softmax"
    return [*rows, part("", "head", end, size=1)]


def bracket(stage: Stage) -> str:
    """Return the units of a stage as v1 Table 1 prints them: convolutions in brackets, times the number of units."""
    lines = [f"{kernel}×{kernel}, {width}" for kernel, width in stage.convs]
    if len(lines) == 1:
        return f"[ {lines[0]} ] × {stage.num_units}"
    middle = (len(lines) - 1) // 2
    left, right = (top + side * (len(lines) - 2) + bottom for top, side, bottom in ("⎡⎢⎣", "⎤⎥⎦"))
    width = max(map(len, lines))
    return "\n".join(
        f"{left[i]} {line:<{width}} {right[i]}" + (f" × {stage.num_units}" if i == middle else "")
        for i, line in enumerate(lines)
    )


def count_multiply_adds(network: Network, images: Images) -> int:
    """Return the multiply-adds of one image's forward pass, counted on the network."""
    return sum(part.multiply_adds for part in parts(network, images))
