"""How many runs share a GPU: with a stand-in for CUDA's driver, which says what GPUs there are and does no more."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from resnet_repro import depths
from resnet_repro.resnet import ResNet
from tests.commands import run
from tests.test_recompute import step

DRIVER = """
#include <stddef.h>
#include <stdlib.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = atoi(getenv("GPUS")); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(atof(getenv("GIB")) * (1 << 30)); return 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 whose GPUs the variables GPUS and GIB describe."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.c").write_text(DRIVER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "cuda.c"], check=True)
    return folder


def train(driver: Path, *options: str, home: Path, gpus: int, gib: float) -> tuple[int, str]:
    variables = {"LD_LIBRARY_PATH": str(driver), "GPUS": str(gpus), "GIB": str(gib)}
    return run("train.py", *options, "logger=csv", "data.root=.", "data.download=false", home=home, variables=variables)


@pytest.mark.parametrize(
    ("options", "gpus", "gib", "at_a_time"),
    [
        (("seed=0,1,2,3,4,5,6,7",), 1, 80, min(4, len(os.sched_getaffinity(0)))),
        (("seed=0,1,2,3,4,5,6,7",), 1, 2.0, 1),  # 1.4 GiB each
        (("seed=0,1,2,3,4,5,6,7", "jobs=8"), 1, 2.0, 8),
        (("seed=0,1,2,3,4,5,6,7", "hardware=ddp_2gpu"), 4, 80, 2),
        (("seed=0,1,2,3,4,5,6,7", "hardware=cpu"), 4, 80, len(os.sched_getaffinity(0))),
    ],
    ids=["small", "memory", "asked for", "ranks", "cpu"],
)
def test_small_runs_share_a_gpu_as_its_memory_and_the_cores_allow(
    options: tuple[str, ...], gpus: int, gib: float, at_a_time: int, driver: Path, tmp_path: Path
) -> None:
    status, output = train(driver, "-m", "plan=true", *options, home=tmp_path, gpus=gpus, gib=gib)
    assert status == 0, output
    assert f", {at_a_time} at a time" in output


def test_a_run_that_no_gpu_can_hold_is_refused_with_what_to_do(driver: Path, tmp_path: Path) -> None:
    deep = ("depth=1001", "arch=resnet_v2", "schedule.batch_size=512")
    status, output = train(driver, *deep, home=tmp_path, gpus=1, gib=24)
    assert status == 2
    assert "needs about 37.8 GiB of GPU memory and there are 24.0; use hardware.recompute=true" in output
    status, output = train(driver, *deep, "hardware.recompute=true", home=tmp_path, gpus=1, gib=24)
    assert "GiB" not in output
    assert "no cifar10 in" in output  # which is what is missing next


@pytest.mark.parametrize(
    ("depth", "words"),
    [
        (20, {"shortcut": "A"}),
        (56, {"shortcut": "none"}),
        (29, {"shortcut": "B", "order": "full_preact", "unit": "bottleneck"}),
    ],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_the_activations_reckoned_are_those_that_autograd_keeps(depth: int, words: dict[str, str], bf16: bool) -> None:
    net = ResNet(depth=depth, family="cifar", num_classes=10, **words)
    _, num_bytes = step(net, bf16=bf16)
    weights = (2 if bf16 else 4) * sum(p.numel() for p in net.parameters())  # autocast's copies are kept, too
    asked = {"unit": words.get("unit", "auto"), "shortcut": words["shortcut"]}
    reckoned = depths.kept_activations(depth, family="cifar", image_size=32, **asked) * (2 if bf16 else 4)
    assert (num_bytes - weights) / 16 == pytest.approx(reckoned, rel=0.1)
