"""What the options may be, and what goes together. Imports no torch: a mistake shows at once."""

import math
from collections.abc import Callable
from typing import Any

from resnet_repro.errors import UserError
from resnet_repro.networks import depths
from resnet_repro.networks.options import COMPARATORS


def _number(kind: type, low: float, high: float = math.inf) -> Callable[[Any], bool]:
    kinds = (int,) if kind is int else (int, float)
    return lambda v: isinstance(v, kinds) and not isinstance(v, bool) and low <= v <= high and math.isfinite(v)


def _one_of(*values: Any) -> tuple[Callable[[Any], bool], str]:
    names = (str(v).lower() if isinstance(v, bool) else str(v) for v in values)
    return (lambda v: any(v == each and type(v) is type(each) for each in values)), "one of " + ", ".join(names)


def folder_rule(key: str) -> str:
    """What is said to a value of an option that is no folder."""
    return f"a folder; a name that is a number is quoted, '{key}=\"2024\"'"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_warmup(value: Any) -> bool:
    if value is None:
        return True
    rules = {key: _number(float, 0) for key in ("lr", "steps", "until_error", "min_depth")}
    if not isinstance(value, dict) or not all(key in rules and rules[key](each) for key, each in value.items()):
        return False
    return "lr" in value and ("steps" in value or "until_error" in value)


def _is_plateau(value: Any) -> bool:
    rules = {"patience": _number(int, 0), "threshold": _number(float, 0, 1)}
    return isinstance(value, dict) and value.keys() == rules.keys() and all(rules[key](value[key]) for key in rules)


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "jobs": (lambda v: v == "auto" or _number(int, 1)(v), "auto or a whole number of runs at a time, at least 1"),
    "seed": (_number(int, 0, 2**31 - 1), "a whole number from 0 on"),
    "init_from": (lambda v: v is None or _number(int, 1)(v), "null or the depth of a shallower run"),
    "resume": _one_of(True, False),
    "plan": _one_of(True, False),
    "summary": _one_of(True, False),
    "arch.order": _one_of("original", "bn_after_add", "relu_before_add", "relu_only_preact", "full_preact"),
    "arch.shortcut": _one_of("auto", "A", "B", "C", "dropout", "none"),
    "arch.mix": _one_of("add", "half_shortcut", "half_both", "exclusive_gate", "shortcut_gate"),
    "arch.unit": _one_of("auto", "basic", "bottleneck", "one_layer"),
    "arch.stride_on": _one_of("first", "3x3"),
    "arch.name": (lambda v: v is None or _is_text(v), "null or the name of a network"),
    "arch.lr": (lambda v: v == "auto" or _number(float, 0)(v), "auto or a number from 0 on"),
    "arch.protocol": _one_of("paper_v1", "paper_v2"),
    "arch.source": _one_of(*COMPARATORS),
    "arch.image_size": (lambda v: v is None or _number(int, 1)(v), "null or a whole number of pixels, at least 1"),
    "arch.gate_bias": (_number(float, -100, 100), "a number"),
    "data.val_size": (_number(int, 0), "a whole number of images, 0 for no validation split"),
    "data.loader": _one_of("device", "dataloader"),
    "data.num_workers": (_number(int, 0), "a whole number from 0 on"),
    "data.num_threads": (lambda v: v == "auto" or _number(int, 1)(v), "auto or a whole number of threads, at least 1"),
    "data.family": _one_of("cifar", "imagenet"),
    "data.crop": (_number(int, 1), "a whole number of pixels, at least 1"),
    "data.augment": _one_of("scale", "scale_aspect"),
    "data.shorter_side": (
        lambda v: isinstance(v, list) and len(v) == 2 and all(map(_number(int, 224), v)) and v == sorted(v),
        "the smallest and the largest shorter side, [256,480], at least 224",
    ),
    "data.test_side": (_number(int, 224), "a whole number of pixels, at least 224"),
    "data.colour": (_number(float, 0), "a number from 0 on"),
    "data.jitter": (_number(float, 0, 1), "a number from 0 to 1"),
    "data.interpolation": _one_of("bilinear", "bicubic"),
    "data.num_mean_images": (_number(int, 1), "a whole number of images, at least 1"),
    "data.skip_damaged": _one_of(True, False),
    "data.shuffle": (_number(int, 1), "a whole number of images, at least 1"),
    "data.cache_gb": (_number(float, 0), "a number of GB of disk"),
    "data.cache_dir": (lambda v: v is None or _is_text(v), "null or a folder"),
    "data.root": (_is_text, folder_rule("data.root")),
    "data.download": _one_of(True, False),
    "data.num_train": (_number(int, 1), "a whole number of images, at least 1"),
    "data.num_classes": (_number(int, 1), "a whole number of classes, at least 1"),
    "data.image": (
        lambda v: isinstance(v, list) and len(v) == 3 and all(map(_number(int, 1), v)),
        "channels, height and width, [3,32,32]",
    ),
    "schedule.steps": (_number(int, 1), "a whole number of steps, at least 1"),
    "schedule.batch_size": (_number(int, 1), "a whole number of images, at least 1"),
    "schedule.eval_batch_size": (_number(int, 1), "a whole number of images, at least 1"),
    "schedule.log_every": (_number(int, 1), "a whole number of steps, at least 1"),
    "schedule.eval_every": (_number(int, 1), "a whole number of steps, at least 1"),
    "schedule.lr": (_number(float, 0), "a number from 0 on"),
    "schedule.momentum": (_number(float, 0, 1), "a number from 0 to 1"),
    "schedule.weight_decay": (_number(float, 0), "a number from 0 on"),
    "schedule.decay": _one_of("weights", "all"),
    "schedule.ghost_batch_size": (
        lambda v: v is None or _number(int, 1)(v),
        "a whole number of images to a batch norm, at least 1, or null for all that a device holds",
    ),
    "schedule.nesterov": _one_of(True, False),
    "schedule.protocol_steps": (_number(int, 1), "a whole number of steps, at least 1"),
    "schedule.warmup": (_is_warmup, "null, {lr: 0.01, steps: 400} or {lr: 0.01, until_error: 80.0}"),
    "schedule.shape": _one_of("steps", "plateau", "cosine"),
    "schedule.plateau": (_is_plateau, "{patience: 5, threshold: 0.001}: evaluations, and a share of the error"),
    "schedule.protocol_batch_size": (_number(int, 1), "a whole number of images, at least 1"),
    "data.normalise": _one_of("pixel", "channel"),
    "data.pad": (_number(int, 0), "a whole number of pixels"),
    "data.top5": _one_of(True, False),
    "data.flip": _one_of(True, False),
    "outputs": (_is_text, folder_rule("outputs")),
    "results": (_is_text, folder_rule("results")),
    "wandb": _one_of(True, False),
    "hardware.deterministic": _one_of(True, False),
    "schedule.milestones": (
        lambda v: isinstance(v, list) and all(map(_number(int, 1), v)) and v == sorted(v),
        "a rising list of steps, [32000,48000]",
    ),
    "hardware.accelerator": _one_of("auto", "cpu", "gpu"),
    "hardware.devices": (_number(int, 1), "a whole number of devices a node, a process each, at least 1"),
    "hardware.num_nodes": (_number(int, 1), "a whole number of machines, at least 1"),
    "hardware.precision": _one_of("auto", "32-true", "bf16-mixed"),
    "hardware.channels_last": _one_of("auto", True, False),
    "hardware.fused": _one_of("auto", True, False),
    "hardware.recompute": _one_of(True, False),
    "hardware.compile": _one_of(True, False),
    "hardware.graph": _one_of(True, False),
    "hardware.num_threads": (_number(int, 1), "a whole number of CPU threads a job, at least 1"),
    "hardware.checkpoint_minutes": (_number(float, 0), "a number of minutes"),
    "hardware.checkpoint_steps": (
        lambda v: v is None or _number(int, 1)(v),
        "a whole number of steps, at least 1, or null",
    ),
    "logger.upload_seconds": (_number(float, 1), "a number of seconds, at least 1"),
    "logger.mode": _one_of("auto", "online", "offline"),
    "logger.project": (_is_text, "a name"),
    "logger.entity": (lambda v: v is None or _is_text(v), "null or a name"),
    "schedule.devices": (_number(int, 1), "a whole number of devices, at least 1"),
    "protocol.devices": (_number(int, 1), "a whole number of devices, at least 1"),
    "protocol.warmup": (_is_warmup, "null, {lr: 0.01, steps: 400} or {lr: 0.01, until_error: 80.0}"),
    "protocol.augment": _one_of("scale", "scale_aspect"),
    "protocol.jitter": (_number(float, 0, 1), "a number from 0 to 1"),
    "protocol.interpolation": _one_of("bilinear", "bicubic"),
}

AUTO = ("schedule.steps", "schedule.lr")
"""Options that may be auto until `resnet_repro.runs.job.resolve` has settled them."""


def check_values(flat: dict[str, Any], *, settled: bool = True) -> None:
    """Refuse a value that none of its option's is; before it is `settled`, auto is one of AUTO's.

    Raises:
        UserError: at the first that breaks a rule.
    """
    for key, (holds, rule) in RULES.items():
        if key in flat and not holds(flat[key]) and (settled or key not in AUTO or flat[key] != "auto"):
            raise UserError(f"{key}={flat[key]} is not {rule}")


def check(flat: dict[str, Any]) -> None:
    """Refuse a value, or two that do not go together, of a config as `resnet_repro.runs.job.flatten` has it.

    Raises:
        UserError: at the first that breaks a rule.
    """
    check_values(flat)
    num_train, batch_size, val_size = flat["data.num_train"], flat["schedule.batch_size"], flat.get("data.val_size", 0)
    left = max(num_train - val_size, 0)
    if not left:
        raise UserError(f"data.val_size={val_size} leaves 0 of {num_train} images to train on; v1 takes 5000 of 50000")
    if batch_size > left:
        raise UserError(f"schedule.batch_size={batch_size} is more than the {left} training images")
    world_size = flat["hardware.devices"] * flat["hardware.num_nodes"]
    if batch_size % world_size:
        near = [n for n in (batch_size // world_size * world_size, -(-batch_size // world_size) * world_size) if n]
        raise UserError(
            f"schedule.batch_size={batch_size} does not divide by {world_size} devices; nearest are "
            + " and ".join(map(str, near))
        )
    if flat["hardware.graph"] and (world_size > 1 or flat.get("data.loader") != "device"):
        raise UserError(
            "hardware.graph=true is for one GPU with all images on it: use it with hardware.devices=1 and "
            "data.loader=device, or leave it out"
        )
    if flat["hardware.compile"] and (others := [k for k in ("fused", "recompute") if flat[f"hardware.{k}"] is True]):
        raise UserError(f"hardware.compile=true and hardware.{others[0]}=true exclude each other; use one of them")
    if flat["protocol.name"] == "official_lua" and flat.get("data.family") == "imagenet":
        raise UserError(
            "protocol=official_lua is a recipe for CIFAR; on ImageNet use paper_v1, paper_v2, fb_resnet or modern"
        )
    if flat["schedule.shape"] == "plateau":
        _check_plateau(flat)
    if flat.get("arch.shortcut") == "none" and flat["arch.mix"] != "add":
        raise UserError(f"arch.mix={flat['arch.mix']} needs a shortcut; with arch.shortcut=none use arch.mix=add")


def _check_plateau(flat: dict[str, Any]) -> None:
    if "schedule.plateau" not in flat:
        raise UserError(
            "schedule.shape=plateau needs to know when it is one: '+schedule.plateau={patience: 5, threshold: 0.001}'"
        )
    if flat.get("data.val_size") == 0:
        raise UserError(
            "schedule.shape=plateau is judged by validation images, and none are held out; use data.val_size=5000"
        )
    if flat["init_from"] is not None:
        raise UserError(f"init_from={flat['init_from']} trains on at a rate that is known; use schedule.shape=steps")


def check_comparator(flat: dict[str, Any]) -> None:
    """Refuse what a network of another library has not; whether there is one of that name is told by its library.

    Raises:
        UserError: at the first that breaks a rule.
    """
    source, name, init_from = flat["arch.source"], flat["arch.name"], flat["init_from"]
    check_values({key: flat[key] for key in ("arch.source", "arch.image_size")})
    if name is None:
        known = "one of " if source == "torchvision" else "any of timm.list_models(), for example "
        raise UserError(f"arch={source} needs arch.name=..., {known}{', '.join(COMPARATORS[source])}")
    if init_from is not None:
        raise UserError(f"init_from={init_from} inserts layers into plain and residual networks; arch={source} is none")
    for key, usual in (("fused", "auto"), ("recompute", "false")):
        if flat[f"hardware.{key}"] is True:
            raise UserError(f"hardware.{key}=true is for plain and residual networks; with arch={source} use {usual}")


def check_construction(init_from: int, *, depth: int, family: str, arch: dict[str, Any], asked_unit: str) -> None:
    """Refuse what has no identity to insert, or no shallower network of the same units to insert it into.

    Args:
        arch: a settled one (`resnet_repro.runs.job.settled`); `asked_unit` is what its `unit` was before.

    Raises:
        UserError: one line that says what to do.
    """
    if init_from > depth:
        raise UserError(f"init_from={init_from} is deeper than depth={depth}; give the depth of a shallower run")
    if asked_unit == "auto" and depths.unit_for(init_from, family) != arch["unit"]:
        raise UserError(f"init_from={init_from} and depth={depth} have different units; give arch.unit for both")
    depths.stages(init_from, family=family, unit=arch["unit"])
    plain = arch["shortcut"] == "none"
    if plain and (arch["order"] != "original" or arch["unit"] == "bottleneck"):
        what = "arch.order=original" if arch["order"] != "original" else "arch.unit=basic"
        raise UserError(f"init_from={init_from}: plain units are identities with {what} only; use that")
    if not plain and (arch["shortcut"] not in "AB" or arch["mix"] != "add" or arch["order"] == "bn_after_add"):
        raise UserError(
            f"init_from={init_from} needs units that are identities where F is zero; use arch.shortcut=A or B, "
            "arch.mix=add and an arch.order other than bn_after_add"
        )
