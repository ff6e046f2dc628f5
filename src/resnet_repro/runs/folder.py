"""The folder that one run owns, and the files in it. Imports no torch: the launching process reads it too."""

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import psutil

NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""How a file system says that it cannot lock a file."""


class InUse(Exception):
    """Another process is writing this run."""

    def __init__(self, path: Path, who: str) -> None:
        super().__init__(f"{path} is in use by {who}")
        self.who = who


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
    def owned(self, *, patience_s: float = 0.0) -> Iterator[str]:
        """Hold the folder while a run writes it; the system lets go of it when the process ends, however it ends.

        Where the file system has no locks, a file says who holds it. Yields a line on that, else an empty one.

        Raises:
            InUse: where another process holds it, after `patience_s`.
        """
        give_up = time.monotonic() + patience_s
        held, how = self.path / ".held", ""
        with (self.path / ".lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    who = "another process"
                except OSError as error:
                    error.filename = lock.name
                    if error.errno not in NO_FLOCK:
                        raise
                    how = f"{lock.name} cannot be locked ({error.strerror}): {held.name} says that the folder is in use"
                    if not (who := _hold(held)):
                        break
                if time.monotonic() >= give_up:
                    raise InUse(self.path, who)
                time.sleep(0.1)
            try:
                yield how
            finally:
                if how:
                    held.unlink(missing_ok=True)


def _hold(held: Path) -> str:
    """Make the file that says that this process holds a folder, also in the place of one that is gone.

    Returns:
        Who holds the folder where that is another process, else an empty text.
    """
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "begun": psutil.Process().create_time()}
    while True:
        with suppress(FileExistsError), held.open("x") as file:
            json.dump(mine, file)
            return ""
        try:
            text = held.read_text()
        except FileNotFoundError:
            continue  # it has just ended
        try:
            theirs = json.loads(text)
        except ValueError:
            theirs = {}  # it is being written, or its process was killed in between
        if theirs.get("host") != mine["host"] or _runs(theirs["pid"], theirs["begun"]):
            who = f"process {theirs.get('pid', '(not known)')} on {theirs.get('host', 'another machine')}"
            return f"{who} (where it is gone, remove {held})"
        aside = held.with_name(f".held.{os.getpid()}")
        with suppress(FileNotFoundError):
            held.rename(aside)  # one of those that want it at this moment does, and it may be a newer one by now
            if aside.read_text() != text:
                aside.rename(held)
            aside.unlink(missing_ok=True)


def _runs(pid: int, begun: float) -> bool:
    try:
        return abs(psutil.Process(pid).create_time() - begun) < 5
    except psutil.NoSuchProcess:
        return False


def write_failure(path: Path, reason: str) -> None:
    """Raises FileExistsError where another rank of the run was first."""
    with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
        file.write(reason)


def read_failure(path: Path) -> str:
    return path.read_text(encoding="utf-8")


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
        with part.open("w", encoding="utf-8") as file:
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
    return dict(json.loads(path.read_text(encoding="utf-8")))
