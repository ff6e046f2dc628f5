"""The place of this process among the processes of a run."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Rank:
    """One of the `world_size` processes that train a run together, each on a device; by default the only process."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """The rank among the processes of this node."""
    started_by: Literal["sweep", "torchrun", "srun"] = "sweep"
    meeting_point: Path | None = None
    """File through which the ranks of a sweep's job find each other. A file cannot clash, as ports can."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0


LEFT_OVER = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "GLOBAL_RANK", "ROLE_RANK", "JSM_NAMESPACE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "NNODES", "MASTER_ADDR", "MASTER_PORT"),
)
"""Variables by which libraries take their process for a rank. A shell may still hold them from an earlier launcher."""


def rank_from_environment() -> Rank | None:
    """Return the rank that torchrun or srun has given this process; None if neither has started several processes."""
    e = os.environ
    if "TORCHELASTIC_RUN_ID" in e and "RANK" in e:
        return Rank(int(e["RANK"]), int(e["WORLD_SIZE"]), int(e["LOCAL_RANK"]), "torchrun")
    if int(e.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return Rank(int(e["SLURM_PROCID"]), int(e["SLURM_STEP_NUM_TASKS"]), int(e["SLURM_LOCALID"]), "srun")
    return None


def forget_left_over() -> None:
    """Remove the rank variables from the environment of this process, unless torchrun or srun has just set them.

    SLURM's own variables stay: a SLURM job of one task needs them, and they mislead no library here.
    """
    if rank_from_environment() is None:
        for name in LEFT_OVER:
            os.environ.pop(name, None)
