"""`summary=true`: what a network is made of, as v1 Table 1 prints it."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from resnet_repro.launch import plan
from resnet_repro.networks import parts
from resnet_repro.networks.parts import Part
from resnet_repro.report import network_table
from resnet_repro.runs.job import make_job
from resnet_repro.runs.options import Run
from tests.helpers.commands import run as command
from tests.helpers.runs import composed, network_of, resolved

IMAGENET = ("data=imagenet",)
BOTTLENECK = """\
⎡ 1×1, 128 ⎤
⎢ 3×3, 128 ⎥ × 4
⎣ 1×1, 512 ⎦"""


def count_parts(run: Run) -> list[Part]:
    return parts.parts(run.network, run.images)


def shown(*overrides: str, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    jobs = [make_job(composed(*overrides, f"seed={seed}"), usual=composed(*overrides)) for seed in (0, 1)]
    assert network_table.show(jobs, console=console) == 0
    return console.file.getvalue()


def test_the_50_layer_net_is_v1_table_1s_column() -> None:
    found = count_parts(resolved(*IMAGENET, "depth=50"))
    assert [part.name for part in found] == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", ""]
    assert [part.size for part in found] == [112, 56, 28, 14, 7, 1]
    assert found[0].layers == "7×7, 64, stride 2"
    assert found[1].layers.startswith("3×3 max pool, stride 2\n⎡ 1×1, 64  ⎤")
    assert found[2].layers == BOTTLENECK
    assert found[5].layers == "average pool, 1000-d fc, softmax"


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808), (200, 64_673_832)],
)
def test_the_parts_of_an_imagenet_net_have_its_published_number_of_parameters(depth: int, parameters: int) -> None:
    config = resolved(*IMAGENET, f"depth={depth}")
    found = count_parts(config)
    assert sum(part.parameters for part in found) == parameters
    assert sum(part.multiply_adds for part in found) == plan.multiply_adds(config)


@pytest.mark.parametrize(
    "options",
    [
        ("depth=20",),
        ("depth=20", "arch=plain"),
        ("depth=164", "arch=resnet_v2"),
        ("depth=110", "arch=resnet_v2", "arch.unit=one_layer"),
        ("depth=20", "arch.mix=exclusive_gate", "arch.shortcut=C"),
        ("data=digits", "depth=20"),
        ("arch=torchvision", "arch.name=squeezenet1_1"),
        ("arch=timm", "arch.name=vit_tiny_patch16_224", "arch.image_size=224"),
    ],
)
def test_the_parts_of_a_net_are_all_of_it(options: tuple[str, ...]) -> None:
    config = resolved(*options)
    found = count_parts(config)
    assert sum(part.parameters for part in found) == sum(p.numel() for p in network_of(config).parameters())
    assert sum(part.multiply_adds for part in found) == plan.multiply_adds(config)


def test_a_unit_of_one_layer_is_one_line() -> None:
    found = count_parts(resolved("depth=110", "arch.unit=one_layer"))
    assert [part.layers for part in found[1:4]] == [f"[ 3×3, {width} ] × 36" for width in (16, 32, 64)]


def test_the_papers_count_stands_below_ours_and_seeds_are_one_network() -> None:
    output = shown("depth=20")
    assert output.count("conv1") == 1
    assert "269,722" in output
    assert "0.27 M" in output
    assert "v1 Table 6" in output
    assert "printed" not in shown("depth=26")  # not in the paper


def test_the_multiply_adds_of_v1_table_1_stand_below_ours() -> None:
    output = shown("data=imagenet", "depth=152")
    assert "11,282,415,616" in output
    assert "11.3 × 10⁹" in output
    assert "v1 Table 1" in output


@pytest.mark.slow
def test_the_command_prints_every_network_and_makes_no_run(tmp_path: Path) -> None:
    status, output = command("train.py", "summary=true", "depth=20,56", "arch=resnet_v2", home=tmp_path)
    assert status == 0, output
    assert output.count("conv4_x") == 2
    assert not (tmp_path / "outputs" / "cifar10").exists()


def test_no_number_is_cut_off_on_a_narrow_terminal() -> None:
    narrow = shown(*IMAGENET, "depth=152", width=80)
    assert "…" not in narrow
    assert "11,282,415,616" in narrow
    assert max(map(len, narrow.splitlines()[2:])) <= 80
