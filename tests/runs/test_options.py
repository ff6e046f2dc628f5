"""Names and types of options: refusals before any work, and hints for mistyped names."""

import inspect
import re
from typing import Any

import pytest
import pytorch_lightning as pl

from resnet_repro.errors import UserError
from resnet_repro.launch.experiment import make_jobs
from resnet_repro.runs import option_names
from resnet_repro.runs.job import flatten
from resnet_repro.runs.option_names import about_unknown, about_unknown_choice
from resnet_repro.runs.options import Run, Wandb, rule_of
from resnet_repro.runs.trainer_arguments import TRAINER_ARGUMENTS
from tests.helpers.runs import composed, composed_with_choices, resolved


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("data.batch_size", "batch_size is schedule.batch_size"),
        ("batch_size", "batch_size is schedule.batch_size"),
        ("lr", "lr is schedule.lr"),
        ("steps", "steps is schedule.steps"),
        ("precision", "precision is hardware.precision here"),
        ("schedule.depth", "write depth=... without a group"),
        ("arch.depth", "write depth=... without a group"),
        ("Depth", "write depth=... without a group"),
        ("epochs", "epochs is schedule.steps here, a number of steps"),
        ("trainer.max_epochs", "max_epochs is schedule.steps here, a number of steps"),
        ("model", "model is arch here"),
        ("dataset", "dataset is data here"),
        ("dpeth", "did you mean depth?"),
        ("schedule.warmpu", "did you mean schedule.warmup?"),
        ("shcedule.momentum", "momentum is schedule.momentum"),
        ("trainer", "trainer is hardware here"),
        ("trainer.accelerator", "accelerator is hardware.accelerator here"),
        (
            "trainer.callbacks.early_stopping",
            "callbacks has no option here: checkpoints, curves and layer responses are part of every run",
        ),
        ("hardware.gradient_clip_val", "gradient_clip_val has no option here: no gradient is clipped"),
        ("hardware.nope", "python train.py --help shows the usual ones"),
        ("data.nope", "python train.py --help shows the usual ones"),
        ("recompute_bn", "python evaluate.py has it"),
    ],
)
def test_an_unknown_option_gets_a_hint(key: str, hint: str) -> None:
    assert about_unknown(key, "config") == f"{key} is not an option; {hint}"


def test_every_argument_of_lightnings_trainer_gets_a_hint() -> None:
    arguments = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    assert arguments == TRAINER_ARGUMENTS.keys()
    options = re.findall(r"[a-z]\w+\.\w+|\w+(?==)", " ".join(TRAINER_ARGUMENTS.values()))
    assert {name for name in options if not name.endswith(".py")} <= {*option_names.option_names()}


def test_a_part_of_a_null_option_gets_the_rule_of_the_whole() -> None:
    rule = "schedule.warmup.lr is not an option here; schedule.warmup takes null, {lr: 0.01, steps: 400} or {lr: 0.01, "
    assert about_unknown("schedule.warmup.lr", "config").startswith(rule)


@pytest.mark.parametrize(
    ("command", "key", "hint"),
    [
        ("evaluate", "schedule.batch_size", "write batch_size=... without a group"),
        ("evaluate", "depth", "python train.py has it"),
        ("evaluate", "tset", "did you mean test?"),
        ("report", "depth", "python train.py has it"),
        ("report", "data.batch_size", "python train.py has schedule.batch_size"),
        ("report", "outpts", "did you mean outputs?"),
    ],
)
def test_every_command_hints_at_its_own_options(command: str, key: str, hint: str) -> None:
    assert about_unknown(key, command) == f"{key} is not an option; {hint}"


@pytest.mark.parametrize(
    ("group", "choice", "hint"),
    [
        ("data", "CIFAR10", "did you mean cifar10?"),
        ("arch", "resnet_v3", "did you mean resnet_v"),
        ("arch", "cifar100", "data=cifar100 is one"),
        ("arch", "alexnet", "give arch=torchvision arch.name=alexnet"),
    ],
)
def test_an_unknown_choice_gets_a_hint(group: str, choice: str, hint: str) -> None:
    assert hint in about_unknown_choice(group, choice, option_names.choices(group))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("+data.crop=28", "data.crop is not an option here; data=imagenet | imagenet_streaming has it"),
        (
            "++data.root=x",
            "data.root is not an option here; data=cifar10 | cifar100 | imagenet | imagenet_streaming has it",
        ),
        ("+schedule.warmpu=3", "schedule.warmpu is not an option; did you mean schedule.warmup?"),
        ("+hardware.gradient_clip_val=1", "hardware.gradient_clip_val is not an option; gradient_clip_val has no "),
        ("+trainer.devices=2", "trainer.devices is not an option; devices is hardware.devices here"),
        ("+foo=1", "foo is not an option; python train.py --help shows the usual ones"),
        ("+experiment.seeds=[0]", "experiment.seeds is not an option here; experiment=v1_fig1 | v1_fig4 |"),
        ("+schedule.warmup.foo=1", "schedule.warmup={'foo': 1} is not null, {lr: 0.01, steps: 400} or"),
        (
            "schedule.lr={a: 1}",
            "schedule.lr takes one value, and schedule.lr.a=1 gives it parts; write schedule.lr=VALUE",
        ),
        ("~schedule.momentum", "schedule.momentum was removed, but is needed; leave ~schedule... out"),
        ("~logger", "logger.wandb was removed, but is needed; leave ~logger... out"),
        ("data.num_classes=ten", "data.num_classes=ten is not a whole number of classes, at least 1"),
        ("data.num_classes=20", "data.num_classes=20 cannot be chosen: this data has 10; leave it out"),
        ("data.name=cifar10", "data.name=cifar10 cannot be chosen: this data has digits; give another data="),
        ("data.image=3", "data.image=3 is not channels, height and width, [3,32,32]"),
        ("schedule.milestones=5", "schedule.milestones=5 is not a rising list of steps, [32000,48000]"),
        ("schedule.nesterov=1", "schedule.nesterov=1 is not one of true, false"),
        ("schedule.batch_size=all", "schedule.batch_size=all is not a whole number of images, at least 1"),
        ("seed=true", "seed=True is not a whole number from 0 on"),
        ("outputs=5", "outputs=5 is not a folder"),
        ("logger.project=5", "logger.project=5 is not a name"),
        ("logger.wandb=false", "logger.wandb=False is not true; choose loggers with logger=wandb,tensorboard"),
        ("arch.shortcut=[A]", "arch.shortcut=['A'] is not one of auto, A, B, C, dropout, none"),
        ("hardware.num_threads=two", "hardware.num_threads=two is not a whole number of CPU threads a job, at least 1"),
    ],
)
def test_unknown_options_and_wrong_values_are_refused(override: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        make_jobs(composed_with_choices, [["data=digits", override]])
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", ["+data.crop=28", "+experiment.sedes=[0]"])
def test_an_experiment_refuses_unknown_options_too(option: str) -> None:
    with pytest.raises(UserError, match="is not an option"):
        make_jobs(composed_with_choices, [["experiment=v1_fig1", "data=digits", option]])


@pytest.mark.parametrize(
    "option",
    ["+data.top5=true", "+schedule.plateau={patience: 5, threshold: 0.1}", "+schedule.protocol_batch_size=128"],
)
def test_any_config_takes_the_optional_options(option: str) -> None:
    (job,) = make_jobs(composed_with_choices, [["data=digits", option]]).jobs
    assert job.name.startswith("resnet_v1-20-s0__")


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("data=null", "data=null chooses nothing; use one of cifar10, cifar100, digits"),
        ("arch=???", "arch=??? chooses nothing; use one of plain, resnet_v1"),
        ("logger=", "logger= chooses nothing; use one of csv, tensorboard, wandb, or leave it out"),
        ("+data=digits", "+data=digits: data has a choice already; write data=digits"),
        (
            "data=[digits,cifar10]",
            "data=[digits,cifar10]: data takes one choice; data=digits,cifar10 makes a job for each",
        ),
    ],
)
def test_a_group_has_one_choice(argument: str, line: str) -> None:
    with pytest.raises(UserError) as error:
        option_names.refuse_no_choice(argument, "config")
    assert str(error.value).startswith(line)


@pytest.mark.parametrize(
    ("option", "choice"),
    [
        ("logger=wandb,tensorboard", "wandb,tensorboard"),
        ("logger=[csv,wandb]", "csv,wandb"),
        ("logger=csv,tensorboard", "csv,tensorboard"),
        ("logger=tensorboard", "tensorboard"),
    ],
)
def test_one_run_has_all_loggers_of_a_list(option: str, choice: str) -> None:
    jobs = make_jobs(composed_with_choices, [["data=digits", option_names.several_loggers(option)]]).jobs
    (loggers,) = [job.run.logger for job in jobs]
    assert sorted(loggers.choice.split(",")) == sorted(choice.split(","))
    assert isinstance(loggers, Wandb) == ("wandb" in choice)
    assert Run.of_record(jobs[0].run.record()) == jobs[0].run


@pytest.mark.parametrize("record", [{"name": "csv"}, {"name": "wandb", "project": "p", "entity": None}])
def test_the_one_logger_of_an_older_run_is_read(record: dict[str, object]) -> None:
    newer = {"mode": "auto", "upload_seconds": 30} if record["name"] == "wandb" else {}
    run = Run.of_record(resolved("data=digits").record() | {"logger": record | newer})
    assert run.logger.choice == record["name"]
    assert getattr(run.logger, "project", "p") == "p"


CHECKED_ELSEWHERE = {"depth", "name", "same_as"}
"""First or second words of keys: depths.py checks depths, `option_names.check` the names."""


def test_every_option_has_a_rule_for_its_values() -> None:
    for group in option_names.groups("config"):
        for choice in option_names.choices(group) if group != "experiment" else ():
            flat: dict[str, Any] = dict(flatten(composed(f"{group}={choice}")))
            unchecked = [key for key in flat if not rule_of(key) and not {*key.split(".")[:2]} & CHECKED_ELSEWHERE]
            assert unchecked == [], choice
