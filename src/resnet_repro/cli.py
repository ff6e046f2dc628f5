"""The command line: Hydra's, with every mistake told in one line. Imports no torch."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_repro.errors import UserError, first_words
from resnet_repro.options import about_unknown, about_unknown_choice, check, config_dir, option_names, refuse_no_choice

if TYPE_CHECKING:
    from omegaconf import DictConfig


@contextmanager
def errors_for_people(config_name: str = "config") -> Iterator[None]:
    """Turn a mistake of the command's user into one line and exit status 2; HYDRA_FULL_ERROR=1 shows the stack.

    Args:
        config_name: of the file in conf/ that says which options the command has.
    """
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        yield
        return
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    os.environ["HYDRA_FULL_ERROR"] = "1"  # has Hydra raise instead of printing pages
    try:
        yield
    except BaseException as error:
        if _is_ctrl_c(error):
            sys.exit(130)
        if isinstance(error, UserError):
            _exit(str(error))
        if isinstance(error, (HydraException, OmegaConfBaseException)):
            _exit(explain(error, config_name))
        if isinstance(error, OSError) and error.filename is not None:
            mend = "if the folder is the matter, choose another with outputs=FOLDER"
            _exit(f"{error.filename}: {error.strerror}; {mend}")
        raise


def _is_ctrl_c(error: BaseException) -> bool:
    """Whether it is a Ctrl-C, or what a library's clean-up made of one: Hydra closes a file that was never opened."""
    before = error.__context__
    return isinstance(error, KeyboardInterrupt) or (before is not None and _is_ctrl_c(before))


def _exit(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def explain(error: Exception, config_name: str) -> str:
    """One line for what Hydra found wrong with the options."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import InterpolationResolutionError

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return about_unknown_choice(group, choice, error.options or [])
    if isinstance(error, OverrideParseException):
        return f"cannot read the option '{error.override}'; options are written depth=20 or depth=20,56"
    text = str(error)
    for words in ("Could not override '", "Could not delete from config. '"):
        if text.startswith(words):
            return about_unknown(text.removeprefix(words).split("'")[0], config_name)
    if text.startswith("Could not append to config. An item is already at '"):
        key = text.split("'")[1]
        return f"+{key} adds what is there already; write {key}=VALUE"
    if isinstance(error, InterpolationResolutionError):
        return f"{error.full_key} cannot be made out ({text.splitlines()[0]}); write a value"
    return first_words(error, at_most=300)


def _refuse_dashes(arguments: list[str], config_name: str) -> None:
    for argument in arguments:
        name = argument.lstrip("-").split("=")[0]
        if argument.startswith("--") and name in option_names(config_name):
            raise UserError(f"{argument}: options are written without dashes, {name}=VALUE")


def train() -> None:
    """`python train.py`"""
    with errors_for_people():
        _compose("config")  # resnet_repro_launcher runs the jobs and exits


def report() -> None:
    """`python report.py`"""
    with errors_for_people("report"):
        config = _compose("report")
        from rich.console import Console

        from resnet_repro.report import write

        console = Console()
        outputs, kept = Path(config["outputs"]), [Path(config["results"])]
        page = write(outputs, console, kept=kept)
        console.print(f"The page: {page}", soft_wrap=True, markup=False)
        if config["wandb"]:
            from resnet_repro import dashboard

            dashboard.write(outputs, config["logger"], console, kept=kept)


def evaluate() -> None:
    """`python evaluate.py`"""
    with errors_for_people("evaluate"):
        if slurm := [argument for argument in sys.argv if argument.startswith("hardware=slurm")]:
            raise UserError(f"{slurm[0]}: a test is not submitted to SLURM; use hardware=gpu inside of a job of yours")
        sys.argv[1:] = map(quoted, sys.argv[1:])
        options = _compose("evaluate")
        from resnet_repro.evaluate import main

        main(options)


def quoted(argument: str) -> str:
    """`run=A,B` as Hydra takes it: names of runs have an equals sign in them, which it would read as its own."""
    if not argument.startswith("run="):
        return argument
    folders = argument.removeprefix("run=").strip("[]").split(",")
    return f"run={[folder.strip() for folder in folders if folder.strip()]!r}"


def _compose(config_name: str) -> dict[str, Any]:
    """The config that Hydra makes of the command line, as plain containers.

    Raises:
        UserError: at a key that the command does not read, or a value of a wrong type.
    """
    _refuse_dashes(sys.argv[1:], config_name)
    for argument in sys.argv[1:]:
        refuse_no_choice(argument, config_name)
    import hydra
    from hydra.core.hydra_config import HydraConfig

    found: list[tuple[DictConfig, dict[str, str]]] = []

    def take(config: "DictConfig") -> None:
        found.append((config, dict(HydraConfig.get().runtime.choices)))

    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(take)()
    if not found:  # Hydra has shown the config or its help, as it was asked to
        sys.exit(0)
    config, choices = found[0]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        own = hydra.compose(config_name, [f"{group}={name}" for group, name in choices.items() if "/" not in group])
    check(_plain(config), _plain(own), config_name)
    return _plain(config)


def _plain(config: "DictConfig") -> dict[str, Any]:
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}
