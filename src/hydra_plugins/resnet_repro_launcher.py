"""Hydra's way in: a launcher that hands the jobs of a sweeper to `resnet_repro.launch`, and the usual sweeper."""

import itertools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from resnet_repro.conf_dir import command
from resnet_repro.errors import NotDone, UserError
from resnet_repro.runs.option_names import about_launcher, with_loggers

if TYPE_CHECKING:
    from resnet_repro.launch.experiment import Request
    from resnet_repro.launch.sweep import Result
    from resnet_repro.runs.job import Job

OmegaConf.register_new_resolver("home", lambda folder: str(Path(str(folder)).expanduser()), replace=True)
OmegaConf.register_new_resolver("command", command, replace=True)  # for conf/hydra/help


class JobLauncher(Launcher):
    """Runs each job in a process of its own, without Hydra; as a SLURM job if there are options for SLURM.

    With Hydra's basic launcher, every rank that Lightning starts would run the whole sweep again.
    """

    def __init__(self, **slurm: Any) -> None:
        self.slurm = {key: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for key, v in slurm.items()}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over.

        Raises:
            UserError: if a config file chooses another launcher (`resnet_repro.cli` refuses the option).
        """
        choice = config.hydra.runtime.choices["hydra/launcher"]
        if choice not in ("basic", "slurm"):  # basic: nobody has chosen
            raise UserError(about_launcher(f"hydra/launcher={choice}"))
        self.config, self.loader = config, hydra_context.config_loader
        self.task: Any = task_function
        """`resnet_repro.cli._Task`."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch of jobs, and return what came of each list of overrides.

        Returns:
            COMPLETED with the last validation error of the run in %, its test error if it has no validation images,
            None if the list stands for several runs or nothing was run; FAILED with a `NotDone`.

        Raises:
            UserError: if nothing was run because an option is wrong.
            SystemExit: if the batch was stopped: no sweeper goes on after a Ctrl-C.
        """
        from resnet_repro.launch.exit_status import STOPPED
        from resnet_repro.launch.experiment import commands_of, print_tables

        expanded = [self._expanded(overrides) for overrides in job_overrides]
        commands = list(itertools.chain.from_iterable(expanded))
        self.commands = {tuple(command) for command in commands}
        if self.task.only_lists:
            self._refuse_adaptive_sweeper("--cfg")
            self.task([row for command in commands for row in commands_of(self._compose, command)])
            return [JobReturn(overrides=overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]
        request, run, is_run = self._request(commands)
        folder = Path(self.config.hydra.sweep.dir)  # where sweepers write what they found; a refusal leaves no folder
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        result = run()
        if is_run:
            print_tables(request)
        if result.status == STOPPED:
            sys.exit(STOPPED)
        self.task(result)
        jobs_of = iter(request.jobs_of)
        jobs_of_each = [[job for _ in commands for job in next(jobs_of)] for commands in expanded]
        return [_returned(*each, result) for each in zip(job_overrides, jobs_of_each, strict=True)]

    def _request(self, commands: list[list[str]]) -> tuple["Request", Callable[[], "Result"], bool]:
        """Return what these jobs ask for, what does it, and whether tables of the papers follow."""
        from resnet_repro.launch.experiment import make_jobs

        self._refuse_another_launcher(commands)
        os.environ |= self._variables(commands)
        request = make_jobs(self._compose, commands)
        # only now, so that a mistake in an option is refused without waiting for these imports
        from resnet_repro.launch import local, slurm, torchrun
        from resnet_repro.launch.plan import show_plan
        from resnet_repro.launch.sweep import run_jobs
        from resnet_repro.runs.ranks import rank_from_environment

        jobs = request.jobs
        if request.summary:
            from resnet_repro.report.network_table import show  # torch

            self._refuse_adaptive_sweeper("summary=true")
            return request, partial(_told, show, jobs), False
        if request.plan:
            self._refuse_adaptive_sweeper("plan=true")
            parallel = slurm.num_parallel(jobs, self.slurm) if self.slurm else None
            return request, partial(_told, show_plan, jobs, parallel=parallel), False
        if self.slurm:
            return request, partial(run_jobs, jobs, slurm.SlurmQueue(self.slurm)), True
        if rank := rank_from_environment():
            self._refuse_adaptive_sweeper(rank.started_by)
            if self.config.hydra.sweeper.max_batch_size is not None:
                raise UserError(f"hydra.sweeper.max_batch_size is for several runs; leave it out of {rank.started_by}")
            return request, partial(torchrun.run_as, rank, jobs), False
        return request, partial(run_jobs, jobs, local.LocalProcesses()), True

    def _refuse_adaptive_sweeper(self, word: str) -> None:
        """Refuse what has to know all jobs before the first one runs, if another sweeper than ours chooses them."""
        if self.config.hydra.sweeper._target_ != GridSweeperConf._target_:
            name = self.config.hydra.runtime.choices["hydra/sweeper"]
            raise UserError(
                f"{word} needs to know all jobs beforehand, and hydra/sweeper={name} chooses them as it goes: "
                "leave one of the two out"
            )

    def _expanded(self, overrides: Sequence[str]) -> list[list[str]]:
        """Return the jobs of a list of overrides: an experiment may itself sweep over values."""
        mine, everyones = (
            config.hydra.sweeper.get("params") or {} for config in (self._load(tuple(overrides)), self.config)
        )
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
        """Refuse jobs with different options for SLURM: one command submits one array of like jobs."""
        for overrides in commands:
            options, ours = (_options(config) for config in (self._load(tuple(overrides)), self.config))
            if options != ours:
                raise UserError("the runs of one command through SLURM share their hardware: give hardware one value")

    def _variables(self, commands: Sequence[Sequence[str]]) -> dict[str, str]:
        """Return `hydra.job.env_set`, for this process and all that it starts, on other machines too."""
        settings = [dict(self._load(tuple(overrides)).hydra.job.env_set) for overrides in commands]
        if any(variables != settings[0] for variables in settings):
            raise UserError(
                "hydra.job.env_set is the same for all runs of a command: give it one value, or use a command per run"
            )
        return {str(key): str(value) for key, value in settings[0].items()}

    @cached_property
    def _load(self) -> Any:
        """The function from a job's overrides to its config with Hydra's own settings; takes a tenth of a second."""
        everyones = OmegaConf.to_container(self.config.hydra.overrides.task, resolve=False)

        def load(overrides: tuple[str, ...]) -> DictConfig:
            if list(overrides) == everyones:  # the only job of its command: Hydra has composed its config already
                return self.config
            return self.loader.load_sweep_config(self.config, list(overrides))

        return lru_cache(1_000)(load)

    def _compose(self, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the config of these overrides as plain containers, and the choice of each config group."""
        if tuple(overrides) in self.commands:
            composed = self._load(tuple(overrides))
        else:  # the defaults that a job's name leaves out: without hardware=slurm_... they take no options for SLURM
            hydra_options = [
                o for o in self.config.hydra.overrides.hydra if not o.lstrip("+~").startswith("hydra.launcher.")
            ]
            name = self.config.hydra.job.config_name
            composed = self.loader.load_configuration(name, [*hydra_options, *overrides], RunMode.RUN)
        ours = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        config = OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)
        assert isinstance(config, dict)
        options = {str(key): value for key, value in config.items()}
        return options, with_loggers(composed.hydra.runtime.choices, options)


def _options(config: DictConfig) -> dict[Any, Any]:
    """Return the launcher's options, except the folder of what SLURM prints."""
    options = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    assert isinstance(options, dict)
    return {key: value for key, value in options.items() if key != "submitit_folder"}


def _told(show: Callable[..., int], *args: Any, **kwargs: Any) -> "Result":
    """Show something of the jobs instead of running them."""
    from resnet_repro.launch.sweep import Result

    return Result(show(*args, **kwargs), {})


def _returned(overrides: Sequence[str], jobs: Sequence["Job"], result: "Result") -> JobReturn:
    """Return what came of a list of overrides, which stands for these jobs."""
    from resnet_repro.launch.sweep import final_error

    returned = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
    outcomes = {job.dir: outcome for job, outcome in result.outcomes.items()}
    jobs = [job for job in {job.dir: job for job in jobs}.values() if job.dir in outcomes]
    if not_done := [job for job in jobs if outcomes[job.dir].state != "done"]:
        job = not_done[0]
        returned.status = JobStatus.FAILED
        returned.return_value = NotDone(f"{job.name}: {outcomes[job.dir].reason or outcomes[job.dir].state}")
    elif len(jobs) == 1:
        returned.working_dir = str(jobs[0].dir)
        returned.return_value = final_error(jobs[0])
    return returned


# --- the usual sweeper ------------------------------------------------------------------------------------------------


class GridSweeper(BasicSweeper):
    """Runs every combination of the values, as Hydra's basic sweeper, which ends after a batch with a failed job.

    This one runs the remaining batches as well.
    """

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Run the jobs, `max_batch_size` at a time.

        Raises:
            UserError: if `max_batch_size` is no number of jobs.
        """
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        size = self.max_batch_size
        if size is not None and size < 1:
            raise UserError(f"hydra.sweeper.max_batch_size={size} is not a number of jobs, at least 1, or null")
        parser = OverridesParser.create(self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        returned, num_jobs = [], 0
        for batch in self.split_arguments(overrides, size):
            returned.append(self.launcher.launch(batch, initial_job_idx=num_jobs))
            num_jobs += len(batch)
        return returned


@dataclass
class GridSweeperConf(BasicSweeperConf):
    _target_: str = f"{GridSweeper.__module__}.{GridSweeper.__name__}"


# This takes the name of Hydra's own sweeper. If conf/config.yaml chose it by another name, that choice would win over a
# config file of somebody's own that chooses Optuna's sweeper.
ConfigStore.instance().store(group="hydra/sweeper", name="basic", node=GridSweeperConf, provider="resnet_repro")
