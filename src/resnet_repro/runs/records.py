"""Bring the records of older versions of this package up to date, and leave out what only their machine knows."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BEFORE: dict[str, dict[str, Any]] = {
    # weight decay acted on every parameter, batch norm on all images of a device
    "schedule": {"decay": "all", "ghost_batch_size": None},
    "hardware": {"compile": False, "graph": False, "recompute": False},
}
"""Values that runs had before these options existed."""
BEFORE_OF_PHOTOS = {"jitter": 0, "interpolation": "bilinear"}
"""The same for options of photographs. The papers' protocols have these values today."""
GONE = {
    "schedule": ("devices",),  # now only `protocol.devices`
    "arch": ("lr",),
    "protocol": ("warmup", "warmups", "imagenet", "imagenets", "augment", "jitter", "interpolation"),
}
"""Former options that only carried values from one file of conf/ to another."""


def of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded config with the options that are newer than the record, and without former options."""
    config = dict(config)
    if "name" in config["logger"]:  # a run had one logger
        settings = dict(config["logger"])
        config["logger"] = {settings.pop("name"): True, **settings}
    for group, names in GONE.items():
        config[group] = {key: value for key, value in config[group].items() if key not in names}
    for group, values in BEFORE.items():
        config[group] = {key: value for key, value in values.items() if key not in config[group]} | config[group]
    if "crop" in config["data"]:
        config["data"] = BEFORE_OF_PHOTOS | config["data"]
    return config


def upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's job or manifest with a config of today and its departures from the papers' protocols."""
    config, departures = record["config"], dict(record["departures"])
    if config["protocol"]["name"].startswith("paper_"):
        newer = {key: value for key, value in BEFORE["schedule"].items() if key not in config["schedule"]}
        departures |= {f"schedule.{key}": value for key, value in newer.items()}
    return {**record, "config": of_today(config), "departures": departures}


def without_folders(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest without the absolute folders of its machine, which say nothing about the run.

    In the config, outputs and data are where they usually are; in the command, FOLDER stands for a folder.
    """
    config = dict(manifest["config"])
    if _is_absolute(config.get("outputs")):
        config["outputs"] = "outputs"
    if _is_absolute(config["data"].get("root")):
        config["data"] = config["data"] | {"root": "data"}
    words = [_without_folder(word) for word in shlex.split(manifest.get("command", ""))]
    return {**manifest, "config": config, "command": shlex.join(words)}


def _without_folder(word: str) -> str:
    option, equals, value = word.partition("=")
    if _is_absolute(value):
        return f"{option}{equals}FOLDER"
    return Path(word).name if _is_absolute(word) else word


def _is_absolute(folder: str | None) -> bool:
    return folder is not None and Path(folder).is_absolute()
