"""What `python evaluate.py` is asked for, checked. Imports no torch."""

from pathlib import Path
from typing import Any

from resnet_repro.data import photos, shards
from resnet_repro.data.options import is_streamed, of_photos
from resnet_repro.errors import UserError
from resnet_repro.evaluation.record import Request, recorded
from resnet_repro.networks.options import is_comparator
from resnet_repro.papers.rows import TESTS
from resnet_repro.runs import options as rules
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import Config, completed, flatten, folder

GIVE_RUN = "give run=outputs/cifar10/plain-20-s0, or several as an ensemble, run=FOLDER,FOLDER"


SEEN = ("name", "num_classes", "image", "val_size", "normalise", "num_mean_images", "test_side", "interpolation")
"""Of a data config: what a tested network sees depends on it."""


def make_request(options: Config) -> Request:
    """Check what the command line asks for.

    Args:
        options: conf/evaluate.yaml as composed.

    Raises:
        UserError: one line that says what to do.
    """
    rules.check_values(dict(flatten({"hardware": options["hardware"]})))
    rules.check_values({f"data.{key}": value for key, value in options["data"].items() if value is not None})
    test, batch_size, num_bn_images = (options[key] for key in ("test", "batch_size", "bn_images"))
    if str(test) not in TESTS:
        raise UserError(f"test={test} is not known; use one of {', '.join(TESTS)}")
    for name, number in (("batch_size", batch_size), ("bn_images", num_bn_images)):
        if not (number is None and name == "batch_size") and not (type(number) is int and number > 0):
            raise UserError(f"{name}={number} is not a whole number of images, at least 1")
    if options["recompute_bn"] not in (True, False):
        raise UserError(f"recompute_bn={options['recompute_bn']} is not true or false")
    runs = tuple(Path(folder("run", name)) for name in _listed(options["run"]))
    configs = [_config_of(RunDir(path)) for path in runs]
    config = _agreed(configs)
    _check_test(str(test), configs)
    given = {key: value for key, value in options["data"].items() if value is not None}
    for key in given:
        if key not in config["data"]:
            raise UserError(f"data.{key} is not an option of data={config['data']['name']}; leave it out")
    data = {**config["data"], **given}
    schedule = {**config["schedule"], **({} if batch_size is None else {"eval_batch_size": batch_size})}
    hardware = {**options["hardware"], **_number_format(options["hardware"], configs)}
    config = {**config, "data": data, "schedule": schedule, "hardware": hardware, "logger": {"name": "csv"}}
    return Request(runs, str(test), config, num_bn_images if options["recompute_bn"] else 0)


def _listed(run: Any) -> list[str]:
    names = run if isinstance(run, list) else [run]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"no run was given; {GIVE_RUN}")
    return names


def _config_of(run: RunDir) -> Config:
    if not run.is_done:
        what = "is not finished" if run.job.exists() else "holds no run"
        raise UserError(f"{run.path} {what}, and finished runs are what is tested; {GIVE_RUN}")
    if not run.checkpoint_files():
        raise UserError(f"{run.path} holds no checkpoint, and its weights are what is tested; {GIVE_RUN}")
    recorded(run)  # what is there is added to in the end: not then is it to turn out damaged
    return dict(completed(read_json(run.manifest))["config"])


def _agreed(configs: list[Config]) -> Config:
    """The first run's config, where all have the same data."""
    first = configs[0]["data"]
    for other in (config["data"] for config in configs[1:]):
        if differ := [key for key in SEEN if first.get(key) != other.get(key)]:
            values = ", ".join(f"data.{key} is {first.get(key)} and {other.get(key)}" for key in differ)
            raise UserError(f"an ensemble's runs must be trained on the same data: {values}; give runs that are")
    return configs[0]


def _check_test(test: str, configs: list[Config]) -> None:
    """Refuse what the data cannot have, as its images are no larger than what a network sees, or a network cannot."""
    data = configs[0]["data"]
    if test != "1crop" and not of_photos(data):
        raise UserError(
            f"test={test} needs images larger than the network's {data['image'][1]} pixels, as data=imagenet has; "
            f"{data['name']} is tested with test=1crop"
        )
    if test in ("multiscale", "320") and any(map(is_comparator, configs)):
        raise UserError(f"test={test} is for plain and residual networks, which take any size; use 1crop or 10crop")


def _number_format(asked: Config, configs: list[Config]) -> Config:
    """That of the training, unless another is asked for."""
    settled = {}
    for key in ("precision", "channels_last"):
        if asked[key] == "auto":
            values = sorted({str(config["hardware"][key]).lower() for config in configs})
            if len(values) > 1:
                raise UserError(f"the runs were trained with hardware.{key}={' and '.join(values)}; give one of them")
            settled[key] = configs[0]["hardware"][key]
    return settled


def _check_classes(data: Config) -> None:
    """Refuse another folder of photographs whose classes are not the network's, by their number."""
    found = (shards if is_streamed(data) else photos).count_there(data["root"]) if of_photos(data) else None
    if found and found.num_classes != data["num_classes"]:
        raise UserError(
            f"data.root={data['root']} has {found.num_classes} classes and the run was trained on "
            f"{data['num_classes']}; give the folder that it was trained with"
        )
