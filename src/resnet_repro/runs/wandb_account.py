"""Whether somebody is logged in to Weights & Biases here; asked without importing it."""

import configparser
import netrc
import os
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

import psutil

HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""W&B's own server: its name since wandb 0.31, and the one from before, by which W&B still finds a key."""


def is_logged_in() -> bool:
    """Whether W&B would find a key, in its variable or in the file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        known = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):  # no such file, or one that W&B could not read either
        return False
    return any(known.authenticators(host) for host in _hosts())


def _hosts() -> tuple[str, ...]:
    """Names of the server that W&B would use, with the port: as its variable says, else as `wandb login --host` did."""
    settings = configparser.ConfigParser(interpolation=None)
    folder = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    try:
        settings.read(folder / "settings")
    except (OSError, configparser.Error):  # W&B treats what it cannot read as empty
        settings.clear()
    url = os.environ.get("WANDB_BASE_URL") or settings.get("default", "base_url", fallback=f"https://{HOSTS[0]}")
    host = urlparse(str(url)).netloc
    return HOSTS if host in HOSTS else (host,)


def wandb_mode(asked: str) -> str:
    """online or offline: as the config asks, else as W&B's own variable says, else whether somebody is logged in."""
    if asked != "auto":
        return asked
    return os.environ.get("WANDB_MODE") or ("online" if is_logged_in() else "offline")


GRACE_S = 20.0
"""What W&B's own process has to end by itself."""


def kill_wandb_after(seconds: float = GRACE_S) -> threading.Timer:
    """Kill W&B's own process if it still runs so many seconds from now. Call this when nothing is left to log.

    Whoever waits for that process then goes on, with an error.

    Returns:
        The timer, which can be cancelled.
    """

    def kill() -> None:
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                if child.name() == "wandb-core":
                    child.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True  # nobody waits for it, and it still runs while the library waits
    timer.start()
    return timer
