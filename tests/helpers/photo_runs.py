"""Small runs on photographs; `runs` has small runs on digits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_repro.data.imagenet import ImageNetData
from resnet_repro.data.options import Photographs
from resnet_repro.errors import Stopped, UserError
from resnet_repro.launch.checks import claim
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import make_job
from resnet_repro.runs.option_names import check
from resnet_repro.runs.options import Run
from resnet_repro.training.run import run
from tests.helpers.commands import imported_modules
from tests.helpers.ranks import in_ranks, run_rank
from tests.helpers.runs import composed, interrupt_at

SMALL = ("data=imagenet", "depth=18", "data.crop=32", "schedule.batch_size=16", "schedule.eval_batch_size=50")
SMALL += ("logger=csv", "schedule.lr=0.01", "hardware.precision=32-true", "hardware.fused=false")


def prepared(outputs: Path, root: Path, *overrides: str) -> Path:
    """Return a run folder as the sweep leaves it to the job's process."""
    config = composed(*SMALL, f"data.root={root}", *overrides, f"outputs={outputs}")
    job = make_job(config, usual=composed("data=imagenet"))
    claim(job, group="test", command="python train.py")
    return job.dir


def module(root: Path, *overrides: str) -> ImageNetData:
    """Return the data of a small run on the photographs in `root`."""
    return photographs(make_job(composed(*SMALL, f"data.root={root}", *overrides), usual=composed("data=imagenet")).run)


def refusal(data: str, option: str) -> str:
    """Return the line with which a command refuses an option of this data."""
    usual, config = composed(f"data={data}"), composed(f"data={data}", "depth=18", option)
    try:
        check(config, usual)
        make_job(config, usual=usual)
    except UserError as error:
        return str(error)
    raise AssertionError(f"{option} is not refused")


def refused_at_once(*options: str, home: Path) -> str:
    """Call a command, and return the one line with which it refuses before it imports torch."""
    status, output, modules = imported_modules(*options, home=home)
    assert status == 2, output
    assert output.strip().count("\n") == 0
    assert "torch" not in modules
    return output


def assert_resumes(whole: Path, parts: Path, again: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Assert that a run that stops at step 7, and goes on once `again` has prepared it, has the bits of `whole`."""
    expected = run(whole)
    with monkeypatch.context() as patch:
        interrupt_at(7, patch)
        with pytest.raises(Stopped, match="stopped at step 7"):
            run(parts)
    manifest = run(again())
    assert manifest["weights_sha256"] == expected["weights_sha256"]
    assert RunDir(parts).metrics.read_bytes() == RunDir(whole).metrics.read_bytes()


def photographs(run: Run) -> ImageNetData:
    """Return the data of a run, as it trains on it."""
    assert isinstance(run.data, Photographs)
    return ImageNetData(run.data, run.batching())


FOR_RANKS = ("schedule.steps=42", "hardware.devices=2", "hardware.accelerator=cpu", "hardware.checkpoint_steps=39")


def assert_ranks_go_on(whole: Path, again: Path) -> None:
    """Assert that two ranks that go on from step 39 of `FOR_RANKS` end with the weights of two that nobody stopped."""
    for path in (whole, again):
        in_ranks(2, run_rank, path)
    wanted = read_json(whole / "manifest.json")["weights_sha256"]
    RunDir(again).manifest.unlink()
    RunDir(again).checkpoint_files()[0].unlink()  # the remaining checkpoint is of step 39
    in_ranks(2, run_rank, again)
    assert read_json(again / "manifest.json")["weights_sha256"] == wanted
