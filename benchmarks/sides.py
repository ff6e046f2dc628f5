"""Training commands that take turns on one machine: each is suspended while another one computes.

A command starts once, and its speed is what its `timing.csv` says of the steps of its turns. So a turn costs no start,
sides can take many turns, and what starts and compiles slowly does not shorten what is measured.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import NamedTuple

import psutil

ROOT = Path(__file__).parents[1]
NUM_WARM_UPS = 3
"""Steps of a side that count in no turn; compiling is one of them."""
NUM_STEPS = 2
"""The fewest steps of a turn that count. The step that a turn begins with was begun in another, and is not counted."""


class Failure(Exception):
    """Why a side has no figure, in one line."""


class Side:
    """A command that trains in a folder, with all its processes.

    Args:
        num_runs: how many runs the command trains at the same time; the side's speed is their sum.
        saves: whether the command saves a checkpoint when it is stopped.
    """

    def __init__(
        self, command: list[str], folder: Path, env: Mapping[str, str], *, num_runs: int = 1, saves: bool = False
    ) -> None:
        folder.mkdir()
        self.folder, self.num_runs, self.saves = folder, num_runs, saves
        self._seen: set[psutil.Process] = set()
        with (folder / "printed").open("w") as printed:
            self.process = psutil.Popen(
                command, env=os.environ | env, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
            )

    def __enter__(self) -> "Side":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End the command: as Ctrl-C does if it then saves a checkpoint, else at once."""
        processes = self._processes()
        if self.saves and kind is None:
            self.resume()
            with suppress(psutil.NoSuchProcess):
                self.process.send_signal(signal.SIGINT)
            _, processes = psutil.wait_procs(processes, timeout=20)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes)

    def rates(self) -> list[list[float]]:
        """Return images/s of every step so far of each run that has begun."""
        lines = [path.read_text().splitlines(keepends=True)[1:] for path in self.folder.rglob("timing.csv")]
        return [[float(line.split(",")[1]) for line in each if line.endswith("\n")] for each in lines]

    def is_warm(self) -> bool:
        """Return whether every run has taken its first steps. Raise Failure if the command has ended."""
        if self.process.poll() is not None:
            lines = (self.folder / "printed").read_text().split("\n")
            raise Failure(f"ended: {next((line.strip() for line in reversed(lines) if line.strip()), 'no output')}")
        rates = self.rates()
        return len(rates) == self.num_runs and min(map(len, rates)) >= NUM_WARM_UPS

    def turn(self, seconds: float) -> float:
        """Return images/s of the middle step in a turn of some seconds, or of as many as NUM_STEPS take."""
        before, end = [len(rates) for rates in self.rates()], time.monotonic() + seconds
        self.resume()
        counted: list[list[float]] = [[]]
        while time.monotonic() < end or min(map(len, counted)) < NUM_STEPS:
            time.sleep(0.1)
            self.is_warm()
            counted = [rates[num + 1 :] for num, rates in zip(before, self.rates(), strict=True)]
        self.suspend()
        return sum(map(median, counted))

    def suspend(self) -> None:
        for _ in range(2):  # again for what a process started while the others were being stopped
            for process in self._processes():
                with suppress(psutil.NoSuchProcess):
                    process.suspend()

    def resume(self) -> None:
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def _processes(self) -> list[psutil.Process]:
        """Return all that live of the command and of what it has started, also where the command itself has ended."""
        with suppress(psutil.NoSuchProcess):
            self._seen |= {self.process, *self.process.children(recursive=True)}
        return [process for process in self._seen if process.is_running()]


Start = Callable[[Path], Side]
"""Start a side in a folder that does not exist yet."""


def ours(*options: str, env: Mapping[str, str] | None = None, num_runs: int = 1) -> Start:
    """Return how to start `python train.py` with the recipe's number of steps, which `auto` decides by."""
    command = [sys.executable, str(ROOT / "train.py"), *options, "logger=csv", "schedule.log_every=1"]
    return lambda folder: Side([*command, f"outputs={folder}"], folder, env or {}, num_runs=num_runs, saves=True)


def usual(*arguments: str, env: Mapping[str, str] | None = None) -> Start:
    """Return how to start the usual loop, see usual_loop.py."""
    script = str(ROOT / "benchmarks" / "usual_loop.py")
    return lambda folder: Side([sys.executable, script, str(folder), *arguments], folder, env or {})


class Turns(NamedTuple):
    """What came of sides that took turns."""

    rates: dict[str, list[float]]
    """images/s of every turn, by side."""
    missing: dict[str, str]
    """Why a side has none."""
    saves: list[float]
    """Seconds of the checkpoints that our sides saved."""


def in_turns(starts: Mapping[str, Start], *, seconds: float, turn: float) -> Turns:
    """Start all sides, then let them take turns until the seconds are over, but at least one each.

    A side that is not ready after 8 tenths of the seconds, or 90 seconds, is left out.

    Args:
        turn: seconds of a side's turn.
    """
    begin = time.monotonic()
    rates: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        with ExitStack() as stack:
            folders = {name: Path(place) / str(number) for number, name in enumerate(starts)}
            sides = {name: stack.enter_context(start(folders[name])) for name, start in starts.items()}
            cold, patience = list(sides), max(0.8 * seconds, 90)
            while cold and time.monotonic() < begin + patience:
                time.sleep(0.1)
                for name in cold[:]:
                    if _attempt(sides[name].is_warm, name, missing):
                        sides[name].suspend()
                    elif name not in missing:
                        continue
                    cold.remove(name)
            for name in cold:
                sides[name].suspend()
                missing[name] = f"not ready in {patience:.0f} s"
            ends = [time.monotonic()]
            while len(ends) == 1 or ends[-1] + max(b - a for a, b in pairwise(ends)) < begin + seconds:
                for name in [name for name in sides if name not in missing]:
                    rate = _attempt(partial(sides[name].turn, turn), name, missing)
                    rates.setdefault(name, []).extend([rate] if rate else [])
                    print(f"  {name}: {rate or missing[name]}", file=sys.stderr)
                ends.append(time.monotonic())
        logs = "".join(path.read_text() for path in Path(place).rglob("train.log"))
    saves = [float(line.split()[-2]) for line in logs.splitlines() if "checkpoint saved in" in line]
    return Turns({name: rates[name] for name in starts if rates.get(name)}, missing, saves)


def _attempt(act: Callable[[], float], name: str, missing: dict[str, str]) -> float | None:
    try:
        return act()
    except Failure as failure:
        missing[name] = str(failure)
        return None
