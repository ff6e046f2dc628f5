"""Hydra's way in: hands the jobs that its sweeper composed to `resnet_repro.sweep`, or to `resnet_repro.slurm`."""

import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf


class JobLauncher(Launcher):
    """Runs each job in a process of its own that knows no Hydra; as a SLURM job where it is given SLURM's options.

    Under Hydra's basic launcher every rank that Lightning starts would run the whole sweep again.
    """

    def __init__(self, **slurm: Any) -> None:
        self.slurm = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in slurm.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.loader = config, hydra_context.config_loader

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from resnet_repro import slurm, sweep
        from resnet_repro.config import make_job
        from resnet_repro.ranks import given

        usual: dict[tuple[str, str], dict[str, Any]] = {}  # what an architecture and a data set are without overrides
        jobs = []
        for overrides in job_overrides:
            composed = self.loader.load_sweep_config(self.config, list(overrides))
            self._refuse_another_launcher(composed)
            choices = composed.hydra.runtime.choices
            key = choices["arch"], choices["data"]
            if key not in usual:
                usual[key] = self._usual(*key)
            jobs.append(make_job(_plain(composed), usual=usual[key]))
        rank = given()
        if self.slurm:
            sys.exit(slurm.run_jobs(jobs, self.slurm))
        sys.exit(sweep.run_jobs(jobs) if rank is None else sweep.run_as(rank, jobs))

    def _refuse_another_launcher(self, composed: DictConfig) -> None:
        """One command submits one array of like jobs: a launcher is made before its jobs are known."""
        from resnet_repro.errors import UserError

        asked, ours = (OmegaConf.to_container(c.hydra.launcher, resolve=True) for c in (composed, self.config))
        if asked != ours:
            raise UserError("the runs of one command through SLURM share their hardware: give hardware one value")

    def _usual(self, arch: str, data: str) -> dict[str, Any]:
        overrides = [f"arch={arch}", f"data={data}"]
        return _plain(self.loader.load_configuration(self.config.hydra.job.config_name, overrides, RunMode.RUN))


def _plain(composed: DictConfig) -> dict[str, Any]:
    """Our part of a config as plain containers."""
    ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    config = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}
