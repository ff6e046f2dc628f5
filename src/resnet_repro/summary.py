"""What a network is made of, as v1 Table 1 prints it: stage by stage, with parameters and multiply-adds."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resnet_repro import paper
from resnet_repro.config import Config, Job
from resnet_repro.depths import STEMS, Stage, stages
from resnet_repro.networks import build
from resnet_repro.resnet import ResNet


class Part(NamedTuple):
    """A row of the table: what is computed from one image by a stage, the layers before the stages or those behind."""

    name: str
    size: int
    """Height and width of the output, in pixels."""
    layers: str
    """As v1 Table 1 prints them, a line each."""
    parameters: int
    multiply_adds: int


def parts(config: Config) -> list[Part]:
    """The parts of a resolved config's network, counted on the network itself, on PyTorch's meta device: exact, and
    nothing is computed. Another library's network is one part.
    """
    with torch.device("meta"):
        net = build(config).eval()
        image = torch.empty(1, *config["data"]["image"])
    sizes: dict[nn.Module, int] = {}
    for module in net.modules():
        module.register_forward_hook(lambda module, _, output: sizes.update({module: output.shape[-1]}))
    with FlopCounterMode(display=False) as counter:
        net(image)
    found = counter.get_flop_counts()
    flops = {name: sum(kinds.values()) for name, kinds in found.items()}

    def part(name: str, path: str, layers: str, *, size: int) -> Part:
        module = net.get_submodule(path)
        multiply_adds = flops.get(f"{type(net).__name__}{path and '.'}{path}", 0) // 2
        return Part(name, size, layers, sum(p.numel() for p in module.parameters()), multiply_adds)

    if not isinstance(net, ResNet):
        return [part(config["arch"]["name"], "", "", size=1)]
    family, depth, unit = (net.words[key] for key in ("family", "depth", "unit"))
    stem = STEMS[family]
    first = f"{stem.kernel}×{stem.kernel}, {stem.width}, stride {stem.stride}"
    rows = [part("conv1", "stem", first, size=sizes[net.stem[0]])]
    for number, stage in enumerate(stages(depth, family=family, unit=unit)):
        path = f"stages.{number}"
        pool = f"3×3 max pool, stride {stem.pool}\n" if number == 0 and stem.pool > 1 else ""
        rows.append(part(f"conv{number + 2}_x", path, pool + bracket(stage), size=sizes[net.get_submodule(path)]))
    end = f"average pool, {config['data']['num_classes']}-d fc, softmax"
    return [*rows, part("", "head", end, size=1)]


def bracket(stage: Stage) -> str:
    """The units of a stage as v1 Table 1 prints them: their convolutions in brackets, times their number."""
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


def show(jobs: Iterable[Job], *, console: Console | None = None) -> int:
    """Print the networks of jobs, each once, with the papers' counts where they print one.

    Returns:
        Exit status 0.
    """
    console = console or Console(soft_wrap=True)
    networks = {str(_network(job.config)): job.config for job in jobs}
    for config in networks.values():
        console.print(_table(config), highlight=False)
    return 0


def _network(config: Config) -> list[Any]:
    return [config["depth"], config["arch"], config["data"]["image"], config["data"]["num_classes"]]


def _table(config: Config) -> Table:
    arch, data = config["arch"], config["data"]
    name = arch["name"] if config["depth"] is None else f"{arch['name']}, {config['depth']} layers, {_words(arch)}"
    rows = parts(config)
    drawn = Table(title=f"{name}, on {' × '.join(map(str, data['image']))} ({data['name']})", show_lines=True)
    for heading in ("", "output", "layers"):
        drawn.add_column(heading, no_wrap=heading != "layers")  # the one that may be narrower: no number is cut off
    for heading in ("parameters", "multiply-adds"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        numbers = (f"{row.parameters:,}", f"{row.multiply_adds:,}")
        drawn.add_row(row.name, f"{row.size}×{row.size}", row.layers, *numbers)
    if len(rows) > 1:
        totals = (sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows))
        drawn.add_row("in all", "", "", *(f"{total:,}" for total in totals))
    if printed := [row for row in paper.registry() if _is_printed_of(row, config)]:
        millions = next((f"{row.params_m:g} M" for row in printed if row.params_m), "")
        giga = next((f"{row.multiply_adds_g:g} × 10⁹" for row in printed if row.multiply_adds_g), "")
        drawn.add_row("printed", "", ", ".join(dict.fromkeys(row.source for row in printed)), millions, giga)
    return drawn


def _words(arch: Config) -> str:
    return ", ".join(f"{key}={arch[key]}" for key in ("order", "shortcut", "mix", "unit", "stride_on"))


def _is_printed_of(row: paper.Published, config: Config) -> bool:
    """Whether a row counts this network: plain or residual, with whatever shortcut; the papers give both one number."""
    if config["depth"] is None or row.cell is None or not (row.params_m or row.multiply_adds_g):
        return False
    ours = paper.cell_of(config)
    return all(row.cell[key] == ours[key] for key in ("data", "depth", "order", "mix", "unit"))
