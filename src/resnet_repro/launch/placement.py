"""How many runs go on this machine at a time, and whether each has the memory it needs. Imports no torch."""

from collections.abc import Iterable

from resnet_repro.data.options import InMemory
from resnet_repro.errors import UserError
from resnet_repro.machine import gpus, num_cores, smallest_gpu
from resnet_repro.networks import costs
from resnet_repro.networks.options import Comparator
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Run

MAX_RUNS_PER_GPU = 4
"""Runs that `jobs=auto` puts on one GPU at most. [open: not measured; with small networks a GPU waits for its host]"""

GPU_OVERHEAD = 1.0 * 2**30
"""Bytes of a GPU that a process takes beside its tensors: CUDA's context, libraries, workspaces of convolutions."""


def check_devices(jobs: list[Job]) -> None:
    """Refuse a device that this machine has not.

    Raises:
        UserError: one line that says what to do.
    """
    if any(job.run.hardware.accelerator == "gpu" for job in jobs) and not gpus():
        raise UserError("hardware=gpu needs a CUDA device and none is visible; use hardware=cpu or auto")
    if any(job.run.hardware.graph and not on_gpu(job) for job in jobs):
        raise UserError("hardware.graph=true needs a CUDA device; leave it out on a CPU")
    needed = max((job.num_devices for job in jobs if on_gpu(job)), default=0)
    if needed > len(gpus()):
        raise UserError(f"hardware.devices={needed} is more than the {len(gpus())} visible CUDA devices; ask for fewer")
    if any(job.run.hardware.num_nodes > 1 for job in jobs):
        raise UserError("hardware.num_nodes=2 and more needs hardware=slurm_... or torchrun on every node")


def check_memory(jobs: list[Job]) -> None:
    """Refuse to train what one of this machine's GPUs cannot hold.

    Raises:
        UserError: one line that says what to do.
    """
    for job in (job for job in jobs if on_gpu(job)):
        if (needs := memory_needed(job.run)) > (has := smallest_gpu()):
            instead = "a smaller schedule.batch_size"
            if not job.run.hardware.recompute and not isinstance(job.run.network, Comparator):
                instead = "hardware.recompute=true"
            gib = f"{needs / 2**30:.1f} GiB of GPU memory and there are {has / 2**30:.1f}"
            raise UserError(f"{job.name} needs about {gib}; use {instead}")


def on_gpu(job: Job) -> bool:
    """Whether the run will train on a GPU of this machine."""
    asked = job.run.hardware.accelerator
    return asked == "gpu" or (asked == "auto" and bool(gpus()))


def num_parallel(jobs: list[Job]) -> int:
    """Runs at a time: as asked, else as many as there are GPUs, with their memory, or CPU cores for."""
    asked = jobs[0].run.jobs
    if asked != "auto":
        return int(asked)
    devices = max(job.num_devices for job in jobs)
    if any(on_gpu(job) for job in jobs):
        if not gpus():  # a plan made on a machine without the runs' GPU
            return 1
        return max(1, len(gpus()) * _runs_per_gpu(jobs) // devices)
    return max(1, num_cores() // (devices * jobs[0].run.hardware.num_threads))


def _runs_per_gpu(jobs: Iterable[Job]) -> int:
    """How many share a GPU: those that compute alone and fit together, each with a core that feeds it."""
    jobs = list(jobs)
    if any(job.num_devices > 1 or isinstance(job.run.network, Comparator) for job in jobs):
        return 1  # ranks wait for each other, and a comparator's memory is not known
    fit = int(0.9 * smallest_gpu() / max(memory_needed(job.run) for job in jobs))
    return max(1, min(MAX_RUNS_PER_GPU, fit, num_cores() // len(gpus())))


def memory_needed(run: Run) -> float:
    """Return the bytes of one GPU that a run takes at least: its images, activations, weights and CUDA itself.

    Of a comparator without its activations, which are not known before it runs.
    """
    data, hardware = run.data, run.hardware
    channels, size, _ = data.image
    images = 0.0
    if isinstance(data, InMemory):  # all of them are on the GPU as uint8, a fifth more for the test
        images = 1.2 * data.num_train * channels * (size + 2 * data.pad) ** 2
    if isinstance(run.network, Comparator):
        return GPU_OVERHEAD + images
    kept = costs.kept_activations(
        run.network.depth,
        family=run.network.family,
        image_size=size,
        unit=run.network.unit,
        shortcut=run.network.shortcut,
        recompute=hardware.recompute,
    )
    batch = run.schedule.batch_size // hardware.world_size
    bytes_each = 4 if hardware.precision == "32-true" else 2
    return GPU_OVERHEAD + images + float(batch * kept * bytes_each)
