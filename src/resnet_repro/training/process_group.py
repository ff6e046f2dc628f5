"""How the processes of one run meet and exchange values. A single process is a group of one and sends nothing."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from resnet_repro.errors import Stopped, UserError
from resnet_repro.runs.ranks import Rank, forget_left_over


@contextmanager
def joined(rank: Rank, *, accelerator: str) -> Iterator[ClusterEnvironment]:
    """Meet the other ranks. Yield an environment that tells Lightning to start no processes, because all exist.

    The group is dissolved at the end of the context, and after a refusal or a stop, which reach all ranks at the same
    place. After any other exception the group is left as it is, because the other ranks may be gone or still waiting.

    Raises:
        UserError: if Lightning cannot use srun's options.
    """
    forget_left_over()
    rank_zero_only.rank = rank.rank  # type: ignore[attr-defined]  # Lightning read it from the environment at import
    environment: ClusterEnvironment
    if rank.started_by == "torchrun":
        environment = TorchElasticEnvironment()
    elif rank.started_by == "srun" and rank.world_size > 1:
        try:
            environment = SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:
            raise UserError(str(error)) from None
        os.environ |= {"MASTER_ADDR": environment.main_address, "MASTER_PORT": str(environment.main_port)}
    else:
        environment = LightningEnvironment()
    if rank.world_size == 1:
        yield environment
        return
    store = None
    if rank.started_by == "sweep":
        os.environ |= {"LOCAL_RANK": str(rank.local_rank), "NODE_RANK": "0"}  # where Lightning looks
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        store = dist.FileStore(str(rank.meeting_point), rank.world_size)
    backend = "nccl" if accelerator == "gpu" else "gloo"
    if accelerator == "gpu":
        torch.cuda.set_device(rank.local_rank)  # `gather` before training sends through this rank's own GPU
    dist.init_process_group(backend, store=store, rank=rank.rank, world_size=rank.world_size)
    try:
        yield environment
    except (UserError, Stopped):
        dist.destroy_process_group()  # threads of the group that outlive the interpreter can abort the process
        raise
    dist.destroy_process_group()


def gather(mine: Any) -> list[Any]:
    """Return every rank's value, in the order of the ranks, on all ranks."""
    if not dist.is_initialized():
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def any_rank(*mine: bool) -> list[bool]:
    """Return for each flag whether it is set on any rank."""
    if not dist.is_initialized():
        return list(mine)
    flags = torch.tensor(mine, dtype=torch.int32, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()]


def from_first(mine: Any) -> Any:
    """Return rank 0's value on all ranks."""
    if not dist.is_initialized():
        return mine
    box = [mine]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def check_same(about: dict[str, Any]) -> None:
    """Check that every rank has the same config, data, code and weights.

    Raises:
        UserError: on all ranks; names the differing keys and the first rank that differs.
    """
    everyone = gather(about)
    for number, other in enumerate(everyone):
        differ = sorted(key for key in about | other if other.get(key) != everyone[0].get(key))
        if differ:
            values = ", ".join(
                f"{key} is {everyone[0].get(key)} on rank 0 and {other.get(key)} on rank {number}" for key in differ
            )
            raise UserError(f"the ranks of one run must agree: {values}; start all of them with the same command")


def share_buffers(net: nn.Module) -> None:
    """Give every rank the batch-norm statistics of rank 0, which are evaluated and saved.

    Each rank normalises with the statistics of its own images, as the papers' GPUs did. The running averages of the
    other ranks are used nowhere, so nothing is lost.
    """
    if dist.is_initialized():
        for buffer in net.buffers():
            dist.broadcast(buffer, src=0)
