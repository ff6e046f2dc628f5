"""One file from the network, complete and checked."""

import sys
from pathlib import Path

from resnet_repro.errors import UserError, first_words


def fetch(url: str, path: Path, *, digest: str) -> None:
    """Download `url` to `path`, which appears with the right checksum ("md5:...") or not at all.

    Raises:
        UserError: no connection, no such file, a wrong checksum, no place to write.
    """
    import pooch  # slow

    try:
        pooch.retrieve(url, digest, fname=path.name, path=path.parent, progressbar=sys.stderr.isatty())
        path.chmod(0o644)  # pooch makes it readable to nobody else
    except (OSError, ValueError) as error:  # connection or disk; checksum
        reason = first_words(error, at_most=200)
        raise UserError(f"could not download {url} ({reason}): fetch it by hand and put it at {path}") from error
