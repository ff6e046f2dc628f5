"""W&B's own process: its library waits for that without a limit, and it does not always answer, or end."""

import threading
from contextlib import suppress

import psutil

GRACE_S = 20.0
"""What it has to end by itself."""


def end_wandb_soon(after: float = GRACE_S) -> threading.Timer:
    """Kill W&B's own process if it is still there so many seconds from now; for who has no more to log.

    What waits for it then goes on, with an error. The timer that is returned can be cancelled.
    """

    def kill() -> None:
        for child in psutil.Process().children():
            with suppress(psutil.NoSuchProcess):
                if child.name() == "wandb-core":
                    child.kill()

    timer = threading.Timer(after, kill)
    timer.daemon = True  # it is not waited for, and still there while the library waits
    timer.start()
    return timer
