"""Hydra's way in: hands the jobs that its sweeper composed to `resnet_repro.launch`."""

import itertools
import os
import sys
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from resnet_repro.errors import UserError

OmegaConf.register_new_resolver("home", lambda folder: str(Path(str(folder)).expanduser()), replace=True)


class JobLauncher(Launcher):
    """Runs each job in a process of its own that knows no Hydra; as a SLURM job where it is given SLURM's options.

    Under Hydra's basic launcher every rank that Lightning starts would run the whole sweep again.
    """

    def __init__(self, **slurm: Any) -> None:
        self.slurm = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in slurm.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config, self.loader = config, hydra_context.config_loader
        self.task: Any = task_function
        """`resnet_repro.cli._Task`."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from resnet_repro.launch.exit_status import STOPPED
        from resnet_repro.launch.experiment import commands_of

        commands = list(itertools.chain.from_iterable(map(self._expanded, job_overrides)))
        self.commands = {tuple(command) for command in commands}
        if self.task.only_lists:
            self.task([row for command in commands for row in commands_of(self._compose, command)])
        else:
            status = self._run(commands)
            if status == STOPPED:
                sys.exit(STOPPED)
            self.task(status)
        return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]

    def _run(self, commands: list[list[str]]) -> int:
        """Do what these jobs ask for: run, plan or show them; the exit status."""
        from resnet_repro.launch import local, slurm, torchrun
        from resnet_repro.launch.experiment import make_jobs, print_tables
        from resnet_repro.launch.plan import show_plan
        from resnet_repro.runs.ranks import rank_from_environment

        self._refuse_another_launcher(commands)
        os.environ |= self._variables(commands)
        request = make_jobs(self._compose, commands)
        if request.summary:
            from resnet_repro.report.network_table import show  # torch

            return show(request.jobs)
        if request.plan:
            return show_plan(
                request.jobs, parallel=slurm.num_parallel(request.jobs, self.slurm) if self.slurm else None
            )
        if self.slurm:
            status = slurm.run_jobs(request.jobs, self.slurm)
        elif rank := rank_from_environment():
            if self.config.hydra.sweeper.max_batch_size is not None:
                raise UserError(f"hydra.sweeper.max_batch_size is of several runs, and {rank.started_by} is for one")
            return torchrun.run_as(rank, request.jobs)
        else:
            status = local.run_jobs(request.jobs)
        print_tables(request)
        return status

    def _expanded(self, overrides: Sequence[str]) -> list[list[str]]:
        """The jobs that one of the sweeper's stands for: an experiment may sweep, and then names values of its own."""
        mine, everyones = (config.hydra.sweeper.params or {} for config in (self._load(tuple(overrides)), self.config))
        names = {override.lstrip("+~").split("=")[0] for override in overrides}
        swept = {key: value for key, value in mine.items() if key not in names and value != everyones.get(key)}
        parsed = OverridesParser.create(self.loader).parse_overrides([f"{key}={swept[key]}" for key in swept])
        values = [
            [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
            if each.is_sweep_override()
            else [str(each.input_line)]
            for each in parsed
        ]
        return [[*chosen, *overrides] for chosen in itertools.product(*values)]

    def _refuse_another_launcher(self, commands: Sequence[Sequence[str]]) -> None:
        """One command submits one array of like jobs: a launcher is made before its jobs are known."""
        for overrides in commands:
            asked, ours = (_options(config) for config in (self._load(tuple(overrides)), self.config))
            if asked != ours:
                raise UserError("the runs of one command through SLURM share their hardware: give hardware one value")

    def _variables(self, commands: Sequence[Sequence[str]]) -> dict[str, str]:
        """`hydra.job.env_set`, for this process and all that it starts, on other machines too."""
        asked = [dict(self._load(tuple(overrides)).hydra.job.env_set) for overrides in commands]
        if any(variables != asked[0] for variables in asked):
            raise UserError(
                "hydra.job.env_set is the same for all runs of a command: give it one value, or a command a run"
            )
        return {str(key): str(value) for key, value in asked[0].items()}

    @cached_property
    def _load(self) -> Any:
        """From a job's overrides to its config, Hydra's own settings included; a tenth of a second each."""
        return lru_cache(1_000)(lambda overrides: self.loader.load_sweep_config(self.config, list(overrides)))

    def _compose(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The config of these overrides as plain containers, and which option each config group took."""
        if tuple(overrides) in self.commands:
            composed = self._load(tuple(overrides))
        else:  # what a job is named against: where that asks for no SLURM, it has none of SLURM's options
            of_hydra = [
                o for o in self.config.hydra.overrides.hydra if not o.lstrip("+~").startswith("hydra.launcher.")
            ]
            name = self.config.hydra.job.config_name
            composed = self.loader.load_configuration(name, [*of_hydra, *overrides], RunMode.RUN)
        ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        config = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
        assert isinstance(config, dict)
        return {str(key): value for key, value in config.items()}, dict(composed.hydra.runtime.choices)


def _options(config: DictConfig) -> dict[Any, Any]:
    """The launcher's options, but for the folder of what SLURM prints."""
    options = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    assert isinstance(options, dict)
    return {key: value for key, value in options.items() if key != "submitit_folder"}
