"""What `python evaluate.py` is asked for, checked. Imports no torch."""

from pathlib import Path
from typing import Any

from resnet_repro.data import photos, shards
from resnet_repro.data.options import Data, Photographs, Shards
from resnet_repro.errors import UserError
from resnet_repro.evaluation.record import Request, recorded
from resnet_repro.papers.rows import TESTS
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import Config, folder
from resnet_repro.runs.options import Csv, Hardware, Run, check_values

GIVE_RUN = "give run=outputs/cifar10/plain-20-s0, or several as an ensemble, run=FOLDER,FOLDER"

SEEN = ("name", "num_classes", "image", "val_size", "normalise", "num_mean_images", "test_side", "interpolation")
"""Of a data config: what a tested network sees depends on it."""


def make_request(asked: Config) -> Request:
    """Check what the command line asks for.

    Args:
        asked: conf/evaluate.yaml as composed.

    Raises:
        UserError: one line that says what to do.
    """
    hardware = Hardware.parse(asked["hardware"], group="hardware.")
    given = {key: value for key, value in asked["data"].items() if value is not None}
    check_values({f"data.{key}": value for key, value in given.items()})
    test, batch_size, num_bn_images = (asked[key] for key in ("test", "batch_size", "bn_images"))
    if str(test) not in TESTS:
        raise UserError(f"test={test} is not known; use one of {', '.join(TESTS)}")
    for name, number in (("batch_size", batch_size), ("bn_images", num_bn_images)):
        if not (number is None and name == "batch_size") and not (type(number) is int and number > 0):
            raise UserError(f"{name}={number} is not a whole number of images, at least 1")
    if asked["recompute_bn"] not in (True, False):
        raise UserError(f"recompute_bn={asked['recompute_bn']} is not true or false")
    folders = tuple(Path(folder("run", name)) for name in _listed(asked["run"]))
    runs = [_options_of(RunDir(path)) for path in folders]
    run = _agreed(runs)
    _check_test(str(test), runs)
    for key in given:
        if key not in run.data.record():
            raise UserError(f"data.{key} is not an option of data={run.data.name}; leave it out")
    schedule = run.schedule if batch_size is None else run.schedule.but(eval_batch_size=batch_size)
    run = run.but(
        data=run.data.but(**given),
        schedule=schedule,
        hardware=hardware.but(**_number_format(hardware, runs)),
        logger=Csv(name="csv"),
    )
    return Request(folders, str(test), run, num_bn_images if asked["recompute_bn"] else 0)


def _listed(run: Any) -> list[str]:
    names = run if isinstance(run, list) else [run]
    if not names or not all(isinstance(name, str) and name for name in names):
        raise UserError(f"no run was given; {GIVE_RUN}")
    return names


def _options_of(run: RunDir) -> Run:
    if not run.is_done:
        what = "is not finished" if run.job.exists() else "holds no run"
        raise UserError(f"{run.path} {what}, and finished runs are what is tested; {GIVE_RUN}")
    if not run.checkpoint_files():
        raise UserError(f"{run.path} holds no checkpoint, and its weights are what is tested; {GIVE_RUN}")
    recorded(run)  # what is there is added to in the end: not then is it to turn out damaged
    return Run.of_record(read_json(run.manifest)["config"])


def _agreed(runs: list[Run]) -> Run:
    """Return the first run, where all have the same data.

    Raises:
        UserError: names what differs.
    """
    first = runs[0].data
    for other in (run.data for run in runs[1:]):
        seen = [(key, getattr(first, key, None), getattr(other, key, None)) for key in SEEN]
        if differ := [f"data.{key} is {one} and {another}" for key, one, another in seen if one != another]:
            raise UserError(
                f"an ensemble's runs must be trained on the same data: {', '.join(differ)}; give runs that are"
            )
    return runs[0]


def _check_test(test: str, runs: list[Run]) -> None:
    """Refuse what the data cannot have, as its images are no larger than what a network sees, or a network cannot."""
    data = runs[0].data
    if test != "1crop" and not isinstance(data, Photographs):
        raise UserError(
            f"test={test} needs images larger than the network's {data.image[1]} pixels, as data=imagenet has; "
            f"{data.name} is tested with test=1crop"
        )
    if test in ("multiscale", "320") and not all(run.network.takes_any_size for run in runs):
        raise UserError(f"test={test} is for plain and residual networks, which take any size; use 1crop or 10crop")


def _number_format(asked: Hardware, runs: list[Run]) -> dict[str, object]:
    """Return that of the training, unless another is asked for."""
    settled: dict[str, object] = {}
    for key in ("precision", "channels_last"):
        if getattr(asked, key) == "auto":
            trained = [getattr(run.hardware, key) for run in runs]
            values = sorted({str(value).lower() for value in trained})
            if len(values) > 1:
                raise UserError(f"the runs were trained with hardware.{key}={' and '.join(values)}; give one of them")
            settled[key] = trained[0]
    return settled


def check_classes(data: Data) -> None:
    """Refuse another folder of photographs whose classes are not the network's, by their number."""
    if not isinstance(data, Photographs):
        return
    found = (shards if isinstance(data, Shards) else photos).count_there(data.root)
    if found and found.num_classes != data.num_classes:
        raise UserError(
            f"data.root={data.root} has {found.num_classes} classes and the run was trained on "
            f"{data.num_classes}; give the folder that it was trained with"
        )
