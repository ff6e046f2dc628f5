"""The folder that one run owns, and the files in it. Imports no torch: the launching process reads it too."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


class InUse(Exception):
    """Another process is writing this run."""


class RunDir:
    """Paths and small files of a run.

    `job.json` is what was asked, `begun.json` with which code and data, `slurm.json` as which SLURM job, `status.json`
    how far it is, `failure.txt` why it failed, `train.log` what its processes printed, `metrics.csv` and `timing.csv`
    its curves, `checkpoints/` its newest states, `responses.csv` and `gradients.csv` how strong each layer's are,
    `wandb.json` which rows W&B has, and `manifest.json`, written last, its result; `evaluations.json` what
    `evaluate.py` has found of it since.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job, self.status, self.manifest = path / "job.json", path / "status.json", path / "manifest.json"
        self.begun = path / "begun.json"
        self.metrics, self.timing, self.log = path / "metrics.csv", path / "timing.csv", path / "train.log"
        self.responses, self.gradients = path / "responses.csv", path / "gradients.csv"
        self.checkpoints, self.failure = path / "checkpoints", path / "failure.txt"
        self.slurm, self.wandb = path / "slurm.json", path / "wandb.json"
        self.evaluations = path / "evaluations.json"

    @property
    def is_done(self) -> bool:
        return self.manifest.exists()

    def read_status(self) -> dict[str, Any]:
        """The last status written, empty where there is none yet."""
        return read_json(self.status) if self.status.exists() else {}

    def read_evaluations(self) -> list[dict[str, Any]]:
        """What `evaluate.py` has found, oldest first, empty where there is nothing yet."""
        return list(read_json(self.evaluations)["evaluations"]) if self.evaluations.exists() else []

    def checkpoint_files(self) -> list[Path]:
        """Newest first."""
        return sorted(self.checkpoints.glob("step-*.ckpt"), reverse=True)

    def remove_parts(self) -> None:
        """Remove what a process of this run that was killed had begun to write; only for who owns the run."""
        measured = (self.metrics, self.timing, self.responses, self.gradients)
        names = [file.name for file in (self.begun, self.status, *measured, self.wandb, self.manifest)]
        parts = [part for name in names for part in self.path.glob(f"{name}.*.part")]
        for part in [*parts, *self.checkpoints.glob("*.part")]:
            part.unlink(missing_ok=True)

    @contextmanager
    def owned(self, *, patience_s: float = 0.0) -> Iterator[None]:
        """Hold the folder while a run writes it; the system lets go of it when the process ends, however it ends.

        Raises:
            InUse: where another process holds it, after `patience_s`.
        """
        give_up = time.monotonic() + patience_s
        with (self.path / ".lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= give_up:
                        raise InUse(f"{self.path} is in use by another process") from None
                    time.sleep(0.1)
            yield


def write_json(path: Path, content: dict[str, Any], *, durable: bool = True) -> None:
    """Replace a file in one step, so that no reader and no crash ever sees half of it.

    `durable` waits until it is on the disk, milliseconds: for what must not be lost when the machine fails.
    """
    with replacing(path, durable=durable) as file:
        json.dump(content, file, indent=1)
        file.write("\n")


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[IO[str]]:
    """A text file that takes the place of `path` when it is complete."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk's error does not name the file
        raise
    finally:
        part.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have what was written to a file on the disk, where it is there."""
    if path.exists():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))
