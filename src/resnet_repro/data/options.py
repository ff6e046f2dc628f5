"""Options of data."""

from typing import Any

Config = dict[str, Any]


def of_photos(data: Config) -> bool:
    """Whether the images are files that are read as training goes, each of its own size, and not held in memory."""
    return "crop" in data


def is_streamed(data: Config) -> bool:
    """Whether the photographs are packed in shards, which may lie in a bucket."""
    return "cache_gb" in data


def measures_top5(config: Config) -> bool:
    """Whether the evaluations count the top-5 error, too: where the data asks for it and has more than five classes."""
    data = config["data"]
    return bool(data.get("top5", False)) and data["num_classes"] > 5
