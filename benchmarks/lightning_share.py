"""Lightning's share of a training step: `python train.py` beside a bare loop that does the same work, on this machine.

    python benchmarks/lightning_share.py [--net resnet_v2-8] [--seconds 60]

Digits, the smallest steps that there are. The bare loop makes the same batches, runs the same network, loss and
optimiser at the same rates, and measures, logs and saves nothing: that it ends with the same weights, bit for bit, is
checked. The sides take turns, one thread each; a figure is the median of 100 steps on end. The difference includes our
own callbacks and loggers; evaluations are in neither. Prints JSON for speed.py.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from resnet_repro.data.device_batches import DeviceBatches
from resnet_repro.data.in_memory import InMemoryData
from resnet_repro.data.options import InMemory
from resnet_repro.networks.build import build
from resnet_repro.networks.fused import fuse
from resnet_repro.networks.ghost import group_batch_norms
from resnet_repro.runs.folder import read_json
from resnet_repro.runs.options import Run
from resnet_repro.training.classifier import parameter_groups
from resnet_repro.training.hardware import keep_freed_memory
from resnet_repro.training.manifest import weights_sha256
from resnet_repro.training.schedule import learning_rate

TRAIN = Path(__file__).parents[1] / "train.py"
NUM_STEPS = 400
WINDOW = 100
"""Steps between two rows of numbers, as the protocol has them."""


def trained(net: str) -> dict[str, Any]:
    """Return the manifest of `train.py`."""
    arch, depth = net.split("-")
    options = [f"arch={arch}", f"depth={depth}", "data=digits", "hardware=cpu", "logger=csv"]
    options += [f"schedule.steps={NUM_STEPS}", f"schedule.log_every={WINDOW}", f"schedule.eval_every={NUM_STEPS}"]
    with tempfile.TemporaryDirectory() as outputs:
        subprocess.run([sys.executable, TRAIN, *options, f"outputs={outputs}"], check=True, stdout=subprocess.DEVNULL)
        (path,) = Path(outputs).glob("*/*/manifest.json")
        manifest: dict[str, Any] = read_json(path)
    return manifest


def bare(run: Run) -> tuple[float, str]:
    """Return the seconds a step of a run's work without Lightning, and the weights that it ends with."""
    schedule, hardware = run.schedule, run.hardware
    assert isinstance(run.data, InMemory)
    data = InMemoryData(run.data, run.batching())
    pl.seed_everything(run.seed, verbose=False)
    net = build(run.network, run.images)
    if hardware.channels_last:
        net.to(memory_format=torch.channels_last)
    if hardware.fused:
        fuse(net)
    if schedule.ghost_batch_size:
        group_batch_norms(net, at_most=schedule.ghost_batch_size)
    batches = DeviceBatches(
        *map(torch.from_numpy, data.train),
        **data.normalisation._asdict(),
        batch_size=schedule.batch_size,
        pad=run.data.pad,
        flip=run.data.flip,
        seed=run.seed,
        num_steps=schedule.steps,
    )
    words = {key: getattr(schedule, key) for key in ("lr", "momentum", "weight_decay", "nesterov")}
    sgd = torch.optim.SGD(parameter_groups(net, decay=schedule.decay), **words)
    seconds, start = [], time.perf_counter()
    for number, (images, labels) in enumerate(batches, start=1):
        for group in sgd.param_groups:
            group["lr"] = learning_rate(number - 1, schedule)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=hardware.precision == "bf16-mixed"):
            loss = F.cross_entropy(net(images), labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        if number % WINDOW == 0:  # as the run's own images/s
            seconds.append((time.perf_counter() - start) / WINDOW)
            start = time.perf_counter()
    return median(seconds), weights_sha256(net)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", default="resnet_v2-8", metavar="ARCH-DEPTH")
    parser.add_argument("--seconds", type=float, default=60)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    ours: list[float] = []
    theirs: list[float] = []
    begin = time.monotonic()
    while not ours or time.monotonic() < begin + asked.seconds:
        manifest = trained(asked.net)
        run = Run.of_record(manifest["config"])
        seconds, weights = bare(run)
        if weights != manifest["weights_sha256"]:
            sys.exit("the two sides end with different weights, so this compares different work")
        ours.append(1000 * run.schedule.batch_size / manifest["images_per_s"])
        theirs.append(1000 * seconds)
    rows = {"`train.py`": ours, "bare loop": theirs, "Lightning, callbacks, loggers": [min(ours) - min(theirs)]}
    print(json.dumps({asked.net: rows}))


if __name__ == "__main__":
    main()
