"""Small runs on photographs, as `runs` has them of digits."""

from pathlib import Path

from resnet_repro.data.imagenet import ImageNetData
from resnet_repro.data.options import Photographs
from resnet_repro.launch.checks import claim
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import make_job
from resnet_repro.runs.options import Run
from tests.helpers.ranks import in_ranks, run_rank
from tests.helpers.runs import composed

SMALL = ("data=imagenet", "depth=18", "data.crop=32", "schedule.batch_size=16", "schedule.eval_batch_size=50")
SMALL += ("logger=csv", "schedule.lr=0.01", "hardware.precision=32-true", "hardware.fused=false")


def prepared(outputs: Path, root: Path, *overrides: str) -> Path:
    """A run folder as the sweep leaves it to the job's process."""
    config = composed(*SMALL, f"data.root={root}", *overrides, f"outputs={outputs}")
    job = make_job(config, usual=composed("data=imagenet"))
    claim(job, group="test", command="python train.py")
    return job.dir


def module(root: Path, *overrides: str) -> ImageNetData:
    asked = make_job(composed(*SMALL, f"data.root={root}", *overrides), usual=composed("data=imagenet")).run
    return photographs(asked)


def photographs(run: Run) -> ImageNetData:
    """Return the data of a run, as it trains on it."""
    assert isinstance(run.data, Photographs)
    return ImageNetData(run.data, run.batching())


FOR_RANKS = ("schedule.steps=42", "hardware.devices=2", "hardware.accelerator=cpu", "hardware.checkpoint_steps=39")


def assert_ranks_go_on(whole: Path, again: Path) -> None:
    """Two ranks that go on from step 39 of `FOR_RANKS` end with the weights of two that nobody stopped."""
    for path in (whole, again):
        in_ranks(2, run_rank, path)
    wanted = read_json(whole / "manifest.json")["weights_sha256"]
    RunDir(again).manifest.unlink()
    RunDir(again).checkpoint_files()[0].unlink()  # what is left is of step 39
    in_ranks(2, run_rank, again)
    assert read_json(again / "manifest.json")["weights_sha256"] == wanted
