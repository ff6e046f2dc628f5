"""Which of a run's processes this one is. Imports no torch: the launching process asks, too."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Rank:
    """One of the `world_size` processes, a device each, that train a run together; alone by default."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Among the processes of this node."""
    started_by: Literal["sweep", "torchrun", "srun"] = "sweep"
    meeting_point: Path | None = None
    """File through which the ranks that a sweep started find each other: no port, so no clash of ports."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0


LEFT_OVER = (
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "GLOBAL_RANK", "ROLE_RANK", "JSM_NAMESPACE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "NNODES", "MASTER_ADDR", "MASTER_PORT"),
)
"""Variables from which libraries conclude that their process is a rank of something. A shell may still hold them."""


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

    SLURM's own variables stay: a SLURM job of one task needs them, and no library here decides by them.
    """
    if rank_from_environment() is None:
        for name in LEFT_OVER:
            os.environ.pop(name, None)
