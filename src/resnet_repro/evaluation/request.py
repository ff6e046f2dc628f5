"""Check the options of `python evaluate.py`."""

from pathlib import Path
from typing import Any

from resnet_repro.data import photos, shards
from resnet_repro.data.options import Data, Photographs, Shards
from resnet_repro.errors import UserError
from resnet_repro.evaluation.record import Request, recorded
from resnet_repro.papers.rows import TESTS
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import Config, folder
from resnet_repro.runs.options import Hardware, Loggers, Run, check_values

GIVE_RUN = "give run=outputs/cifar10/plain-20-s0, or several as an ensemble, run=FOLDER,FOLDER"

SEEN = ("name", "num_classes", "image", "val_size", "normalise", "num_mean_images", "test_side", "interpolation")
"""Options of data that decide what a tested network sees."""


def make_request(config: Config) -> Request:
    """Return the request of a command.

    Args:
        config: the composed conf/evaluate.yaml.

    Raises:
        UserError: if an option breaks a rule, or a run cannot be tested like that.
    """
    hardware = Hardware.parse(config["hardware"], group="hardware.")
    data = {key: value for key, value in config["data"].items() if value is not None}
    check_values({f"data.{key}": value for key, value in data.items()})
    test, batch_size, num_bn_images = str(config["test"]), config["batch_size"], config["bn_images"]
    if test not in TESTS:
        raise UserError(f"test={test} is not known; use one of {', '.join(TESTS)}")
    for name, number in (("batch_size", batch_size), ("bn_images", num_bn_images)):
        if not (number is None and name == "batch_size") and not (type(number) is int and number > 0):
            raise UserError(f"{name}={number} is not a whole number of images, at least 1")
    if config["recompute_bn"] not in (True, False):
        raise UserError(f"recompute_bn={config['recompute_bn']} is not true or false")
    folders = tuple(Path(folder("run", name)) for name in _listed(config["run"]))
    runs = [_options_of(RunDir(path)) for path in folders]
    _check_same_data(runs)
    _check_test(test, runs)
    run = runs[0]
    for key in data:
        if key not in run.data.record():
            raise UserError(f"data.{key} is not an option of data={run.data.name}; leave it out")
    run = run.but(
        data=run.data.but(**data),
        schedule=run.schedule if batch_size is None else run.schedule.but(eval_batch_size=batch_size),
        hardware=hardware.but(**_number_format(hardware, runs)),
        logger=Loggers(csv=True),
    )
    return Request(folders, test, run, num_bn_images if config["recompute_bn"] else 0)


def _listed(run: Any) -> list[str]:
    names = run if isinstance(run, list) else [run]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"no run was given; {GIVE_RUN}")
    return names


def _options_of(run: RunDir) -> Run:
    if not run.is_done:
        state = "is not finished" if run.job.exists() else "holds no run"
        raise UserError(f"{run.path} {state}, and only finished runs can be tested; {GIVE_RUN}")
    if not run.has_weights:
        raise UserError(f"{run.path} holds no checkpoint, so there are no weights to test; {GIVE_RUN}")
    recorded(run)  # refuse a damaged evaluations.json now, not when the test adds to it at its end
    return Run.of_record(read_json(run.manifest)["config"])


def _check_same_data(runs: list[Run]) -> None:
    """Refuse an ensemble of runs with different data."""
    first = runs[0].data
    for other in (run.data for run in runs[1:]):
        values = [(key, getattr(first, key, None), getattr(other, key, None)) for key in SEEN]
        if differ := [f"data.{key} is {one} and {another}" for key, one, another in values if one != another]:
            raise UserError(
                f"an ensemble's runs must be trained on the same data: {', '.join(differ)}; give runs that agree"
            )


def _check_test(test: str, runs: list[Run]) -> None:
    """Refuse a test for which the images are too small, or a network takes only one size."""
    data = runs[0].data
    if test != "1crop" and not isinstance(data, Photographs):
        raise UserError(
            f"test={test} needs images larger than the network's {data.image[1]} pixels, as data=imagenet has; "
            f"{data.name} is tested with test=1crop"
        )
    if test in ("multiscale", "320") and not all(run.network.takes_any_size for run in runs):
        raise UserError(f"test={test} is for plain and residual networks, which take any size; use 1crop or 10crop")


def _number_format(asked: Hardware, runs: list[Run]) -> dict[str, object]:
    """Return the training's values for each `auto`, but no bf16 on a device that would emulate it.

    There PyTorch takes many times as long as in float32, and either way the errors differ by rounding.
    """
    trained: dict[str, object] = {}
    for key in ("precision", "channels_last"):
        if getattr(asked, key) == "auto":
            values = [getattr(run.hardware, key) for run in runs]
            words = sorted({str(value).lower() for value in values})
            if len(words) > 1:
                raise UserError(f"the runs were trained with hardware.{key}={' and '.join(words)}; give one of them")
            trained[key] = values[0]
    if trained.get("precision") == "bf16-mixed":
        trained["precision"] = "auto"  # bf16 where the device multiplies bf16 natively
    return trained


def check_classes(data: Data) -> None:
    """Refuse a folder of photographs that has another number of classes than the network."""
    if not isinstance(data, Photographs):
        return
    count = (shards if isinstance(data, Shards) else photos).count_there(data.root)
    if count and count.num_classes != data.num_classes:
        raise UserError(
            f"data.root={data.root} has {count.num_classes} classes and the run was trained on "
            f"{data.num_classes}; give the folder that the run was trained with"
        )
