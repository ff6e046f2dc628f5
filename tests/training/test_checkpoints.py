"""Checkpoints: when they are saved, and that a run killed while saving loses nothing and gives the same bytes."""

import csv
import io
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from resnet_repro.launch.exit_status import DONE
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.training.checkpoints import Checkpoint
from resnet_repro.training.run import run as train
from tests.helpers.runs import prepared

EVERY_4 = ("hardware.checkpoint_steps=4", "hardware.checkpoint_minutes=1000")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], bytes]:
    """Return the manifest and metrics.csv of an uninterrupted run."""
    path = prepared(tmp_path_factory.mktemp("undisturbed"))
    return train(path), RunDir(path).metrics.read_bytes()


def names(folder: RunDir) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


JOB = """
import io, os, signal, sys
from pathlib import Path
from resnet_repro.training.checkpoints import Checkpoint
from resnet_repro.launch.worker import work

def die():
    os.kill(os.getpid(), signal.SIGKILL)

{}
work(Path(sys.argv[1]))
"""

BEFORE_SAVING = """
save = Checkpoint.save
Checkpoint.save = lambda self, trainer: die() if trainer.global_step == 12 else save(self, trainer)
"""

WHILE_WRITING = """
class Half(io.FileIO):
    def write(self, content):
        super().write(content[: len(content) // 2])
        die()

usual = Path.open
Path.open = lambda self, *a, **k: Half(self, "w") if self.name == "step-00000012.part" else usual(self, *a, **k)
"""

BEFORE_RENAMING = """
replace = Path.replace
Path.replace = lambda self, to: die() if self.name == "step-00000012.part" else replace(self, to)
"""

BEFORE_REMOVING_THE_OLD = """
unlink = Path.unlink
Path.unlink = lambda self, **k: die() if self.name == "step-00000004.ckpt" else unlink(self, **k)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "third_file", "newest"),
    [
        (BEFORE_SAVING, [], 8),
        (WHILE_WRITING, ["step-00000012.part"], 8),
        (BEFORE_RENAMING, ["step-00000012.part"], 8),
        (BEFORE_REMOVING_THE_OLD, ["step-00000012.ckpt"], 12),
    ],
    ids=["before saving", "while writing", "before renaming", "before removing the old"],
)
def test_a_run_killed_while_saving_resumes_to_the_same_bytes(
    moment: str, third_file: list[str], newest: int, undisturbed: tuple[dict[str, Any], bytes], tmp_path: Path
) -> None:
    manifest, metrics = undisturbed
    path = prepared(tmp_path, *EVERY_4)
    folder = RunDir(path)
    job = subprocess.run([sys.executable, "-c", JOB.format(moment), str(path)], check=False)
    assert job.returncode == -signal.SIGKILL
    assert names(folder) == ["step-00000004.ckpt", "step-00000008.ckpt", *third_file]
    for file in folder.checkpoint_files():
        assert torch.load(file, weights_only=True)["global_step"] == int(file.stem.split("-")[1])
    if moment == WHILE_WRITING:
        part = folder.checkpoints / "step-00000012.part"
        assert 0 < part.stat().st_size < folder.checkpoint_files()[0].stat().st_size * 0.6
    assert list(csv.DictReader(folder.metrics.open()))[-1]["step"] == "12"  # measured, and to be measured again

    (path / "status.json.1234.part").touch()  # as if killed while writing the status
    again = subprocess.run([sys.executable, "-c", JOB.format(""), str(path)], check=False)
    assert again.returncode == DONE
    assert f"step {newest} of 24" in folder.log.read_text()
    assert folder.metrics.read_bytes() == metrics
    assert read_json(folder.manifest)["weights_sha256"] == manifest["weights_sha256"]
    assert not list(path.rglob("*.part"))
    assert names(folder) == ["step-00000020.ckpt", "step-00000024.ckpt"]


def test_an_unreadable_checkpoint_replaces_no_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(io.FileIO):  # a disk that loses half of each write
        def write(self, content: Any) -> int:
            return super().write(content[: len(content) // 2])

    usual = Path.open

    def open_half(path: Path, *args: Any, **kwargs: Any) -> Any:
        return Half(path, "w") if path.name == "step-00000012.part" else usual(path, *args, **kwargs)

    path = prepared(tmp_path, *EVERY_4)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", open_half)
        with pytest.raises(OSError, match="written, and cannot be read again: is the disk sound"):
            train(path)
    assert names(RunDir(path)) == ["step-00000004.ckpt", "step-00000008.ckpt"]
    assert train(path)["results"]["step"] == 24


def test_a_resumed_run_drops_half_a_row(undisturbed: tuple[dict[str, Any], bytes], tmp_path: Path) -> None:
    path = prepared(tmp_path)
    folder = RunDir(path)
    train(path)
    folder.manifest.unlink()
    with folder.metrics.open("ab") as file:
        file.write(b"2")  # the beginning of 25, or a step before
    train(path)
    assert folder.metrics.read_bytes() == undisturbed[1]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["hardware.checkpoint_steps=5"], [5, 10, 15, 20, 24]),
        (["hardware.checkpoint_minutes=0"], list(range(1, 25))),
        ([], [24]),
    ],
)
def test_checkpoints_are_saved_every_so_many_steps_or_minutes(
    options: list[str], steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_steps: list[int] = []
    save = Checkpoint.save

    def note_and_save(self: Checkpoint, trainer: Any) -> None:
        saved_steps.append(trainer.global_step)
        save(self, trainer)

    monkeypatch.setattr(Checkpoint, "save", note_and_save)
    train(prepared(tmp_path, *options))
    assert saved_steps == steps
