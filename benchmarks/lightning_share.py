"""Lightning's share of a training step: `python train.py` beside a bare loop that does the same work, on this machine.

    python benchmarks/lightning_share.py [digits | FOLDER OF CIFAR-10] [--nets resnet_v2-8 resnet_v2-20] [--steps 2000]
        [--rounds 3]

The bare loop makes the same batches, runs the same network, loss and optimiser at the same rates, and measures, logs
and saves nothing: that it ends with the same weights, bit for bit, is checked. The sides take turns, one thread each;
a side's figure is its median of 100 steps on end, in its fastest round. Lightning's share includes our own callbacks
and loggers; evaluations are in neither.

"Steps at once" is what `hardware.graph=true` does on a GPU, where a step is one recording and a row of numbers' steps
are one of Lightning's. Here its steps are run operation by operation, by the same code.
"""

import argparse
import io
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from short_run import trained
from torch import Tensor, nn

from resnet_repro.data.device_batches import DeviceBatches
from resnet_repro.data.in_memory import InMemoryData
from resnet_repro.data.options import InMemory
from resnet_repro.networks.build import build
from resnet_repro.networks.fused import fuse
from resnet_repro.runs.job import Job
from resnet_repro.runs.options import Run
from resnet_repro.training.cuda_graph import GraphedSGD, GraphedStep
from resnet_repro.training.hardware import keep_freed_memory
from resnet_repro.training.manifest import machine, weights_sha256
from resnet_repro.training.metrics import LossAndError
from resnet_repro.training.run import run
from resnet_repro.training.schedule import learning_rate

WINDOW = 100
"""Steps of a row of numbers, and what is taken at once."""


def usual_run(options: list[str], _: Run | None) -> dict[str, Any]:
    return trained(*options, "hardware=cpu")


def at_once(asked: Run | None) -> dict[str, Any]:
    """The manifest of a run that takes its steps as `hardware.graph=true` has them taken on a GPU."""
    assert asked is not None
    asked = asked.but(hardware=asked.hardware.but(graph=True))
    with (
        tempfile.TemporaryDirectory() as folder,
        redirect_stdout(io.StringIO()),
        mock.patch(
            "resnet_repro.training.run.settle", lambda hardware: hardware
        ),  # it was settled, and refuses this on a CPU
    ):
        return run(Path(folder), Job(asked, "at_once", Path(folder), {}))


def bare(asked: Run) -> tuple[float, str]:
    """Seconds a step of a run's work without Lightning, and the weights that it ends with."""
    schedule, hardware = asked.schedule, asked.hardware
    assert isinstance(asked.data, InMemory)
    data = InMemoryData(asked.data, asked.batching())
    pl.seed_everything(asked.seed, verbose=False)
    net = build(asked.network, asked.images)
    if hardware.channels_last:
        net.to(memory_format=torch.channels_last)
    if hardware.fused:
        fuse(net)
    batches = DeviceBatches(
        *map(torch.from_numpy, data.train),
        **data.normalisation._asdict(),
        batch_size=schedule.batch_size,
        pad=asked.data.pad,
        flip=asked.data.flip,
        seed=asked.seed,
        num_steps=schedule.steps,
        steps_at_once=1 if hardware.graph else None,
    )
    words = {key: getattr(schedule, key) for key in ("lr", "momentum", "weight_decay", "nesterov")}
    step = (whole_step if hardware.graph else usual_step)(net, batches, words)
    seconds, start = [], time.perf_counter()
    for number, batch in enumerate(batches, start=1):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=hardware.precision == "bf16-mixed"):
            step(batch, learning_rate(number - 1, schedule))
        if number % WINDOW == 0:  # as the run's own images/s
            seconds.append((time.perf_counter() - start) / WINDOW)
            start = time.perf_counter()
    return median(seconds), weights_sha256(net)


def usual_step(net: nn.Module, batches: DeviceBatches, words: dict[str, Any]) -> Callable[[Any, float], None]:
    sgd = torch.optim.SGD(net.parameters(), **words)

    def step(batch: tuple[Tensor, Tensor], lr: float) -> None:
        images, labels = batch
        for group in sgd.param_groups:
            group["lr"] = lr
        loss = F.cross_entropy(net(images), labels)
        sgd.zero_grad()
        with torch.autocast("cpu", enabled=False):
            loss.backward()
        sgd.step()

    return step


def whole_step(net: nn.Module, batches: DeviceBatches, words: dict[str, Any]) -> Callable[[Any, float], None]:
    sgd = GraphedSGD(net.parameters(), **words, fused=True)
    nothing = torch.zeros((4, batches.draw_args["batch_size"]), dtype=torch.int64)
    whole = GraphedStep(net, sgd, batches.batch, nothing, LossAndError())

    def step(choices: Tensor, lr: float) -> None:
        whole.set_inputs(choices[0], lr)
        sgd.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits", metavar="digits | FOLDER")
    parser.add_argument("--nets", nargs="+", default=["resnet_v2-8", "resnet_v2-20"], metavar="ARCH-DEPTH")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    data = ["data=digits"] if asked.data == "digits" else [f"data.root={asked.data}", "data.val_size=500"]
    torch.set_num_threads(1)
    keep_freed_memory()
    name = "Digits" if asked.data == "digits" else "CIFAR-10"
    print(f"{name}, {asked.steps} steps, one thread; {date.today()}")
    print(f"{machine(on_gpu=False)['cpu']}; Python {platform.python_version()}, torch {torch.__version__}, ", end="")
    print(f"pytorch-lightning {pl.__version__}\n")
    print("| network | ours, ms a step | bare loop, ms | Lightning and ours around it |\n|---|---:|---:|---:|")
    for net in asked.nets:
        arch, depth = net.split("-")
        rows = [f"schedule.log_every={WINDOW}", f"schedule.eval_every={4 * WINDOW}"]  # as the protocol has them
        options = [f"arch={arch}", f"depth={depth}", f"schedule.steps={asked.steps}", *rows, *data]
        ways = {f"{net}, `train.py`": partial(usual_run, options), f"{net}, steps at once": at_once}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        record: Run | None = None
        for _ in range(asked.rounds):
            for name, way in ways.items():
                manifest = way(record)
                record = Run.of_record(manifest["config"])
                seconds, weights = bare(record)
                times[name].append((record.schedule.batch_size / manifest["images_per_s"], seconds))
                if weights != manifest["weights_sha256"]:
                    sys.exit(f"{name}: the two sides end with different weights, so this compares different work")
        for name, pairs in times.items():
            ours, theirs = (1000 * min(side) for side in zip(*pairs, strict=True))
            share = f"{ours - theirs:.2f} ms, {(ours - theirs) / ours:.1%}"
            print(f"| {name} | {ours:.2f} | {theirs:.2f} | {share} |", flush=True)


if __name__ == "__main__":
    main()
