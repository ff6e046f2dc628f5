"""How many runs share a GPU and how, by stand-ins for CUDA's driver and MPS; cores and quotas of a CPU."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from resnet_repro import machine
from resnet_repro.launch import mps, placement
from resnet_repro.launch.local import LocalProcesses
from resnet_repro.machine import cpu_quotas, num_cores
from resnet_repro.networks import costs
from resnet_repro.networks.resnet import ResNet
from resnet_repro.runs.job import Job, make_job
from tests.helpers.commands import run, start, wait_for_step
from tests.helpers.networks import training_step
from tests.helpers.runs import composed, resolved

DRIVER = """
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *count) { *count = atoi(getenv("GPUS")); return 0; }
int cuDeviceGetName(char *name, int size, int device) { return strncpy(name, "Example GPU", size) == NULL; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
  if (getenv("HANGS")) sleep(60);
  return getenv("CONTEXT") ? atoi(getenv("CONTEXT")) : 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)(atof(getenv("GIB")) * (1 << 30)); return 0; }
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a libcuda.so.1 whose GPUs the variables GPUS and GIB describe."""
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
        (("seed=0,1,2,3,4,5,6,7",), 1, 80, min(2, num_cores())),
        (("seed=0,1,2,3,4,5,6,7",), 1, 2.0, 1),  # 1.4 GiB each
        (("seed=0,1,2,3,4,5,6,7", "jobs=8"), 1, 2.0, 8),
        (("seed=0,1,2,3,4,5,6,7", "hardware=ddp_2gpu"), 4, 80, 2),
        (("seed=0,1,2,3,4,5,6,7", "hardware=cpu"), 4, 80, num_cores()),
    ],
    ids=["small", "memory", "asked for", "ranks", "cpu"],
)
def test_small_runs_share_a_gpu_within_its_memory_and_the_cores(
    options: tuple[str, ...], gpus: int, gib: float, at_a_time: int, driver: Path, tmp_path: Path
) -> None:
    status, output = train(driver, "-m", "plan=true", *options, home=tmp_path, gpus=gpus, gib=gib)
    assert status == 0, output
    assert f", {at_a_time} at a time" in output


@pytest.mark.parametrize(("mps", "has_mps", "at_a_time"), [("true", True, 8), ("true", False, 2), ("false", True, 2)])
def test_a_gpu_takes_eight_runs_through_mps_and_two_without(
    mps: str, has_mps: bool, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_is(monkeypatch, has_mps=has_mps)
    jobs = jobs_of("data=digits", f"mps={mps}", num=9)
    assert placement.num_parallel(jobs) == at_a_time
    assert placement.num_parallel(jobs, mps=False) == 2
    assert placement.num_parallel(jobs_of("data=imagenet", "depth=18", f"mps={mps}", num=9)) == 2, "each fills the GPU"
    assert placement.num_parallel(jobs_of("data=digits", "jobs=5", num=9), mps=False) == 5, "as asked for"


def machine_is(monkeypatch: pytest.MonkeyPatch, *, has_mps: bool = False, num_gpus: int = 1) -> None:
    facts = {"gpus": ["0", "1"][:num_gpus], "smallest_gpu": 80 * 2**30, "num_cores": 16, "has_mps": has_mps}
    for name, value in facts.items():
        monkeypatch.setattr(placement, name, lambda value=value: value)


def jobs_of(*options: str, num: int) -> list[Job]:
    config, usual = composed(*options), composed(options[0])
    return [make_job(config | {"seed": seed}, usual=usual) for seed in range(num)]


def test_runs_that_share_a_gpu_take_longer_each_and_less_in_all_through_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    """An H100 took 1.44, 2.19 and 3.87 times as long over each step in two, four and eight runs through MPS."""
    run, on_cpu = resolved("data=digits"), resolved("data=digits", "hardware=cpu")
    machine_is(monkeypatch, has_mps=True)
    assert [placement.slowdown(run, n) for n in (1, 2, 4, 8)] == pytest.approx([1, 1.44, 2.19, 3.87], rel=0.03)
    assert placement.slowdown(resolved("data=imagenet", "depth=18"), 2) == 2, "each fills the GPU"
    machine_is(monkeypatch)
    assert [placement.slowdown(run, n) for n in (1, 2, 4)] == [1, 2, 4], "they take turns"
    machine_is(monkeypatch, num_gpus=2)
    assert [placement.slowdown(run, n) for n in (0, 1, 2, 4)] == [1, 1, 1, 2]
    assert placement.slowdown(on_cpu, 2) == 1


CONTROL = """#!/bin/sh
if [ "$1" != -d ]; then read command; fi
echo "$* $command, pipes exist: $(test -d "$CUDA_MPS_PIPE_DIRECTORY" && echo yes), $CUDA_VISIBLE_DEVICES" >> "$CALLS"
exit $STATUS
"""


@pytest.fixture
def control(driver: Path, tmp_path: Path) -> dict[str, str]:
    """Return the variables of a machine with a GPU and a stand-in for MPS's control program, which notes its calls."""
    program = tmp_path / "bin" / "nvidia-cuda-mps-control"
    program.parent.mkdir()
    program.write_text(CONTROL)
    program.chmod(0o755)
    places = {"PATH": f"{program.parent}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"), "STATUS": "0"}
    return {"LD_LIBRARY_PATH": str(driver), "GPUS": "1", "GIB": "80", "CUDA_VISIBLE_DEVICES": "0", **places}


STARTED, ENDED = "-d , pipes exist: yes, \n", " quit, pipes exist: yes, \n"


def test_mps_starts_in_a_folder_of_its_own_and_quits(
    control: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in control.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/of/another/service")
    with mps.daemon() as why:
        assert why == ""
        pipes = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
        assert pipes.is_dir()
    assert (tmp_path / "calls").read_text() == STARTED + ENDED
    assert not pipes.exists()
    assert os.environ["CUDA_MPS_PIPE_DIRECTORY"] == "/of/another/service"
    assert "CUDA_MPS_LOG_DIRECTORY" not in os.environ
    monkeypatch.setenv("STATUS", "3")
    with mps.daemon() as why:
        assert why == "Runs take turns on the GPU: nvidia-cuda-mps-control ended with status 3: "
    assert (tmp_path / "calls").read_text() == STARTED + ENDED + STARTED


def test_mps_that_no_process_can_use_is_left_out(
    control: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in control.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CONTEXT", "999")
    with mps.daemon() as why:
        assert "started, but a process did not reach the GPU through it (CUDA's status: 999)" in why
        assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    monkeypatch.setenv("HANGS", "yes")
    monkeypatch.setattr(mps, "PATIENCE_S", 2)
    with mps.daemon() as why:
        assert "started, but a process did not reach the GPU through it in 2 s; mps=false saves this wait" in why
        assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    assert (tmp_path / "calls").read_text() == 2 * (STARTED + ENDED)


def test_mps_is_for_jobs_that_share_a_gpu(control: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ["0"])
    monkeypatch.setattr(placement, "gpus", lambda: ["0"])
    jobs = jobs_of("data=digits", num=2)
    assert not mps.is_due(jobs, parallel=2), "the program is not on the PATH"
    monkeypatch.setenv("PATH", control["PATH"])
    assert mps.is_due(jobs, parallel=2)
    assert not mps.is_due(jobs, parallel=1)
    assert not mps.is_due(jobs[:1], parallel=2)
    assert not mps.is_due(jobs_of("data=digits", "mps=false", num=2), parallel=2)
    assert not mps.is_due(jobs_of("data=digits", "hardware=cpu", num=2), parallel=2)
    monkeypatch.setattr(machine, "gpus", lambda: ["0", "1"])
    assert not mps.is_due(jobs, parallel=2)


@pytest.mark.parametrize(("option", "at_a_time"), [("jobs=auto", 2), ("jobs=5", 5)])
def test_a_sweep_whose_mps_serves_no_process_runs_two_at_a_time_or_as_asked(
    option: str, at_a_time: int, control: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (control | {"CONTEXT": "999"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(machine, "gpus", lambda: ["0"])
    machine_is(monkeypatch, has_mps=True)
    jobs, sweep = jobs_of("data=digits", option, num=9), LocalProcesses()
    announced = sweep.num_parallel(jobs)
    assert announced == (8 if option == "jobs=auto" else 5)
    sweep.take(jobs, {}, Console())
    with sweep:
        assert sweep.parallel == at_a_time
        assert sweep.note.startswith("Runs take turns on the GPU: nvidia-cuda-mps-control started, but")


@pytest.mark.slow
def test_mps_begins_with_a_sweep_and_ends_after_ctrl_c(control: dict[str, str], tmp_path: Path) -> None:
    """The runs themselves fall back on the CPU, as the stand-in for the driver can only list a GPU."""
    shared = ("-m", "seed=0,1", "jobs=2", "data=digits", "depth=8", "logger=csv", "mps=true", "hardware.compile=false")
    process = start("train.py", *shared, "schedule.steps=1000000", home=tmp_path, variables=control)
    wait_for_step(tmp_path / "outputs", 1, num_runs=1)
    assert (tmp_path / "calls").read_text() == STARTED
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 130, output
    assert (tmp_path / "calls").read_text() == STARTED + ENDED


def test_a_run_that_no_gpu_can_hold_is_refused_with_what_to_do(driver: Path, tmp_path: Path) -> None:
    deep = ("depth=1001", "arch=resnet_v2", "schedule.batch_size=512")
    status, output = train(driver, *deep, home=tmp_path, gpus=1, gib=24)
    assert status == 2
    assert "needs about 37.8 GiB of GPU memory and there are 24.0; use hardware.recompute=true" in output
    status, output = train(driver, *deep, "hardware.recompute=true", home=tmp_path, gpus=1, gib=24)
    assert "GiB" not in output
    assert "no cifar10 in" in output  # the next missing thing


@pytest.mark.parametrize(
    ("depth", "words"),
    [
        (20, {"shortcut": "A"}),
        (56, {"shortcut": "none"}),
        (29, {"shortcut": "B", "order": "full_preact", "unit": "bottleneck"}),
    ],
)
@pytest.mark.parametrize("bf16", [False, True])
def test_the_estimated_activations_are_those_autograd_keeps(depth: int, words: dict[str, str], bf16: bool) -> None:
    net = ResNet(depth=depth, family="cifar", num_classes=10, **words)
    _, num_bytes = training_step(net, bf16=bf16)
    weights = (2 if bf16 else 4) * sum(p.numel() for p in net.parameters())  # autocast's copies are kept, too
    options = {"unit": words.get("unit", "auto"), "shortcut": words["shortcut"]}
    estimate = costs.kept_activations(depth, family="cifar", image_size=32, **options) * (2 if bf16 else 4)
    assert (num_bytes - weights) / 16 == pytest.approx(estimate, rel=0.1)


def write_groups(folder: Path, groups: str, files: dict[str, str]) -> dict[str, Path]:
    """Write what Linux shows a process of its control groups; return the arguments of `cpu_quotas`."""
    for name, content in {"groups": groups, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return {"groups": folder / "groups", "mount": folder}


@pytest.mark.parametrize(
    ("groups", "files", "quotas"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/\n", {"cpu.max": "max 100000\n"}, []),
        ("0::/user.slice/job\n", {"user.slice/job/cpu.max": "max 100000", "user.slice/cpu.max": "50000 25000"}, [2.0]),
        (
            "3:cpuset:/\n1:cpu:/\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            [1.0],
        ),
        (
            "4:cpu,cpuacct:/docker/5f0e\n",  # as a container without a namespace of groups sees it
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"},
            [3.0],
        ),
        ("1:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, []),
    ],
)
def test_the_quota_of_a_container_is_read(
    tmp_path: Path, groups: str, files: dict[str, str], quotas: list[float]
) -> None:
    assert cpu_quotas(**write_groups(tmp_path, groups, files)) == quotas


def test_cores_are_those_of_affinity_quota_and_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(machine, "cpu_quotas", lambda: [])
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    assert num_cores() == 16
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    assert num_cores() == 8
    monkeypatch.setattr(machine, "cpu_quotas", lambda: [2.5, 6.0])
    assert num_cores() == 3
    monkeypatch.setattr(machine, "cpu_quotas", lambda: [0.5])
    assert num_cores() == 1
