"""The login to Weights & Biases on this machine, found without importing wandb."""

import configparser
import netrc
import os
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse

import psutil

HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""The names of W&B's own server: since wandb 0.31, and before. W&B finds keys under both."""


def is_logged_in() -> bool:
    """Return whether W&B would find a key in its variable or in the file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        known = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):  # the file is missing, or W&B could not read it either
        return False
    return any(known.authenticators(host) for host in _hosts())


def _hosts() -> tuple[str, ...]:
    """Return the names, with ports, of the server that W&B would use by its variable or by `wandb login --host`."""
    settings = configparser.ConfigParser(interpolation=None)
    folder = Path(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")).expanduser()
    try:
        settings.read(folder / "settings")
    except (OSError, configparser.Error):  # W&B treats an unreadable file as empty
        settings.clear()
    url = os.environ.get("WANDB_BASE_URL") or settings.get("default", "base_url", fallback=f"https://{HOSTS[0]}")
    host = urlparse(str(url)).netloc
    return HOSTS if host in HOSTS else (host,)


def wandb_mode(asked: str) -> str:
    """Return `online` or `offline`: as asked, else as W&B's variable says, else by whether somebody is logged in."""
    if asked != "auto":
        return asked
    return os.environ.get("WANDB_MODE") or ("online" if is_logged_in() else "offline")


def in_wandb_sweep() -> bool:
    """Return whether `wandb agent` has started this process, for one run of a sweep of W&B's."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


GRACE_S = 20.0
"""Seconds that W&B's own process has to end by itself."""


def kill_wandb_after(seconds: float = GRACE_S) -> threading.Timer:
    """Kill W&B's own process if it still runs after this time. Call this when nothing is left to log.

    A thread that waits for that process then gets an error and goes on.

    Returns:
        The timer, which can be cancelled.
    """

    def kill() -> None:
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                if child.name() == "wandb-core":
                    child.kill()

    timer = threading.Timer(seconds, kill)
    timer.daemon = True  # the interpreter does not wait for the timer at its end, but the timer runs while W&B waits
    timer.start()
    return timer
