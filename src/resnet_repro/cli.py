"""The command line: Hydra's, with every mistake told in one line. Imports no torch."""

import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_repro.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Turn a mistake of the command's user into one line and exit status 2; HYDRA_FULL_ERROR=1 shows the stack."""
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
            _exit(explain(error))
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


def explain(error: Exception) -> str:
    """One line for what Hydra found wrong with the options."""
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = error.options or []
        return f"{group}={choice} is not known; use one of {', '.join(options)}" + _did_you_mean(choice, options)
    if isinstance(error, OverrideParseException):
        return f"cannot read the option '{error.override}'; options are written depth=20 or depth=20,56"
    text = str(error)
    if text.startswith("Could not override '"):
        key = text.split("'")[1]
        if key in option_names():
            return f"{key} is not an option here; {_who_has(key)}"
        hint = _did_you_mean(key, option_names()) or "; python train.py --help shows the usual ones"
        return f"{key} is not an option{hint}"
    return " ".join(text.split())


def _who_has(key: str) -> str:
    """Which choices of its group have an option."""
    from omegaconf import OmegaConf

    group, _, name = key.partition(".")
    files = (config_dir() / group).glob("*.yaml")
    return f"{group}={' | '.join(path.stem for path in sorted(files) if name in OmegaConf.load(path))} has it"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _refuse_dashes(arguments: list[str]) -> None:
    for argument in arguments:
        name = argument.lstrip("-").split("=")[0]
        if argument.startswith("--") and name in option_names():
            raise UserError(f"{argument}: options are written without dashes, {name}=VALUE")


def option_names() -> list[str]:
    """Every key of conf/, as it is written on the command line."""
    from omegaconf import OmegaConf

    folder = config_dir()
    names = [str(key) for key in OmegaConf.load(folder / "config.yaml") if key not in ("defaults", "hydra")]
    for path in folder.glob("*/*.yaml"):
        group = path.parent.name
        keys = (str(key) for key in OmegaConf.load(path))
        names += [group, *(f"{group}.{key}" for key in keys if key not in ("defaults", "hydra", group))]
    return sorted(set(names))


def config_dir() -> Path:
    """conf/ beside the script that was started; where none is there, as in a test, the one of this checkout."""
    beside = Path(sys.argv[0]).resolve().parent / "conf"
    return beside if beside.is_dir() else Path(__file__).parents[2] / "conf"


def train() -> None:
    """`python train.py`"""
    with errors_for_people():
        _compose("config")  # resnet_repro_launcher runs the jobs and exits


def report() -> None:
    """`python report.py`"""
    with errors_for_people():
        config = _compose("report")
        from rich.console import Console

        from resnet_repro.report import write

        console = Console()
        kept = [Path(config.results)]
        page = write(Path(config.outputs), console, kept=kept)
        console.print(f"The page: {page}", soft_wrap=True, markup=False)
        if config.wandb:
            from resnet_repro import dashboard

            dashboard.write(Path(config.outputs), dict(config.logger), console, kept=kept)


def _compose(config_name: str) -> "DictConfig":
    """Have Hydra read the command line."""
    _refuse_dashes(sys.argv[1:])
    import hydra

    configs: list[DictConfig] = []
    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(configs.append)()
    if not configs:  # Hydra has shown the config or its help, as it was asked to
        sys.exit(0)
    return configs[0]
