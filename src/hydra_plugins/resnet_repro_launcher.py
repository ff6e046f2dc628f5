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
        from resnet_repro.experiment import make_jobs, print_tables, show_plan
        from resnet_repro.ranks import given

        self._refuse_another_launcher(job_overrides)
        request = make_jobs(self._compose, job_overrides)
        if request.summary:
            from resnet_repro.summary import show  # torch

            sys.exit(show(request.jobs))
        if request.plan:
            sys.exit(show_plan(request.jobs))
        if self.slurm:
            status = slurm.run_jobs(request.jobs, self.slurm)
        elif rank := given():
            sys.exit(sweep.run_as(rank, request.jobs))
        else:
            status = sweep.run_jobs(request.jobs)
        print_tables(request)
        sys.exit(status)

    def _refuse_another_launcher(self, job_overrides: Sequence[Sequence[str]]) -> None:
        """One command submits one array of like jobs: a launcher is made before its jobs are known."""
        from resnet_repro.errors import UserError

        hardware = {tuple(o for o in overrides if o.startswith("hardware")) for overrides in job_overrides}
        for overrides in sorted(hardware):
            composed = self.loader.load_sweep_config(self.config, list(overrides))
            asked, ours = (OmegaConf.to_container(c.hydra.launcher, resolve=True) for c in (composed, self.config))
            if asked != ours:
                raise UserError("the runs of one command through SLURM share their hardware: give hardware one value")

    def _compose(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The config of these overrides as plain containers, and which option each config group took."""
        composed = self.loader.load_configuration(self.config.hydra.job.config_name, list(overrides), RunMode.RUN)
        ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        config = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
        assert isinstance(config, dict)
        return {str(key): value for key, value in config.items()}, dict(composed.hydra.runtime.choices)
