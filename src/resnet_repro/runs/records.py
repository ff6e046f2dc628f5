"""What older versions of this package recorded of a run, in the words of today. Imports no torch."""

from collections.abc import Mapping
from typing import Any

BEFORE: dict[str, dict[str, Any]] = {
    # weight decay acted on every parameter, batch norm on all images of a device
    "schedule": {"decay": "all", "ghost_batch_size": None},
    "hardware": {"compile": False, "graph": False, "recompute": False},
}
"""What runs did before an option existed."""
BEFORE_OF_PHOTOS = {"jitter": 0, "interpolation": "bilinear"}
"""As `BEFORE`, options of photographs; the papers' protocols do the same today."""
GONE = {
    "schedule": ("devices",),  # now `protocol.devices` alone
    "arch": ("lr",),
    "protocol": ("warmup", "warmups", "imagenet", "imagenets", "augment", "jitter", "interpolation"),
}
"""Options that only carried values from one file of conf/ to another."""


def of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded config with the options that are younger than the record, and without those that are gone."""
    config = dict(config)
    for group, names in GONE.items():
        config[group] = {key: value for key, value in config[group].items() if key not in names}
    for group, values in BEFORE.items():
        config[group] = {key: value for key, value in values.items() if key not in config[group]} | config[group]
    if "crop" in config["data"]:
        config["data"] = BEFORE_OF_PHOTOS | config["data"]
    return config


def upgraded(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's job or manifest with its config as of today, and how that departs from the papers' protocols."""
    config = record["config"]
    younger = [key for key in BEFORE["schedule"] if key not in config["schedule"]]
    departs = config["protocol"]["name"].startswith("paper_")
    departures = {f"schedule.{key}": BEFORE["schedule"][key] for key in younger if departs}
    return {**record, "config": of_today(config), "departures": record["departures"] | departures}
