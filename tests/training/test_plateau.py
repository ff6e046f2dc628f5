"""A rate that drops when the validation error plateaus, as v1 trained on ImageNet."""

import csv
from pathlib import Path

import pytest

from resnet_repro.errors import Stopped, UserError
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.job import resolve
from resnet_repro.training.run import run
from resnet_repro.training.schedule import Plateau
from tests.helpers.commands import manifests
from tests.helpers.commands import run as command
from tests.helpers.runs import composed, interrupt_at, prepared

# an error that does not halve between two evaluations, every 4 of 24 steps, is a plateau
PLATEAU = ("data.val_size=300", "schedule.shape=plateau", "+schedule.plateau={patience: 0, threshold: 0.5}")


def rows(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(RunDir(folder).metrics.open()))


def rates_of(rows: list[dict[str, str]]) -> list[float]:
    """Return the learning rates that follow from the validation errors of a run's rows."""
    plateau, rates = Plateau(), []
    for row in rows:
        rates.append(0.1 * 0.1**plateau.num_drops)
        if row["val/error"]:
            plateau = plateau.after(float(row["val/error"]), patience=0, threshold=0.5)
    return rates


@pytest.mark.slow
def test_the_rate_drops_at_a_plateau_also_in_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = prepared(tmp_path / "undisturbed", *PLATEAU)
    manifest = run(undisturbed)
    curve = rows(undisturbed)
    assert [float(row["lr"]) for row in curve] == pytest.approx(rates_of(curve))
    drops = [int(row["step"]) for row, before in zip(curve[1:], curve, strict=False) if row["lr"] != before["lr"]]
    assert drops
    for step in (drops[0] - 1, drops[-1] + 1):  # at the evaluation that decides the first drop, and after the last drop
        stopped = prepared(tmp_path / str(step), *PLATEAU)
        with monkeypatch.context() as patch:
            interrupt_at(step, patch)
            with pytest.raises(Stopped):
                run(stopped)
        resumed = run(stopped)
        assert RunDir(stopped).metrics.read_bytes() == RunDir(undisturbed).metrics.read_bytes()
        assert resumed["weights_sha256"] == manifest["weights_sha256"]


@pytest.mark.slow
def test_ranks_judge_a_plateau_by_all_images(tmp_path: Path) -> None:
    options = (*PLATEAU, "data=digits", "depth=8", "schedule.steps=24", "logger=csv", "schedule.log_every=3")
    status, output = command("train.py", *options, "hardware=ddp_2cpu", home=tmp_path)
    assert status == 0, output
    ((name, manifest),) = manifests(tmp_path / "outputs").items()
    curve = rows(tmp_path / "outputs" / "digits" / name)
    assert [float(row["lr"]) for row in curve] == pytest.approx(rates_of(curve))
    assert len({row["lr"] for row in curve}) > 1
    assert manifest["results"]["num_val_images"] == 300


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        (PLATEAU[:2], "needs its rule: add '+schedule.plateau={patience: 5, threshold: 0.001}'"),
        (PLATEAU[1:], "is judged by validation images, and none are held out; use data.val_size=5000"),
        ((*PLATEAU[:2], "+schedule.plateau={patience: 5}"), "is not {patience: 5, threshold: 0.001}: evaluations"),
        ((*PLATEAU, "depth=14", "init_from=8"), "init_from=8 trains on at a rate that is known"),
    ],
)
def test_a_plateau_that_cannot_be_judged_is_refused(options: tuple[str, ...], refusal: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(composed("data=digits", *options))
    assert refusal in str(error.value)
    assert "\n" not in str(error.value)
