"""Whether somebody is logged in to Weights & Biases here; asked without importing it."""

import netrc
import os
from pathlib import Path
from urllib.parse import urlparse


def is_logged_in() -> bool:
    """Whether W&B would find a key, in its variable or in the file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):  # no such file, or one that W&B could not read either
        return False


def wandb_mode(asked: str) -> str:
    """online or offline: as the config asks, else as W&B's own variable says, else whether somebody is logged in."""
    if asked != "auto":
        return asked
    return os.environ.get("WANDB_MODE") or ("online" if is_logged_in() else "offline")
