"""What this machine has: GPUs, their memory, CPU cores, and the signals that ask a run to stop. Imports no torch."""

import ctypes
import math
import os
import signal
from functools import cache
from pathlib import Path


@cache
def gpus() -> list[str]:
    """The CUDA devices that the driver shows, as CUDA_VISIBLE_DEVICES names them; asked without torch."""
    count = ctypes.c_int(0)
    driver = _driver()
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[: count.value] if visible else [str(i) for i in range(count.value)]


@cache
def smallest_gpu() -> int:
    """Bytes of memory of the smallest visible GPU, whatever others use of it."""
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
def _driver() -> ctypes.CDLL | None:
    """CUDA's driver, asked for nothing that makes a context."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def num_cores() -> int:
    """CPU cores that this process may use: by affinity, by the quota of a container, and by what SLURM allocated."""
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allocated = os.environ.get("SLURM_CPUS_ON_NODE", "")
    limits = [*cpu_quotas(), int(allocated) if allocated.isdigit() else granted]
    return max(1, math.ceil(min(granted, *limits)))


def cpu_quotas(groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> list[float]:
    """Cores' worth of time that Linux grants this process's control groups, of version 1 or 2, and those above them.

    joblib's cpu_count sees the quota of a container, but not of a group below the mount, as systemd and SLURM make
    them, and takes 0.2 s to import.
    """
    quotas = []
    for line in _lines(groups):
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = mount / controllers / group.lstrip("/")
        for folder in (own, *own.parents[: len(Path(group).parts) - 1]):  # in a container, the mount alone is there
            version_2 = " ".join(_lines(folder / "cpu.max")).split()
            version_1 = _lines(folder / "cpu.cfs_quota_us") + _lines(folder / "cpu.cfs_period_us")
            for quota, period in filter(None, [version_2, version_1]):
                if quota.isdigit():  # else max, or -1
                    quotas.append(int(quota) / int(period))
    return quotas


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
"""What asks a run to save its state and end: a person's Ctrl-C, and what schedulers send before they end a job."""
