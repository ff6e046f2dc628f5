"""Which options a command has, what a mistyped one may mean, and what is refused of a composed config. No torch."""

import difflib
from collections.abc import Iterable
from functools import cache

from resnet_repro.conf_dir import config_dir
from resnet_repro.data.options import AskedPhotographs, asked_kind_of
from resnet_repro.errors import UserError
from resnet_repro.networks.options import COMPARATORS
from resnet_repro.runs.job import Config, flatten
from resnet_repro.runs.options import check_values, rule_of
from resnet_repro.runs.trainer_arguments import about_trainer_argument

SCRIPTS = {"config": "train.py", "evaluate": "evaluate.py", "report": "report.py"}
"""The command of each file in conf/ that says which options there are."""

OPTIONAL = {"data.top5", "schedule.plateau", "schedule.protocol_batch_size"}
"""Options that any config takes, added with +, though few files in conf/ have them."""

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
"""What other programs call our options."""

FACTS = ("data.name", "data.same_as", "protocol.name", "logger.name", "arch.source")
FACTS_OF_IMAGES = ("data.num_train", "data.num_classes", "data.image")
"""What a choice says of itself, and no option changes; photographs are counted."""


def choices(group: str) -> list[str]:
    """Names of the files of a group in conf/."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


@cache
def option_names(config_name: str = "config") -> list[str]:
    """Every key of a command's config and of its groups in conf/, as it is written on the command line."""
    from omegaconf import DictConfig, OmegaConf

    main = OmegaConf.load(config_dir() / f"{config_name}.yaml")
    assert isinstance(main, DictConfig)
    names = []
    for key, value in ((str(key), value) for key, value in main.items()):
        if key not in ("defaults", "hydra"):
            names += [f"{key}.{inner!s}" for inner in value] if isinstance(value, DictConfig) else [key]
    for group in groups(config_name):
        names += [group, *(f"{group}.{key}" for choice in choices(group) for key in _keys(group, choice))]
    return sorted(set(names))


@cache
def groups(config_name: str) -> list[str]:
    """The config groups of a command, as they stand in its defaults."""
    from omegaconf import DictConfig, OmegaConf

    main = OmegaConf.load(config_dir() / f"{config_name}.yaml")
    assert isinstance(main, DictConfig)
    named = (str(key) for entry in main.defaults if isinstance(entry, DictConfig) for key in entry)
    return [group for group in named if choices(group)]


@cache
def _keys(group: str, choice: str) -> list[str]:
    """The keys of a file of conf/, those that it has from others of its group among them."""
    from omegaconf import DictConfig, OmegaConf

    path = config_dir() / group / f"{choice}.yaml"
    content = OmegaConf.load(path)
    assert isinstance(content, DictConfig)
    files = [str(entry).split("@")[0] for entry in content.get("defaults", [])]
    inherited = [key for other in files if other in choices(group) for key in _keys(group, other)]
    if path.read_text(encoding="utf-8").startswith("# @package _global_"):
        content = content.get(group, {})
    own = [str(key) for key in content if key != "defaults"]
    return [
        key for key in own if group != "experiment" or key == "seeds"
    ] + inherited  # what a paper prints is no option


# --- a name that is none ----------------------------------------------------------------------------------------------


def about_unknown(key: str, config_name: str) -> str:
    """One line on an option that a command, or what it chose of a group, does not have."""
    names = option_names(config_name)
    if key in names:
        return f"{key} is not an option here; {_who_has(key)} has it"
    if config_name == "config" and (hint := about_trainer_argument(key)):
        return f"{key} is not an option; {hint}"
    whole, _, leaf = key.lower().rpartition(".")
    if whole in names and (rule := rule_of(whole)):
        return f"{key} is not an option here; {whole} takes {rule}"
    word = next((name for name, others in OTHER_WORDS.items() if leaf in others and name in names), None)
    elsewhere = [script for other, script in SCRIPTS.items() if other != config_name and key in option_names(other)]
    if same := _of_this_name(leaf, names):
        hint = f"{leaf} is {' or '.join(same)}" if same != [leaf] else f"{leaf} stands alone, {leaf}=..."
    elif word is not None:
        hint = f"{leaf} is {word} here" + ", a number of steps" * ("epochs" in leaf)
    elif elsewhere:
        hint = f"{elsewhere[0]} has it"
    elif near := _nearest(key, leaf, names):
        hint = f"did you mean {near}?"
    else:
        hint = f"python {SCRIPTS[config_name]} --help shows the usual ones"
    return f"{key} is not an option; {hint}"


def _of_this_name(leaf: str, names: list[str]) -> list[str]:
    """The options of a name, whatever their group: those that most choices of the group have."""
    found = {
        name: _share(name) for name in names if name.rpartition(".")[2] == leaf and not name.startswith("protocol.")
    }
    return [name for name, share in found.items() if share == max(found.values())]


def _share(name: str) -> float:
    """Of the choices of an option's group, the part that has it."""
    group, _, key = name.partition(".")
    having = [key in _keys(group, choice) for choice in choices(group)] if key else []
    return sum(having) / len(having) if having else 1.0


def _nearest(key: str, leaf: str, names: list[str]) -> str | None:
    """The option whose own name is the most like a leaf, best one of the same group."""

    def likeness(name: str) -> tuple[float, bool]:
        group, _, own = name.rpartition(".")
        return difflib.SequenceMatcher(a=leaf, b=own).ratio(), group == key.rpartition(".")[0]

    best = max(names, key=likeness)
    return best if likeness(best)[0] > 0.65 else None


def _who_has(key: str) -> str:
    """Which choices of its group have an option."""
    group, _, name = key.partition(".")
    having = [choice for choice in choices(group) if name in _keys(group, choice)]
    return f"{group}={' | '.join(having[:5])}{' | ...' if len(having) > 5 else ''}"


def about_unknown_choice(group: str, choice: str, known: Iterable[str]) -> str:
    """One line on a choice that a group does not have."""
    known = list(known)
    near = difflib.get_close_matches(choice.lower(), known, n=1)
    others = [
        other for other in ("arch", "data", "protocol", "hardware", "logger", "experiment") if choice in choices(other)
    ]
    library = next((library for library, names in COMPARATORS.items() if choice in names), None)
    hint = f"; did you mean {near[0]}?" if near else f"; {others[0]}={choice} is one" if others else ""
    if group == "arch" and library:
        hint = f"; give arch={library} arch.name={choice}"
    return f"{group}={choice} is not known; use one of {', '.join(known)}{hint}"


def about_launcher(option: str) -> str:
    """One line on an option that asks Hydra for another launcher."""
    return (
        f"{option}: this program has its own launcher; leave it out: hardware=cpu or gpu runs jobs on this machine, "
        f"hardware=slurm_8gpu through SLURM"
    )


def refuse_no_choice(argument: str, config_name: str) -> None:
    """Refuse a group without a choice, with several that are no sweep, or added to where it stands already.

    Raises:
        UserError: before Hydra, which raises pages, or speaks of its own files.
    """
    group, _, choice = argument.lstrip("+~").partition("=")
    if group not in groups(config_name):
        return
    if argument.startswith("+"):
        raise UserError(f"{argument}: {group} has a choice already; write {group}={choice}")
    if choice.startswith("["):
        raise UserError(f"{argument}: {group} takes one choice; {group}={choice.strip('[]')} makes a job for each")
    if not argument.startswith("~") and choice in ("", "null"):
        raise UserError(f"{argument} chooses nothing; use one of {', '.join(choices(group))}, or leave it out")


# --- a composed config ------------------------------------------------------------------------------------------------


def check(config: Config, own: Config, config_name: str = "config") -> None:
    """Refuse keys that nothing reads, or that were taken away, and values of a wrong type.

    Args:
        config: as composed.
        own: what its choices of groups alone compose to.

    Raises:
        UserError: at the first.
    """
    flat, usual = dict(flatten(config)), dict(flatten(own))
    known = {*usual, *OPTIONAL}
    for key in (key for key in flat if key not in known):
        whole = next((name for name in usual if key.startswith(f"{name}.")), None)
        if whole is not None and usual[whole] != {}:
            raise UserError(f"{whole} takes one value, and {key}={flat[key]} gives it parts; write {whole}=VALUE")
        raise UserError(about_unknown(key, config_name))
    names = {*option_names(config_name), *OPTIONAL}
    for key in (key for key in flat if ".".join(key.split(".")[:2]) not in names):  # of a file of one's own
        raise UserError(about_unknown(key, config_name))
    if gone := [key for key in usual if key not in flat]:
        raise UserError(f"{gone[0]} was taken away, and is needed; leave ~{gone[0].partition('.')[0]}... out")
    check_values({key: value for key, value in flat.items() if value != usual.get(key)})
    counts = issubclass(asked_kind_of(config.get("data", {})), AskedPhotographs)
    facts = FACTS if counts else (*FACTS, *FACTS_OF_IMAGES)
    if changed := [key for key in facts if flat.get(key) != usual.get(key)]:
        group, _, fact = changed[0].partition(".")
        raise UserError(
            f"{changed[0]}={flat[changed[0]]} is no choice: this {group} has {usual[changed[0]]}"
            + (f"; give another {group}=" if fact in ("name", "source") else "; leave it out")
        )
