"""Hydra's way in: hands the jobs that its sweeper composed to `resnet_repro.sweep`, a process each."""

import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class ProcessLauncher(Launcher):
    """Runs each job in a process of its own that knows no Hydra.

    Under Hydra's basic launcher every rank that Lightning starts would run the whole sweep again.
    """

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.loader = config, hydra_context.config_loader

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from resnet_repro.experiment import make_jobs, print_tables, show_plan
        from resnet_repro.ranks import given
        from resnet_repro.sweep import run_as, run_jobs

        request = make_jobs(self._compose, job_overrides)
        if request.plan:
            sys.exit(show_plan(request.jobs))
        rank = given()
        status = run_jobs(request.jobs) if rank is None else run_as(rank, request.jobs)
        if rank is None:
            print_tables(request)
        sys.exit(status)

    def _compose(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The config of these overrides as plain containers, and which option each config group took."""
        composed = self.loader.load_sweep_config(self.config, list(overrides))
        ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        config = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
        assert isinstance(config, dict)
        return {str(key): value for key, value in config.items()}, dict(composed.hydra.runtime.choices)
