"""A place for multiprocessing's sockets, whose paths have a limit that a long TMPDIR exceeds."""

import os
import tempfile
from multiprocessing import util
from pathlib import Path

from resnet_repro.errors import UserError

LONGEST = 103
"""Most bytes of a socket's path: macOS takes 103, Linux 107."""

NAME = "/pymp-12345678/listener-12345678"
"""What multiprocessing appends to the temporary folder."""


def make_room() -> None:
    """Have this process, and the processes that it starts, put sockets where their paths are short enough.

    Raises:
        UserError: if there is no such folder.
    """
    if _is_short(tempfile.gettempdir()):
        return
    places = (os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm", str(Path.cwd()))
    usual = tempfile.tempdir
    for place in filter(_is_short, filter(_is_ours, places)):
        tempfile.tempdir = place
        try:
            util.get_temp_dir()  # makes a folder, which this process and its children then keep using
        except OSError:
            continue
        finally:
            tempfile.tempdir = usual
        return
    raise UserError(f"TMPDIR={tempfile.gettempdir()} is too long a path for sockets: set TMPDIR to a shorter path")


def _is_short(folder: str) -> bool:
    return len(os.fsencode(folder + NAME)) <= LONGEST


def _is_ours(folder: str) -> bool:
    return folder != "" and os.access(folder, os.W_OK | os.X_OK)
