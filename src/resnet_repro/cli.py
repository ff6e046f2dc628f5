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

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        options = error.options or []
        return f"{group}={choice} is not known; use one of {', '.join(options)}" + _did_you_mean(choice, options)
    if isinstance(error, OverrideParseException):
        return f"cannot read the option '{error.override}'; options are written depth=20 or depth=20,56"
    text = str(error)
    if text.startswith("Could not override '"):
        key, names = text.split("'")[1], option_names(config_name)
        if key in names:
            return f"{key} is not an option here; {_who_has(key)}"
        hint = _did_you_mean(key, names) or f"; python {Path(sys.argv[0]).name} --help shows the usual ones"
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


def _refuse_dashes(arguments: list[str], config_name: str) -> None:
    for argument in arguments:
        name = argument.lstrip("-").split("=")[0]
        if argument.startswith("--") and name in option_names(config_name):
            raise UserError(f"{argument}: options are written without dashes, {name}=VALUE")


def option_names(config_name: str = "config") -> list[str]:
    """Every key of a command's config and of its groups in conf/, as it is written on the command line."""
    from omegaconf import DictConfig, OmegaConf

    folder = config_dir()
    main = OmegaConf.load(folder / f"{config_name}.yaml")
    assert isinstance(main, DictConfig)
    names = []
    for key, value in ((str(key), value) for key, value in main.items()):
        if key not in ("defaults", "hydra"):
            names += [f"{key}.{inner!s}" for inner in value] if isinstance(value, DictConfig) else [key]
    groups = {str(key) for entry in main.defaults if isinstance(entry, DictConfig) for key in entry}
    for path in [path for group in groups for path in (folder / group).glob("*.yaml")]:
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
    with errors_for_people("report"):
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


def evaluate() -> None:
    """`python evaluate.py`"""
    with errors_for_people("evaluate"):
        if slurm := [argument for argument in sys.argv if argument.startswith("hardware=slurm")]:
            raise UserError(f"{slurm[0]}: a test is not submitted to SLURM; use hardware=gpu inside of a job of yours")
        sys.argv[1:] = map(quoted, sys.argv[1:])
        config = _compose("evaluate")
        from omegaconf import OmegaConf

        from resnet_repro.evaluate import main

        options = OmegaConf.to_container(config, resolve=True)
        assert isinstance(options, dict)
        main({str(key): value for key, value in options.items()})


def quoted(argument: str) -> str:
    """`run=A,B` as Hydra takes it: names of runs have an equals sign in them, which it would read as its own."""
    if not argument.startswith("run="):
        return argument
    folders = argument.removeprefix("run=").strip("[]").split(",")
    return f"run={[folder.strip() for folder in folders if folder.strip()]!r}"


def _compose(config_name: str) -> "DictConfig":
    """Have Hydra read the command line."""
    _refuse_dashes(sys.argv[1:], config_name)
    import hydra

    configs: list[DictConfig] = []
    hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=config_name)(configs.append)()
    if not configs:  # Hydra has shown the config or its help, as it was asked to
        sys.exit(0)
    return configs[0]
