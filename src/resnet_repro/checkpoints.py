"""Checkpoint files: each one whole and readable before it gets its name, and the newest that can be read again."""

import errno
import io
import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from resnet_repro.rundir import RunDir


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint under another name beside its place, and puts it there when it is complete and on the disk.

    (Lightning's own way through the system's folder for temporary files leaves a copy there when it is killed, and is
    no single step where that folder is on another disk.)

    Raises:
        OSError: where the file could not be written, or not be read again; no file has changed then.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        part = path.with_suffix(".part")
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            with part.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            try:
                read(part)
            except Exception as error:  # see `newest_checkpoint`
                raise OSError(errno.EIO, "written, and cannot be read again: is the disk sound?", str(path)) from error
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file; tensors stay in the file until they are used."""
    return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def newest_checkpoint(run: RunDir) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, and its config; a damaged one is named and the one before it taken."""
    for path in run.checkpoint_files():
        try:
            return path, read(path)["hyper_parameters"]["config"]
        except Exception as error:  # a damaged file can make torch.load raise nearly anything
            print(f"{path} is damaged and not used: {error!r}", flush=True)
    return None
