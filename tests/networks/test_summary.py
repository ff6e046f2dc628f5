"""`summary=true`: the parts of a network, in the form of v1 Table 1."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from resnet_repro.launch import plan
from resnet_repro.networks import parts
from resnet_repro.networks.parts import Part
from resnet_repro.report import network_table
from resnet_repro.runs.job import make_job
from resnet_repro.runs.options import Run
from tests.helpers.commands import run as command
from tests.helpers.runs import composed, network_of, resolved

BOTTLENECK = """\
⎡ 1×1, 128 ⎤
⎢ 3×3, 128 ⎥ × 4
⎣ 1×1, 512 ⎦"""


def count_parts(run: Run) -> list[Part]:
    return parts.parts(run.network, run.images)


def summary(*overrides: str, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width)
    jobs = [make_job(composed(*overrides, f"seed={seed}"), usual=composed(*overrides)) for seed in (0, 1)]
    assert network_table.show(jobs, console=console) == 0
    return console.file.getvalue()


def test_the_50_layer_net_is_the_column_of_v1_table_1() -> None:
    rows = count_parts(resolved("data=imagenet", "depth=50"))
    assert [part.name for part in rows] == ["conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x", ""]
    assert [part.size for part in rows] == [112, 56, 28, 14, 7, 1]
    assert rows[0].layers == "7×7, 64, stride 2"
    assert rows[1].layers.startswith("3×3 max pool, stride 2\n⎡ 1×1, 64  ⎤")
    assert rows[2].layers == BOTTLENECK
    assert rows[5].layers == "average pool, 1000-d fc, softmax"


@pytest.mark.parametrize(
    "options",
    [
        *(("data=imagenet", f"depth={depth}") for depth in (18, 34, 50, 101, 152, 200)),
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
def test_the_parts_of_a_network_add_up_to_it(options: tuple[str, ...]) -> None:
    run = resolved(*options)
    rows = count_parts(run)
    with torch.device("meta"):
        assert sum(part.parameters for part in rows) == sum(p.numel() for p in network_of(run).parameters())
    assert sum(part.multiply_adds for part in rows) == plan.multiply_adds(run)


def test_a_unit_of_one_layer_is_one_line() -> None:
    rows = count_parts(resolved("depth=110", "arch.unit=one_layer"))
    assert [part.layers for part in rows[1:4]] == [f"[ 3×3, {width} ] × 36" for width in (16, 32, 64)]


def test_seeds_share_one_table_with_the_papers_count() -> None:
    output = summary("depth=20")
    assert output.count("conv1") == 1
    assert "269,722" in output
    assert "0.27 M" in output
    assert "v1 Table 6" in output
    assert "printed" not in summary("depth=26")  # a depth that is not in the paper


def test_the_summary_prints_the_multiply_adds_of_v1_table_1() -> None:
    output = summary("data=imagenet", "depth=152")
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
    narrow = summary("data=imagenet", "depth=152", width=80)
    assert "…" not in narrow
    assert "11,282,415,616" in narrow
    assert max(map(len, narrow.splitlines()[2:])) <= 80
