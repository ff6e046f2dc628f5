"""The folder that one run owns, and the files in it."""

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

NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""Errors by which a file system says that it cannot lock a file."""


class InUse(Exception):
    """Another process owns this run's folder."""

    def __init__(self, path: Path, who: str) -> None:
        super().__init__(f"{path} is in use by {who}")
        self.who = who


class RunDir:
    """Paths and small files of a run.

    - `job.json`: the options; `begun.json`: the code and data that it began with; `slurm.json`: its SLURM job.
    - `status.json`: the progress; `failure.txt`: why it failed; `train.log`: what its processes printed.
    - `metrics.csv`, `timing.csv`: the curves; `checkpoints/`: the newest states; `wandb.json`: the rows that W&B has.
    - `responses.csv`, `gradients.csv`: the strengths of each layer's responses and gradients.
    - `manifest.json`: the result, written last; `evaluations.json`: the tests by `evaluate.py` since then.
    - `model.safetensors`: the weights of the last step, of a run in results/, which has no checkpoints.
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
        self.weights = path / "model.safetensors"

    @property
    def is_done(self) -> bool:
        return self.manifest.exists()

    def read_status(self) -> dict[str, Any]:
        """Return the last status, empty if there is none yet."""
        return read_json(self.status) if self.status.exists() else {}

    def read_evaluations(self) -> list[dict[str, Any]]:
        """Return the entries of `evaluate.py`, oldest first, empty if there are none yet."""
        return list(read_json(self.evaluations)["evaluations"]) if self.evaluations.exists() else []

    def checkpoint_files(self) -> list[Path]:
        """Return the checkpoints, newest first."""
        return sorted(self.checkpoints.glob("step-*.ckpt"), reverse=True)

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to test: a checkpoint, or the file that `keep` writes."""
        return bool(self.checkpoint_files()) or self.weights.exists()

    def remove_parts(self) -> None:
        """Remove the incomplete files of a killed process of this run. Only the owner of the folder may do so."""
        tables = (self.metrics, self.timing, self.responses, self.gradients)
        files = (self.begun, self.status, *tables, self.wandb, self.manifest)
        parts = [part for file in files for part in self.path.glob(f"{file.name}.*.part")]
        for part in [*parts, *self.checkpoints.glob("*.part")]:
            part.unlink(missing_ok=True)

    @contextmanager
    def owned(self, *, patience_s: float = 0.0) -> Iterator[str]:
        """Hold the folder while a run writes it. The system releases the lock when the process ends, however it ends.

        If the file system has no locks, a file says who holds the folder. Yield a note about that, else an empty text.

        Raises:
            InUse: if another process still holds the folder after `patience_s`.
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
    """Write the file that says that this process holds a folder, unless another process that still runs has one there.

    Returns:
        The other process that holds the folder, or an empty text.
    """
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "begun": _begun(os.getpid())}
    while True:
        with suppress(FileExistsError), held.open("x") as file:
            json.dump(mine, file)
            return ""
        try:
            text = held.read_text()
        except FileNotFoundError:
            continue  # the other process has just ended
        try:
            theirs = json.loads(text)
        except ValueError:
            theirs = {}  # the other process is just writing the file, or was killed while writing
        if theirs.get("host") != mine["host"] or _runs(theirs["pid"], theirs["begun"]):
            who = f"process {theirs.get('pid', '(not known)')} on {theirs.get('host', 'another machine')}"
            return f"{who} (where it is gone, remove {held})"
        aside = held.with_name(f".held.{os.getpid()}")
        with suppress(FileNotFoundError):
            held.rename(aside)  # of several processes that try this, one succeeds
            if aside.read_text() != text:  # by now the file is that of a newer owner
                aside.rename(held)
            aside.unlink(missing_ok=True)


def _runs(pid: int, begun: float) -> bool:
    now = _begun(pid)
    return now is not None and abs(now - begun) < 5


def _begun(pid: int) -> float | None:
    """Return when a process of this machine began, in seconds since 1970; None if there is no such process."""
    import psutil  # not above: a refusal would wait 20 ms for what only file systems without locks need

    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None


def write_failure(path: Path, reason: str) -> None:
    """Write the reason of a failure. Raise FileExistsError if another rank of the run was first."""
    with path.open("x", encoding="utf-8", errors="backslashreplace") as file:
        file.write(reason)


def read_failure(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def write_json(path: Path, content: dict[str, Any], *, durable: bool = True) -> None:
    """Replace a file in one step, so that neither readers nor crashes leave half of it.

    `durable` waits some milliseconds until the file is on the disk, so that it survives a failure of the machine.
    """
    with replacing(path, durable=durable) as file:
        json.dump(content, file, indent=1)
        file.write("\n")


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[IO[str]]:
    """Yield a text file that replaces `path` once it is complete."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # the error of a full disk does not name the file
        raise
    finally:
        part.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the content of a file on the disk, if the file exists."""
    if path.exists():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
