"""From a command to its jobs: `experiment=` names a table or figure of the papers, whose rows and seeds become jobs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_repro.errors import UserError
from resnet_repro.networks.options import Comparator
from resnet_repro.papers import rows as paper
from resnet_repro.papers.rows import Published
from resnet_repro.runs import option_names
from resnet_repro.runs.finished import DAMAGED, FinishedRun, read_record
from resnet_repro.runs.job import Config, Job, make_job, result_keys

if TYPE_CHECKING:
    from rich.console import Console

GROUPS = ("arch", "data", "protocol")
"""Config groups whose defaults a run's name leaves out."""

Compose = Callable[[Sequence[str]], tuple[Config, dict[str, Any]]]
"""From overrides to the config, as plain containers, and the choice of each config group."""


@dataclass
class Request:
    """What a command asks for."""

    plan: bool = False
    summary: bool = False
    jobs: list[Job] = field(default_factory=list)
    """Every job once."""
    jobs_of: list[list[Job]] = field(default_factory=list)
    """The jobs of each list of overrides. Several lists may share a job."""
    tables: dict[str, dict[Published, list[Job]]] = field(default_factory=dict)
    """The jobs that reproduce each row of the papers, by table."""


def make_jobs(compose: Compose, commands: Sequence[Sequence[str]]) -> Request:
    """Return the jobs of a command.

    An experiment has a job for each row of its table and each seed. The command wins over the row: `data=digits`
    replaces the row's data, `seed=0` the seeds.

    Args:
        compose: how to make a config of overrides.
        commands: lists of overrides, as Hydra's sweeper made them of a command line.

    Raises:
        UserError: if a config breaks a rule, or nothing of an experiment can be run.
    """
    request, once = Request(), dict[str, Job]()
    misnamed: set[str] = set()
    composed = cache(lambda *overrides: compose(overrides))  # tens of milliseconds each

    def chosen(groups: dict[str, Any]) -> Config:
        usual, of_usual = composed(*(f"{group}={groups[group]}" for group in GROUPS))
        if groups == of_usual:  # as in most commands; a composition takes a tenth of a second
            return usual
        own, _ = composed(*(f"{group}={name}" for group, name in sorted(groups.items()) if "/" not in group and name))
        return own

    def check_table(table: Config, own: Config) -> None:
        """Refuse any option of an experiment but its seeds: the rest is what the paper prints."""
        options = {key: value for key, value in table.items() if key == "seeds" or value != own.get(key)}
        option_names.check({"experiment": options}, {"experiment": {key: own[key] for key in own if key == "seeds"}})

    def add(config: Config, groups: dict[str, Any]) -> Job:
        option_names.check(config, chosen(groups))
        usual, _ = composed(*(f"{group}={groups[group]}" for group in GROUPS))
        ours = {name: value for name, value in config.items() if name not in ("experiment", "plan", "summary")}
        if "source" not in ours["arch"] and ours["arch"]["name"] != usual["arch"]["name"]:
            misnamed.add(ours["arch"]["name"])  # the name may be for a comparator in the same command
            ours["arch"] = ours["arch"] | {"name": usual["arch"]["name"]}
        job = make_job(ours, usual=usual, only_tells=config["plan"] or config["summary"])
        job = once.setdefault(f"{job.dir} {sorted(result_keys(job.run).items(), key=str)}", job)
        request.jobs_of[-1].append(job)
        return job

    for command in commands:
        request.jobs_of.append([])
        config, groups = composed(*command)
        request.plan, request.summary = config["plan"], config["summary"]
        if "experiment" not in config:
            add(config, groups)
            continue
        check_table(config["experiment"], chosen(groups).get("experiment", {}))
        rows = paper.rows_of(config["experiment"], groups["experiment"])
        table = request.tables.setdefault(rows[0].source, {})
        table |= {row: [] for row in rows if row not in table}
        jobs_of = _overrides(rows, command)
        seeds = _seeds(config, command)
        for row, overrides in jobs_of.items():
            config, groups = composed(*overrides)
            table[row].extend(add(config | {"seed": seed}, groups) for seed in seeds)
    request.jobs = list(once.values())
    if misnamed and not any(isinstance(job.run.network, Comparator) for job in request.jobs):
        (name, *_) = sorted(misnamed)
        raise UserError(f"arch.name={name} needs arch=torchvision or arch=timm, whose networks have names")
    return request


def commands_of(compose: Compose, command: Sequence[str]) -> list[list[str]]:
    """Return the overrides of each job of a list of overrides, as `make_jobs` expands it.

    Raises:
        UserError: if nothing of an experiment can be run.
    """
    config, groups = compose(command)
    if "experiment" not in config:
        return [list(command)]
    rows = list(_overrides(paper.rows_of(config["experiment"], groups["experiment"]), command).values())
    seeds = [] if _has_seed(command) else _seeds(config, command)
    return [[*overrides, f"seed={seed}"] for overrides in rows for seed in seeds] or rows


def _overrides(rows: list[Published], command: Sequence[str]) -> dict[Published, list[str]]:
    """Return the overrides of each row of a table that can be run; what the command gives wins.

    Raises:
        UserError: if no row can be run.
    """
    if why := paper.why_not(rows):
        raise UserError(f"{rows[0].source} cannot be run: {why}; docs/tables.md says which can")
    given = [override for override in command if _name(override).split(".")[0] != "experiment"]
    names = {_name(override) for override in given}
    return {
        row: [*sorted(override for override in row.overrides if _name(override) not in names), *given]
        for row in rows
        if not row.why
    }


def _name(override: str) -> str:
    return override.lstrip("+~").split("=")[0]


def _has_seed(command: Sequence[str]) -> bool:
    return "seed" in map(_name, command)


def _seeds(config: Config, command: Sequence[str]) -> list[int]:
    if _has_seed(command):
        return [config["seed"]]
    seeds = config["experiment"].get("seeds")
    if not isinstance(seeds, list) or not seeds:
        raise UserError(f"experiment.seeds={seeds} is not a list of seeds, [0,1,2,3,4]")
    return seeds


# --- for people -------------------------------------------------------------------------------------------------------


def print_tables(request: Request, *, console: "Console | None" = None) -> None:
    """Print every table that the command named: the papers' numbers beside those of finished runs."""
    from rich.console import Console  # here, as a mistake in an option is refused sooner without

    from resnet_repro.papers import verdict_text, verdicts

    console = console or Console(soft_wrap=True)
    damaged: dict[Path, None] = {}

    def runs_of(row: Published) -> list[FinishedRun]:
        jobs = dict.fromkeys(job for table in request.tables.values() for job in table.get(row, []))
        runs = []
        for job in jobs:
            try:
                runs.append(read_record(job.dir))
            except DAMAGED:
                damaged[job.dir] = None
        return [run for run in runs if run]

    if rows := [row for table in request.tables.values() for row in table]:
        console.print()
        verdict_text.show(verdicts.judge_all(rows, runs_of), console)
    if damaged:
        names = ", ".join(f"{path.parent.name}/{path.name}" for path in damaged)
        console.print(f"left out because their files are damaged: {names}", markup=False, highlight=False)
