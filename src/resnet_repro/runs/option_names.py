"""The options of each command, hints for mistyped options, and checks of a composed config."""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from resnet_repro.conf_dir import command, config_dir
from resnet_repro.data.options import AskedPhotographs, asked_kind_of
from resnet_repro.errors import UserError
from resnet_repro.networks.libraries import LIBRARIES
from resnet_repro.runs.job import Config, flatten
from resnet_repro.runs.options import check_values, rule_of
from resnet_repro.runs.trainer_arguments import about_trainer_argument

COMMANDS = {"config": "train", "evaluate": "evaluate", "report": "report"}
"""The command that each of these files in conf/ lists the options of."""

OPTIONAL = {"data.top5", "schedule.plateau", "schedule.protocol_batch_size"}
"""Options that + adds to any config, although few files in conf/ have them."""

OTHER_WORDS = {
    "arch": ("architecture", "model", "net", "network"),
    "data": ("dataset",),
    "data.root": ("data_dir", "data_path", "datadir", "dataset_dir", "dataset_path"),
    "depth": ("layers", "n_layers", "num_layers"),
    "hardware": ("trainer",),
    "hardware.devices": ("gpus", "n_gpus", "ngpus", "nproc_per_node", "num_gpus"),
    "hardware.precision": ("amp", "bf16", "fp16"),
    "outputs": ("log_dir", "out", "outdir", "output", "output_dir", "save_dir"),
    "schedule.batch_size": ("batch", "batchsize", "bs", "train_batch_size"),
    "schedule.lr": ("learning_rate",),
    "schedule.steps": ("epochs", "iterations", "max_epochs", "max_steps", "num_epochs", "num_steps"),
    "schedule.weight_decay": ("wd",),
}
"""Other programs' names for our options."""

FACTS = ("data.name", "data.same_as", "protocol.name", "arch.source")
FACTS_OF_IMAGES = ("data.num_train", "data.num_classes", "data.image")
"""Keys that describe a choice, so that no option may change them. Those of photographs are counted."""


def choices(group: str) -> list[str]:
    """Return the names of a group's files in conf/."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def _load(path: Path) -> dict[Any, Any]:
    """Return a file in conf/ as plain containers, in a tenth of the time that OmegaConf takes: its keys matter here."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C, where PyYAML was built with it
    content = yaml.load(path.read_text(encoding="utf-8"), loader)
    return content if isinstance(content, dict) else {}


@cache
def option_names(config_name: str = "config") -> list[str]:
    """Return every key of a command's config and of its groups in conf/, as on the command line."""
    names = []
    for key, value in _load(config_dir() / f"{config_name}.yaml").items():
        if key not in ("defaults", "hydra"):
            names += [f"{key!s}.{inner!s}" for inner in value] if isinstance(value, Mapping) else [str(key)]
    for group in groups(config_name):
        names += [group, *(f"{group}.{key}" for choice in choices(group) for key in _keys(group, choice))]
    return sorted(set(names))


@cache
def groups(config_name: str) -> list[str]:
    """Return the config groups of a command, in the order of its defaults."""
    defaults = _load(config_dir() / f"{config_name}.yaml")["defaults"]
    names = (str(key) for entry in defaults if isinstance(entry, Mapping) for key in entry)
    return [group for group in names if choices(group)]


@cache
def _keys(group: str, choice: str) -> list[str]:
    """Return the keys of a file in conf/, with those inherited from other files of its group."""
    path = config_dir() / group / f"{choice}.yaml"
    content = _load(path)
    files = [str(entry).split("@")[0] for entry in content.get("defaults", [])]
    inherited = [key for other in files if other in choices(group) for key in _keys(group, other)]
    if path.read_text(encoding="utf-8").startswith("# @package _global_"):
        content = content.get(group, {})
    own = [str(key) for key in content if key != "defaults"]
    if group == "experiment":  # its other keys are a paper's printed numbers
        own = [key for key in own if key == "seeds"]
    return own + inherited


# --- hints for mistyped options ---------------------------------------------------------------------------------------


def about_unknown(key: str, config_name: str) -> str:
    """Return one line about an option that a command, or the chosen file of a group, does not have."""
    names = option_names(config_name)
    if key in names:
        group, owners = key.partition(".")[0], _choices_with(key)
        shown = " | ".join(owners if len(owners) <= 5 else [*owners[:5], "..."])
        return f"{key} is not an option here; {group}={shown} has it"
    if config_name == "config" and (hint := about_trainer_argument(key)):
        return f"{key} is not an option; {hint}"
    whole, _, leaf = key.lower().rpartition(".")
    if whole in names and (rule := rule_of(whole)):
        return f"{key} is not an option here; {whole} takes {rule}"
    word = next((name for name, others in OTHER_WORDS.items() if leaf in others and name in names), None)
    elsewhere = {name: _like(key, option_names(other)) for other, name in COMMANDS.items() if other != config_name}
    if options := _ending_in(leaf, names):
        hint = f"write {leaf}=... without a group" if options == [leaf] else f"{leaf} is {' or '.join(options)}"
    elif word is not None:
        hint = f"{leaf} is {word} here" + ", a number of steps" * ("epochs" in leaf)
    elif name := next((name for name, options in elsewhere.items() if options), None):
        hint = f"{command(name)} has " + ("it" if elsewhere[name] == [key] else " or ".join(elsewhere[name]))
    elif near := _nearest(key, leaf, names):
        hint = f"did you mean {near}?"
    else:
        hint = f"{command(COMMANDS[config_name])} --help shows the usual ones"
    return f"{key} is not an option; {hint}"


def _choices_with(name: str) -> list[str]:
    """Return the choices of an option's group that have the option."""
    group, _, key = name.partition(".")
    return [choice for choice in choices(group) if key in _keys(group, choice)]


def _like(key: str, names: list[str]) -> list[str]:
    """Return the option of this name; if there is none, those that have the name in another group."""
    return [key] if key in names else _ending_in(key.rpartition(".")[2], names)


def _ending_in(leaf: str, names: list[str]) -> list[str]:
    """Return the options with this name in any group; of several, those that most choices of their group have."""
    shares = {name: _share(name) for name in names if name.rpartition(".")[2] == leaf}
    shares = {name: share for name, share in shares.items() if not name.startswith("protocol.")}
    return [name for name, share in shares.items() if share == max(shares.values())]


def _share(name: str) -> float:
    """Return the share of its group's choices that have an option; 1 for an option without a group."""
    num_choices = len(choices(name.partition(".")[0])) if "." in name else 0
    return len(_choices_with(name)) / num_choices if num_choices else 1.0


def _nearest(key: str, leaf: str, names: list[str]) -> str | None:
    """Return the option whose last word is most like `leaf`, preferably of the same group; None if none is alike."""

    def likeness(name: str) -> tuple[float, bool]:
        group, _, own = name.rpartition(".")
        return difflib.SequenceMatcher(a=leaf, b=own).ratio(), group == key.rpartition(".")[0]

    best = max(names, key=likeness)
    return best if likeness(best)[0] > 0.65 else None


def about_unknown_choice(group: str, choice: str, known: Iterable[str]) -> str:
    """Return one line about a choice that a group does not have."""
    known = list(known)
    near = difflib.get_close_matches(choice.lower(), known, n=1)
    groups = ("arch", "data", "protocol", "hardware", "logger", "experiment")
    others = [other for other in groups if choice in choices(other)]
    library = next((name for name, library in LIBRARIES.items() if choice in library.examples), None)
    hint = f"; did you mean {near[0]}?" if near else f"; {others[0]}={choice} is one" if others else ""
    if group == "arch" and library:
        hint = f"; give arch={library} arch.name={choice}"
    return f"{group}={choice} is not known; use one of {', '.join(known)}{hint}"


def about_launcher(option: str) -> str:
    """Return one line about an option that asks Hydra for another launcher."""
    return (
        f"{option}: this program has its own launcher; leave it out: hardware=cpu or gpu runs jobs on this machine, "
        f"hardware=slurm_8gpu through SLURM"
    )


def refuse_no_choice(argument: str, config_name: str) -> None:
    """Refuse a group with no choice, with a list of choices, or added a second time.

    Hydra would refuse it too, but with a stack trace, or in terms of Hydra's own files.

    Raises:
        UserError: if the argument is such a choice of a group.
    """
    group, _, choice = argument.lstrip("+~").partition("=")
    if group not in groups(config_name):
        return
    if argument.startswith("+"):
        raise UserError(f"{argument}: {group} has a choice already; write {group}={choice}")
    if choice.startswith("[") and group != "logger":
        raise UserError(f"{argument}: {group} takes one choice; {group}={choice.strip('[]')} makes a job for each")
    if not argument.startswith("~") and choice in ("", "null", "???"):
        raise UserError(f"{argument} chooses nothing; use one of {', '.join(choices(group))}, or leave it out")


def several_loggers(option: str) -> str:
    """Return `logger=wandb,csv` as Hydra's choice of two files, other options as they are: one run has both loggers."""
    name, _, value = option.partition("=")
    return f"logger=[{value}]" if name == "logger" and "," in value and not value.startswith("[") else option


def with_loggers(choices: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the choice of each group. Hydra has none for a group of which several files were chosen.

    Args:
        choices: as Hydra has them.
        config: the composed config.
    """
    loggers = [str(name) for name, value in config.get("logger", {}).items() if value is True]
    return ({"logger": f"[{','.join(loggers)}]"} if loggers else {}) | dict(choices)


# --- checks of a composed config --------------------------------------------------------------------------------------


def check(config: Config, own: Config, config_name: str = "config") -> None:
    """Refuse keys that nothing reads, missing keys, and values of a wrong type.

    Args:
        config: the composed config.
        own: the config that its choices of groups compose to without other options.

    Raises:
        UserError: names the first mistake.
    """
    flat, usual = dict(flatten(config)), dict(flatten(own))
    known = {*usual, *OPTIONAL}
    for key in (key for key in flat if key not in known):
        whole = next((name for name in usual if key.startswith(f"{name}.")), None)
        if whole is not None and usual[whole] != {}:
            raise UserError(f"{whole} takes one value, and {key}={flat[key]} gives it parts; write {whole}=VALUE")
        raise UserError(about_unknown(key, config_name))
    names = {*option_names(config_name), *OPTIONAL}
    for key in (key for key in flat if ".".join(key.split(".")[:2]) not in names):  # from a user's own file
        raise UserError(about_unknown(key, config_name))
    if missing := [key for key in usual if key not in flat]:
        raise UserError(f"{missing[0]} was removed, but is needed; leave ~{missing[0].partition('.')[0]}... out")
    check_values({key: value for key, value in flat.items() if value != usual.get(key)})
    is_counted = issubclass(asked_kind_of(config.get("data", {})), AskedPhotographs)
    facts = FACTS if is_counted else (*FACTS, *FACTS_OF_IMAGES)
    for key in (key for key in facts if flat.get(key) != usual.get(key)):
        group, _, fact = key.partition(".")
        hint = f"give another {group}=" if fact in ("name", "source") else "leave it out"
        raise UserError(f"{key}={flat[key]} cannot be chosen: this {group} has {usual[key]}; {hint}")
