"""This machine's GPUs, their memory and CPU cores; signals that ask a run to stop; memory that imports take."""

import ctypes
import gc
import math
import os
import platform
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path


@cache
def gpus() -> list[str]:
    """Return the names in CUDA_VISIBLE_DEVICES of the devices that CUDA's driver shows; asks the driver, not torch."""
    count = ctypes.c_int(0)
    driver = _driver()
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[: count.value] if visible else [str(i) for i in range(count.value)]


@cache
def smallest_gpu() -> int:
    """Return the bytes of memory of the smallest visible GPU, including what other processes use."""
    driver = _driver()
    assert driver is not None, "there is no GPU"
    sizes = []
    for ordinal in range(len(gpus())):
        device, size = ctypes.c_int(0), ctypes.c_size_t(0)
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        sizes.append(size.value)
    return min(sizes)


@cache
def describe() -> str:
    """Return the names of this machine's processor and GPUs, and how many cores this process may use."""
    names = [line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    driver, models = _driver(), []
    for ordinal in range(len(gpus())):
        assert driver is not None
        name = ctypes.create_string_buffer(100)
        driver.cuDeviceGetName(name, len(name), ordinal)
        models.append(name.value.decode())
    return ", ".join([f"{processor} with {num_cores()} cores", *models])


@cache
def _driver() -> ctypes.CDLL | None:
    """Return CUDA's driver; None if there is none. Callers must not make a CUDA context."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


MPS_CONTROL = "nvidia-cuda-mps-control"
"""The program that starts and ends NVIDIA's Multi-Process Service; it comes with the driver."""


def has_mps() -> bool:
    """Return whether the Multi-Process Service is installed. Whether it works is known once it runs."""
    return shutil.which(MPS_CONTROL) is not None


def num_cores() -> int:
    """Return how many CPU cores this process may use, by affinity, control groups' quotas and SLURM's allocation."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allocation = os.environ.get("SLURM_CPUS_ON_NODE", "")
    limits = [*cpu_quotas(), int(allocation) if allocation.isdigit() else affinity]
    return max(1, math.ceil(min(affinity, *limits)))


def cpu_quotas(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> list[float]:
    """Return the CPU quotas, in cores, of this process's control groups (version 1 or 2) and of the groups above them.

    joblib's cpu_count sees the quota of a container, but not of a group below the mount, such as systemd and SLURM
    make, and takes 0.2 s to import.
    """
    quotas = []
    for line in _lines(groups):
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = mount / controllers / group.lstrip("/")
        for folder in (own, *own.parents[: len(Path(group).parts) - 1]):  # in a container, only the mount exists
            version_2 = " ".join(_lines(folder / "cpu.max")).split()
            version_1 = _lines(folder / "cpu.cfs_quota_us") + _lines(folder / "cpu.cfs_period_us")
            for quota, period in filter(None, [version_2, version_1]):
                if quota.isdigit():  # max or -1: no quota
                    quotas.append(int(quota) / int(period))
    return quotas


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""Signals that ask a run to save its state and end: Ctrl-C, and those that schedulers send before they end a job."""


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Spare imports the search for garbage, a sixth of their time: they make a million objects that all stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor are they searched later, or copied by each process that is forked from this one
        if was_enabled:
            gc.enable()
