"""The command line: Hydra's, but every mistake is one line. Imports no torch."""

import gc
import itertools
import os
import shlex
import site
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

from resnet_repro.conf_dir import command_line, config_dir
from resnet_repro.errors import NotDone, UserError, failure, first_words
from resnet_repro.output import make_lenient
from resnet_repro.runs.option_names import (
    about_launcher,
    about_unknown,
    about_unknown_choice,
    check,
    choices,
    option_names,
    refuse_no_choice,
    several_loggers,
    with_loggers,
)
from resnet_repro.runs.ranks import forget_left_over

if TYPE_CHECKING:
    from resnet_repro.launch.sweep import Result


@contextmanager
def errors_for_people(config_name: str = "config") -> Iterator[None]:
    """Turn a mistake of the user into one line and exit status 2; HYDRA_FULL_ERROR=1 shows the stack.

    Also, from then on nothing that the command prints can end it, the processes that it starts run the same code, and
    rank variables that another program has left behind are ignored.

    Args:
        config_name: of the file in conf/ that holds the options of the command.
    """
    # in place of 700: what imports and Hydra make stays, and looking through all of that takes a tenth of a start
    gc.set_threshold(50_000)
    make_lenient()
    os.environ |= search_path()
    forget_left_over()  # before a library that reads them is imported
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        yield
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise instead of printing pages
    try:
        yield
    except BaseException as error:
        if _is_ctrl_c(error):
            sys.exit(130)
        if isinstance(error, UserError):
            _exit(str(error))
        if isinstance(error, NotDone):
            print(f"error: the sweeper has ended the sweep at a job that is not done: {error}", file=sys.stderr)
            sys.exit(1)
        from hydra.errors import HydraException  # here, so that a Ctrl-C during the import is caught
        from omegaconf.errors import OmegaConfBaseException

        if isinstance(error, (HydraException, OmegaConfBaseException)):
            _exit(explain(error, config_name))
        if isinstance(error, OSError):
            name = Path(str(error.filename)).name
            is_temporary = "temporary directory" in str(error) or name.startswith(("tmp", "pymp-", "resnet_repro-"))
            another = "TMPDIR=FOLDER in the environment" if is_temporary else "outputs=FOLDER"
            _exit(f"{failure(error)}; if the folder is the problem, choose another with {another}")
        if line := _complaint_of_hydra(error):
            _exit(line)
        raise


def search_path() -> dict[str, str]:
    """Return the variable by which every Python that this process starts, here or through SLURM, runs this code.

    Empty if they do so anyway.
    """
    folder = str(Path(__file__).parents[1])
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    is_there = folder in (*site.getsitepackages(), folders[0])
    return {} if is_there else {"PYTHONPATH": os.pathsep.join(filter(None, [folder, *folders]))}


def _complaint_of_hydra(error: BaseException) -> str:
    """Return what Hydra says against its own flags and settings by a built-in exception; empty for other errors."""
    kinds = (ValueError, AssertionError, KeyError, UserWarning)
    *_, last = (frame for frame in traceback.extract_tb(error.__traceback__) if "<frozen" not in frame.filename)
    if not isinstance(error, kinds) or "hydra" not in Path(last.filename).parts:
        return ""
    text = " ".join(str(error).split())
    return f"Hydra does not take these options: {last.line if isinstance(error, AssertionError) else text}"


def _is_ctrl_c(error: BaseException) -> bool:
    """Return whether an error is a Ctrl-C, or came of one: Hydra's clean-up closes a file that was never opened."""
    cause = error.__context__
    return isinstance(error, KeyboardInterrupt) or (cause is not None and _is_ctrl_c(cause))


def _exit(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def explain(error: Exception, config_name: str) -> str:
    """Return one line on what Hydra finds wrong with the options."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import InterpolationResolutionError

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return about_unknown_choice(group or "--config-name", choice, error.options or choices(group))
    if isinstance(error, OverrideParseException):
        rule = _how_to_quote(error.override) or "options are written depth=20 or depth=20,56"
        return f"cannot read the option '{error.override}'; {rule}"
    text = str(error)
    for words in ("Could not override '", "Could not delete from config. '"):
        if text.startswith(words):
            return about_unknown(text.removeprefix(words).split("'")[0], config_name)
    if text.startswith("Could not append to config. An item is already at '"):
        key = text.split("'")[1]
        return f"+{key} adds an option that exists already; write {key}=VALUE"
    if isinstance(error, InterpolationResolutionError):
        return f"{error.full_key} cannot be resolved ({text.splitlines()[0]}); write a value"
    return first_words(error, at_most=300)


def _how_to_quote(option: str) -> str:
    """Return how to quote an option whose value has characters that mean something to Hydra or to the shell.

    Empty if quotes do not help.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    name, _, value = option.partition("=")
    if value.startswith(("[", "{")):
        return "text inside a list must also be quoted: 'key=[\"a=b\"]'"
    escaped = value.replace('"', '\\"')
    quoted = f'{name}="{escaped}"'
    try:
        (override,) = OverridesParser.create().parse_overrides([quoted])
    except HydraException:
        return ""
    return f"quote its value: {shlex.quote(quoted)}" if value and override.value() == value else ""


def _refuse_dashes(arguments: list[str], config_name: str) -> None:
    for argument in arguments:
        name = argument.lstrip("-").split("=")[0]
        if argument.startswith("--") and name in option_names(config_name):
            raise UserError(f"{argument}: options are written without dashes, {name}=VALUE")


def train(tell: Callable[[list["Result"]], None] | None = None) -> None:
    """Train networks: one run, a sweep, or a table of the papers.

    Args:
        tell: takes what came of each batch of jobs; by default, the process exits with the status of the worst.
    """
    with errors_for_people():
        flags = _flags("config")
        if flags.cfg:
            _show_configs(flags)
            return
        if flags.help or flags.hydra_help or flags.info or flags.shell_completion or flags.resolve:
            _run_hydra("config")
            return
        only_tells = any(argument in ("plan=true", "summary=true") for argument in flags.overrides)
        task = _Task()
        with _temporary_sweep_dir() if only_tells else nullcontext(), _sweeper() as sweep:
            sweep(task)  # resnet_repro_launcher runs the jobs, a batch at a time
        task.check()
        from resnet_repro.launch.sweep import Result

        if not all(isinstance(result, Result) for result in task.calls):
            raise UserError("nothing was run: a setting gives Hydra another launcher; leave that setting out")
        (tell or _exit_with_the_worst)(task.calls)


def _exit_with_the_worst(results: list["Result"]) -> None:
    sys.exit(max((result.status for result in results), default=0))


def report() -> None:
    """Show all finished runs on one page and, with wandb=true, on Weights & Biases."""
    with errors_for_people("report"):
        config = _the_config("report")
        from rich.console import Console

        from resnet_repro.report.report import write
        from resnet_repro.runs import options

        console, account = Console(), options.logger(config["logger"]) if config["wandb"] else None
        if account is not None and not isinstance(account, options.Wandb):
            raise UserError(
                f"wandb=true publishes to logger.project, which logger={account.choice} lacks: leave it out"
            )
        outputs, kept = Path(config["outputs"]), [Path(config["results"])]
        write(outputs, console, kept=kept, with_details=config["details"], command=command_line())
        if account is not None:
            from resnet_repro.report import wandb_report

            wandb_report.write(outputs, account, console, kept=kept)


def evaluate() -> None:
    """Test finished runs as the papers do: ten crops, several scales, ensembles."""
    with errors_for_people("evaluate"):
        if slurm := [argument for argument in sys.argv if argument.startswith("hardware=slurm")]:
            raise UserError(f"{slurm[0]}: a test is not submitted to SLURM; use hardware=gpu inside a SLURM job")
        sys.argv[1:] = map(quoted, sys.argv[1:])
        config = _the_config("evaluate")
        from resnet_repro.evaluation.evaluate import main

        main(config)


def pack() -> None:
    """Pack photographs into shards, to train on them from another machine or a bucket."""
    from resnet_repro.data.pack import main

    with errors_for_people():
        main(sys.argv[1:])


def export() -> None:
    """Write the weights of a finished run for torchvision and timm."""
    with errors_for_people():
        from resnet_repro.weights.export import main

        main(sys.argv[1:])


def keep() -> None:
    """Copy finished runs to results/, as evidence to commit."""
    with errors_for_people():
        from resnet_repro.weights.keep import main

        main(sys.argv[1:])


def quoted(argument: str) -> str:
    """Return `run=A,B` in quotes: Hydra would read the equals signs in names of runs as its own."""
    if not argument.startswith("run="):
        return argument
    folders = (folder.strip(" '\"") for folder in argument.removeprefix("run=").strip("[]").split(","))
    return f"run={[folder for folder in folders if folder]!r}"


def _the_config(config_name: str) -> dict[str, Any]:
    """Return the config of a command that does one thing, its folders expanded; set its environment variables.

    Raises:
        UserError: if the command does not read an option, or a value has a wrong type.
    """
    if _flags(config_name).multirun:
        script = Path(sys.argv[0]).name
        raise UserError(f"{script} does one thing per command: leave -m out, give each option one value")
    import hydra
    from omegaconf import OmegaConf

    from resnet_repro.runs.job import expanded

    task = _run_hydra(config_name)
    hydra_options = [argument for argument in sys.argv[1:] if _is_hydra_option(argument)]
    choices = with_loggers(task.choices, task.calls[0])
    groups = [f"{group}={name}" for group, name in choices.items() if "/" not in group]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        defaults = hydra.compose(config_name, [*hydra_options, *groups])
    config, usual = (OmegaConf.to_container(c, resolve=True, throw_on_missing=True) for c in (*task.calls, defaults))
    assert isinstance(config, dict)
    assert isinstance(usual, dict)
    options = {str(key): value for key, value in config.items()}
    check(options, {str(key): value for key, value in usual.items()}, config_name)
    return expanded(options, may_be_null=("data.root", "data.cache_dir"))


# --- Hydra's own command line -----------------------------------------------------------------------------------------


def _flags(config_name: str) -> Namespace:
    """Parse the command line, and move its flags before its options, where Hydra wants them.

    Raises:
        UserError: if a flag does not exist, or two do not go together.
    """
    _refuse_dashes(sys.argv[1:], config_name)
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; options are written NAME=VALUE, and --hydra-help shows the flags")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    flags = parser.parse_intermixed_args()
    for option in flags.overrides:
        refuse_no_choice(option, config_name)
    words = sys.argv[1:]
    for option in flags.overrides:
        words.remove(option)
    flags.overrides = [several_loggers(option) for option in flags.overrides]
    sys.argv[1:] = words + flags.overrides
    if flags.experimental_rerun:
        raise UserError("--experimental-rerun does not work here: the same command again goes on with its runs")
    if flags.package and not flags.cfg:
        raise UserError(f"--package {flags.package} narrows what --cfg shows: give both, or none")
    if flags.info and (flags.multirun or flags.cfg):
        raise UserError("--info shows one job and stands alone: leave -m and --cfg out, give every option one value")
    for option in flags.overrides:
        if option.startswith("hydra.mode="):
            raise UserError(f"{option}: leave it out; one value of an option makes one run, several make several")
        name = option.lstrip("+~")
        if name.startswith(("hydra/launcher", "hydra.launcher._target_")) and option != "hydra/launcher=slurm":
            raise UserError(about_launcher(option))
    return flags


class _Task:
    """What Hydra calls with the config, and our launcher with the result of each batch of jobs."""

    def __init__(self, *, only_lists: bool = False) -> None:
        self.only_lists = only_lists
        """Whether the launcher calls this with the overrides of its jobs instead of running them."""
        self.calls: list[Any] = []
        self.variables: dict[str, str] = {}
        self.choices: dict[str, str] = {}
        """The choice of each config group."""
        self.__module__ = __name__  # where Hydra looks for the program

    def __call__(self, value: Any) -> None:
        self.calls.append(value)
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import DictConfig

        if isinstance(value, DictConfig):  # the launcher sets the variables of its jobs itself
            self.variables = dict(HydraConfig.get().job.env_set)
            self.choices = dict(HydraConfig.get().runtime.choices)

    def check(self) -> None:
        """End the command if Hydra has not called this: it has shown the config or its help. Set the variables."""
        if not self.calls:
            sys.exit(0)
        os.environ |= self.variables


def _refuse_missing_search_paths() -> None:
    """Have Hydra raise what it only warns of: a folder of configs that is not there."""
    warnings.filterwarnings("error", message="provider=hydra.searchpath.* is not available")


@contextmanager
def _sweeper() -> Iterator[Callable[[_Task], None]]:
    """Yield what has Hydra's sweeper hand the command line's jobs to the launcher, as `hydra.main` does after `-m`.

    `hydra.main` would compose the whole config once more, only to read `hydra.mode`: a tenth of a second.
    """
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_automatic_config_search_path, get_args_parser, validate_config_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra

    _refuse_missing_search_paths()
    version.setbase("1.3")
    flags = get_args_parser().parse_args()
    folder = flags.config_path or str(config_dir())
    validate_config_path(folder)
    search_path = create_automatic_config_search_path(None, __name__, folder)
    if flags.config_dir:
        if not Path(flags.config_dir).is_dir():
            raise UserError(f"--config-dir {flags.config_dir} is not a folder; give one that has config files")
        where = f"file://{Path(flags.config_dir).absolute()}"
        search_path.prepend(provider="command-line", path=where, anchor=SearchPathQuery(provider="schema"))
    try:
        hydra = Hydra.create_main_hydra2(task_name="train", config_search_path=search_path)
        yield partial(hydra.multirun, flags.config_name or "config", overrides=flags.overrides)
    finally:
        GlobalHydra.instance().clear()


def _run_hydra(config_name: str) -> _Task:
    """Have Hydra do what the command line says, and return the task that Hydra has called, at least once."""
    import hydra

    _refuse_missing_search_paths()
    task = _Task()
    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(task)()
    task.check()
    return task


def _is_hydra_option(option: str) -> bool:
    return option.lstrip("+~").startswith(("hydra.", "hydra/"))


def _show_configs(flags: Namespace) -> None:
    """Show what `--cfg` asks for, for each job of the command; Hydra itself shows it for one job only."""
    names = ("config_dir", "config_name", "config_path")
    shared = [f"--{name.replace('_', '-')}={value}" for name in names if (value := getattr(flags, name))]
    sys.argv[1:] = [*shared, *flags.overrides]
    task = _Task(only_lists=True)
    with _temporary_sweep_dir(), _sweeper() as sweep:
        sweep(task)
    commands = list(itertools.chain.from_iterable(task.calls))
    show = [
        f"--cfg={flags.cfg}",
        *([f"--package={flags.package}"] if flags.package else []),
        *["--resolve"] * flags.resolve,
    ]
    hydra_options = [override for override in flags.overrides if _is_hydra_option(override)]
    for command in commands:
        if len(commands) > 1:
            print("---", "#", *command)
        sys.argv[1:] = [*shared, *show, *hydra_options, *command]
        with suppress(SystemExit):  # Hydra exits when it has shown a config
            _run_hydra("config")


@contextmanager
def _temporary_sweep_dir() -> Iterator[None]:
    """Have the sweeper write its files into a temporary folder, for a command that makes no run."""
    with TemporaryDirectory(prefix="resnet_repro-") as folder:
        sys.argv.append(f'hydra.sweep.dir="{folder}"')
        yield
