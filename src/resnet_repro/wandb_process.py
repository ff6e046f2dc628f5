"""W&B's own process: its library waits for that without a limit when Python ends, and it does not always end."""

import threading
from contextlib import suppress

import psutil

GRACE_S = 20.0


def end_wandb_soon(after: float = GRACE_S) -> None:
    """Kill W&B's own process if it is still there so many seconds from now; for who is about to end."""

    def kill() -> None:
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                if child.name() == "wandb-core":
                    child.kill()

    timer = threading.Timer(after, kill)
    timer.daemon = True  # it is not waited for, and still there while the library waits
    timer.start()
