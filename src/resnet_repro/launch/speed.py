"""How fast this machine trains: measured for a few seconds in a process of its own, and remembered."""

import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from resnet_repro import machine
from resnet_repro.data.options import InMemory
from resnet_repro.errors import first_words
from resnet_repro.launch.placement import on_gpu
from resnet_repro.networks.depths import UNITS
from resnet_repro.networks.options import Network, Residual
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Loggers, Run
from resnet_repro.runs.resume import CODE

SWITCH = "RESNET_REPRO_MEASURE"
"""The environment variable that, set to 0, leaves the measurement out."""

MOST_S = 300
"""Give a measurement up after this many seconds."""

NUM_STEPS = {"cpu": 5, "gpu": 60}
"""Steps of a measurement; the first is left out."""

NUM_UNITS = {"cpu": (2,), "gpu": (1, 2)}
"""Units in each stage of the networks that are measured in place of a network for CIFAR."""

NUM_ROUNDS = 2
"""Rounds in which the measured runs take turns. The fastest row counts: what else runs here only slows a row down."""

MOST_MULTIPLY_ADDS = {"cpu": 18e9, "gpu": 3e12}
"""Multiply-adds of the forward pass of a measured step, at most, so that a step takes a second on one slow core."""

SLOWER = {"checkpoint_minutes": 1e9, "checkpoint_steps": None, "compile": False, "devices": 1, "num_nodes": 1}
"""Options of hardware without which the measurement would take longer."""


def multiply_adds(run: Run) -> int:
    """Return the multiply-adds of one image's forward pass."""
    known = run.network.known_multiply_adds(run.images)
    if known is not None:
        return known
    from resnet_repro.networks.parts import count_multiply_adds  # imports torch

    return count_multiply_adds(run.network, run.images)


class Line(NamedTuple):
    """The seconds of a step as a line through two measurements."""

    base: float
    """Seconds of a step whatever the number of multiply-adds."""
    slope: float
    """Seconds per multiply-add of the forward pass."""

    def at(self, num: float) -> float:
        """Return the seconds of a step with this many multiply-adds in its forward pass."""
        return self.base + self.slope * num


def line(points: list[tuple[float, float]]) -> Line:
    """Return the line through (multiply-adds, seconds) of one or two measurements, through the origin if it falls."""
    (x, seconds), *others = sorted(points, reverse=True)
    if others:
        ((x_below, seconds_below),) = others
        slope = (seconds - seconds_below) / (x - x_below)
        base = seconds - slope * x
        if slope > 0 and base >= 0:
            return Line(base, slope)
    return Line(0.0, seconds / x)


def proxies(run: Run) -> list[Run]:
    """Return one or two short runs on noise whose steps tell how long a step of `run` takes.

    A network for CIFAR is measured at a small depth, because all of its units have the same number of multiply-adds;
    on a GPU at two depths, because there the kernels outside of units count, too. Another network is measured as it is,
    on a CPU on few images. Variants of a unit (its mix, its shortcut) differ too little to be measured each.
    """
    network, device = run.network, "gpu" if run.hardware.accelerator != "cpu" and machine.gpus() else "cpu"
    share = max(1, run.schedule.batch_size // run.hardware.world_size)
    networks: list[Network] = [network]
    if isinstance(network, Residual):
        network = network.but(mix="add", shortcut="B" if network.unit == "bottleneck" else "A")
        networks = [network]
        if network.family == "cifar":
            per_n = 3 * len(UNITS[network.unit])
            depths = sorted({min(network.depth, per_n * n + 2) for n in NUM_UNITS[device]})
            networks = [network.but(depth=depth) for depth in depths]
    most = int(MOST_MULTIPLY_ADDS[device] / multiply_adds(run.but(network=networks[-1])))
    return [_proxy(run, each, max(1, min(share, most)), device) for each in networks]


def _proxy(run: Run, network: Network, batch_size: int, device: str) -> Run:
    noise = InMemory(
        name="noise",
        num_train=batch_size,
        num_classes=run.data.num_classes,
        image=run.data.image,
        flip=run.data.flip,
        normalise="channel",
        val_size=0,
        pad=run.data.pad if isinstance(run.data, InMemory) else 0,
        loader="device",
        num_workers=0,
    )
    steps = NUM_STEPS[device]
    lengths = {"steps": steps, "protocol_steps": steps, "eval_every": steps, "batch_size": batch_size}
    schedule = run.schedule.but(**lengths, shape="steps", warmup=None, plateau=None)
    hardware = run.hardware.but(**SLOWER)
    return run.but(
        network=network, data=noise, schedule=schedule, hardware=hardware, logger=Loggers(csv=True), init_from=None
    )


class Speeds:
    """What was measured on this machine with this training code and torch, kept in the user's cache folder."""

    def __init__(self) -> None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.path = folder / "resnet_repro" / "speeds.json"
        self.lines: dict[str, list[float]] = {}
        with suppress(OSError, ValueError):  # damaged or not there: measured again
            self.lines = read_json(self.path)

    def seconds(self, run: Run) -> float | None:
        """Return the seconds of a step of a run; None if nothing like it was measured."""
        known = self.lines.get(key(proxies(run)))
        if known is None:
            return None
        share = run.schedule.batch_size / run.hardware.world_size
        return Line(*known).at(share * multiply_adds(run))

    def measure(self, jobs: Iterable[Job]) -> str:
        """Measure what the jobs need and is not known, and say so. Return why that fails, else an empty text."""
        missing = {key(short): short for short in (proxies(job.run) for job in jobs)}
        missing = {name: short for name, short in missing.items() if name not in self.lines}
        if not missing:
            return ""
        if os.environ.get(SWITCH) == "0":
            return f"{SWITCH}=0"
        print("Measuring this machine's speed for a few seconds, once ...", file=sys.stderr, flush=True)
        seconds = measured([run for short in missing.values() for run in short])
        if isinstance(seconds, str):
            return seconds
        of_each = iter(seconds)
        for name, short in missing.items():
            sizes = [run.schedule.batch_size * multiply_adds(run) for run in short]
            self.lines[name] = list(line([(x, next(of_each)) for x in sizes]))
        with suppress(OSError):  # the next plan measures again
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, self.lines, durable=False)
        return ""


def key(short: list[Run]) -> str:
    """Return the key of a measurement: what is measured, on which machine, with which training code and torch."""
    what = [[run.network.words, run.data.image, run.schedule.batch_size] for run in short]
    hardware = {name: value for name, value in short[0].hardware.record().items() if name not in SLOWER}
    groups = short[0].schedule.ghost_batch_size
    return json.dumps([machine.describe(), CODE, hardware, groups, what])


def measured(runs: list[Run]) -> list[float] | str:
    """Return the seconds of a step of each run, as runs of a sweep take them; if that fails, the reason."""
    from resnet_repro.launch.local import start_method  # not above, because that imports this

    jobs = [Job(run, "speed", Path(), {}) for run in runs]
    receiver, sender = (context := start_method(jobs)).Pipe(duplex=False)
    process = context.Process(target=_measure, args=(runs, sender), daemon=True)
    process.start()
    sender.close()
    try:
        answer: list[float] | str = receiver.recv() if receiver.poll(MOST_S) else f"it took more than {MOST_S} s"
    except EOFError:
        process.join()
        answer = f"its process ended with status {process.exitcode}"
    finally:
        process.kill()
        process.join()
    return answer


def _measure(runs: list[Run], answer: Connection) -> None:
    """Train each run in this process, and send the seconds of a step of each, or why that fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        rounds = [[_seconds(run) for run in runs] for _ in range(NUM_ROUNDS)]
        answer.send([min(each) for each in zip(*rounds, strict=True)])
    except BaseException as error:
        answer.send(first_words(error))


def _seconds(run: Run) -> float:
    from resnet_repro.training.run import run as train  # torch

    with tempfile.TemporaryDirectory(prefix="resnet_repro-") as folder:
        train(Path(folder), Job(run, "speed", Path(folder), {}))
        with RunDir(Path(folder)).timing.open() as file:
            rates = [float(row["time/images_per_s"]) for row in csv.DictReader(file)]
    return run.schedule.batch_size / max(rates)


def is_measurable(job: Job) -> bool:
    """Return whether this machine has the kind of device that a job trains on."""
    return not on_gpu(job) or bool(machine.gpus())
