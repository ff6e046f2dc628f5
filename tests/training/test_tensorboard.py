"""TensorBoard gets every row of a run once, also if the run was stopped; read back by TensorBoard itself."""

import csv
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resnet_repro.errors import Stopped, UserError
from resnet_repro.launch.checks import check_services
from resnet_repro.runs.folder import RunDir
from resnet_repro.training.run import run as train
from tests.helpers.runs import interrupt_at, job_in, prepared


def rows(*paths: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of each column of a run's files."""
    columns: dict[str, list[tuple[int, float]]] = {}
    for path in paths:
        with path.open() as file:
            for row in csv.DictReader(file):
                step = int(row.pop("step"))
                for name, value in row.items():
                    if value:
                        columns.setdefault(name, []).append((step, float(value)))
    return columns


def test_tensorboard_has_every_row_of_a_resumed_run_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = RunDir(prepared(tmp_path / "outputs", "logger=tensorboard"))
    with monkeypatch.context() as patch:
        interrupt_at(10, patch)
        with pytest.raises(Stopped):
            train(folder.path)
    train(folder.path)
    events = EventAccumulator(str(folder.path))
    events.Reload()
    columns = rows(folder.metrics, folder.timing)
    assert {"train/error", "test/loss", "lr", "time/images_per_s"} <= columns.keys()
    assert sorted(events.Tags()["scalars"]) == sorted(columns)
    for name, expected in columns.items():
        logged = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in logged] == [step for step, _ in expected]
        assert [value for _, value in logged] == pytest.approx([value for _, value in expected])  # float32 there


def test_tensorboard_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job = job_in(prepared(tmp_path / "outputs", "logger=[tensorboard,csv]"))
    check_services([job])
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(
        UserError, match=r"^logger=tensorboard needs TensorBoard: pip install 'resnet_repro\[tensorboard\]'$"
    ):
        check_services([job])
