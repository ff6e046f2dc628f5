"""Whether this machine has the devices and the memory that runs need, and how many runs it takes at a time."""

import math

from resnet_repro.data.options import InMemory
from resnet_repro.errors import UserError
from resnet_repro.machine import gpus, has_mps, num_cores, smallest_gpu
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Run

MAX_RUNS_PER_GPU, MAX_RUNS_WITH_MPS = 2, 8
"""The most runs that `jobs=auto` puts on one GPU.

Two runs of CUDA graphs took their steps on an H100 in turns, in sum as fast as one run. So a second run only fills the
pauses of the first, its start and its end. Through MPS, eight runs of ResNet-20 were in sum 1.1 times as fast as four.
"""

WAITS_FOR_EACH, WAITS_WITH_MPS = 1.0, 0.4
"""How much longer a step gets with each other run on the same GPU, as a share of the step's time alone.

An H100 took 1.44, 2.19 and 3.87 times as long over a step of ResNet-20 in two, four and eight runs through MPS.
"""

GPU_OVERHEAD = 1.0 * 2**30
"""Bytes of GPU memory that a process needs beside its tensors: CUDA context, libraries, workspaces of convolutions."""


def check_devices(jobs: list[Job]) -> None:
    """Check that this machine has the devices that jobs ask for.

    Raises:
        UserError: if it does not.
    """
    if any(job.run.hardware.accelerator == "gpu" for job in jobs) and not gpus():
        raise UserError("hardware=gpu needs a CUDA device and none is visible; use hardware=cpu or auto")
    if any(job.run.hardware.graph is True and not on_gpu(job) for job in jobs):
        raise UserError("hardware.graph=true needs a CUDA device; leave it out on a CPU")
    needed = max((job.num_devices for job in jobs if on_gpu(job)), default=0)
    if needed > len(gpus()):
        raise UserError(f"hardware.devices={needed} is more than the {len(gpus())} visible CUDA devices; ask for fewer")
    if any(job.run.hardware.num_nodes > 1 for job in jobs):
        raise UserError("hardware.num_nodes=2 and more needs hardware=slurm_... or torchrun on every node")


def check_memory(jobs: list[Job]) -> None:
    """Check that each run fits on every GPU of this machine.

    Raises:
        UserError: if a run does not.
    """
    for job in (job for job in jobs if on_gpu(job)):
        if (needs := memory_needed(job.run)) > (has := smallest_gpu()):
            instead = "a smaller schedule.batch_size"
            if not job.run.hardware.recompute and job.run.network.of_units:
                instead = "hardware.recompute=true"
            gib = f"{needs / 2**30:.1f} GiB of GPU memory and there are {has / 2**30:.1f}"
            raise UserError(f"{job.name} needs about {gib}; use {instead}")


def on_gpu(job: Job) -> bool:
    """Return whether the run will train on a GPU of this machine."""
    accelerator = job.run.hardware.accelerator
    return accelerator == "gpu" or (accelerator == "auto" and bool(gpus()))


def num_parallel(jobs: list[Job], *, mps: bool = True) -> int:
    """Return how many runs go on at a time: as `jobs` says, else as the GPUs with their memory, or the cores, allow.

    Args:
        mps: False if MPS, which may be installed, serves no process.
    """
    number = jobs[0].run.jobs
    if number != "auto":
        return int(number)
    devices = max(job.num_devices for job in jobs)
    if any(on_gpu(job) for job in jobs):
        if not gpus():  # a plan, made on a machine without a GPU
            return 1
        most = MAX_RUNS_WITH_MPS if mps and all(_overlaps(job.run) for job in jobs) else MAX_RUNS_PER_GPU
        return max(1, len(gpus()) * _runs_per_gpu(jobs, most) // devices)
    return max(1, num_cores() // (devices * jobs[0].run.hardware.num_threads))


def slowdown(run: Run, at_a_time: int) -> float:
    """Return how many times as long as alone a step takes, when so many runs like this one go on at a time."""
    if run.hardware.accelerator == "cpu" or not gpus():
        return 1.0
    others = max(0, math.ceil(at_a_time * run.hardware.devices / len(gpus())) - 1)
    return 1 + others * (WAITS_WITH_MPS if _overlaps(run) else WAITS_FOR_EACH)


def _overlaps(run: Run) -> bool:
    """Return whether MPS may let a run use a GPU at the same time as others. A network for ImageNet fills a GPU."""
    return run.mps and has_mps() and run.images.family == "cifar"


def _runs_per_gpu(jobs: list[Job], most: int) -> int:
    """Return how many runs share a GPU: only runs on one device share it, they must fit, and each needs a core."""
    if any(job.num_devices > 1 or not job.run.network.of_units for job in jobs):
        return 1  # ranks wait for each other; the memory of a comparator is unknown
    fit = int(0.9 * smallest_gpu() / max(memory_needed(job.run) for job in jobs))
    return max(1, min(most, fit, num_cores() // len(gpus())))


def memory_needed(run: Run) -> float:
    """Return how many bytes of one GPU a run needs at least: images, activations, weights and CUDA itself.

    The activations of a comparator are left out: they are not known before it runs.
    """
    data, hardware = run.data, run.hardware
    channels, size, _ = data.image
    images = 0.0
    if isinstance(data, InMemory):  # all images are on the GPU as uint8; the test set adds a fifth
        images = 1.2 * data.num_train * channels * (size + 2 * data.pad) ** 2
    kept = run.network.count_kept_activations(size, recompute=hardware.recompute)
    if kept is None:
        return GPU_OVERHEAD + images
    batch = run.schedule.batch_size // hardware.world_size
    bytes_each = 4 if hardware.precision == "32-true" else 2
    return GPU_OVERHEAD + images + float(batch * kept * bytes_each)
