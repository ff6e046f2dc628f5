"""Lightning's share of a training step: `python train.py` beside a bare loop that does the same work, on this machine.

    python benchmarks/lightning_share.py [digits | FOLDER OF CIFAR-10] [--nets resnet_v2-8 resnet_v2-20] [--steps 300]
        [--rounds 3]

The bare loop makes the same batches, runs the same network, loss and optimiser at the same rates, and measures, logs
and saves nothing: that it ends with the same weights, bit for bit, is checked. The sides take turns, one thread each;
each side's figure is that of its fastest round. Lightning's share includes our own callbacks and loggers.
"""

import argparse
import platform
import sys
import time
from datetime import date
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from train_throughput import trained

from resnet_repro.data.batches import DeviceBatches
from resnet_repro.data.module import InMemoryData
from resnet_repro.fused import fuse
from resnet_repro.hardware import keep_freed_memory
from resnet_repro.manifest import machine, weights_sha256
from resnet_repro.networks import build
from resnet_repro.schedule import learning_rate


def bare(config: dict[str, Any]) -> tuple[float, str]:
    """Median seconds of a step of a run's work without Lightning, and the weights that it ends with."""
    data, schedule, hardware = InMemoryData(config), config["schedule"], config["hardware"]
    pl.seed_everything(config["seed"], verbose=False)
    net = build(config)
    if hardware["channels_last"]:
        net.to(memory_format=torch.channels_last)
    if hardware["fused"]:
        fuse(net)
    batches = DeviceBatches(
        *map(torch.from_numpy, data.train),
        **data.normalisation._asdict(),
        batch_size=schedule["batch_size"],
        pad=config["data"]["pad"],
        flip=config["data"]["flip"],
        seed=config["seed"],
        num_steps=schedule["steps"],
    )
    words = {key: schedule[key] for key in ("lr", "momentum", "weight_decay", "nesterov")}
    sgd = torch.optim.SGD(net.parameters(), **words)
    seconds, start = [], time.perf_counter()
    for step, (images, labels) in enumerate(batches):
        for group in sgd.param_groups:
            group["lr"] = learning_rate(step, schedule)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=hardware["precision"] == "bf16-mixed"):
            loss = F.cross_entropy(net(images), labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return median(seconds), weights_sha256(net)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", default="digits", metavar="digits | FOLDER")
    parser.add_argument("--nets", nargs="+", default=["resnet_v2-8", "resnet_v2-20"], metavar="ARCH-DEPTH")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    data = ["data=digits"] if asked.data == "digits" else [f"data.root={asked.data}", "data.val_size=500"]
    torch.set_num_threads(1)
    keep_freed_memory()
    name = "Digits" if asked.data == "digits" else "CIFAR-10"
    print(f"{name}, median step of {asked.steps}, one thread; {date.today()}")
    print(f"{machine('cpu')['cpu']}; Python {platform.python_version()}, torch {torch.__version__}, ", end="")
    print(f"pytorch-lightning {pl.__version__}\n")
    print("| network | `train.py`, ms a step | bare loop, ms | Lightning and ours around it |\n|---|---:|---:|---:|")
    for net in asked.nets:
        arch, depth = net.split("-")
        options = [f"arch={arch}", f"depth={depth}", f"schedule.steps={asked.steps}", *data]
        whole, alone = [], []
        for _ in range(asked.rounds):
            manifest = trained(*options)
            whole.append(manifest["config"]["schedule"]["batch_size"] / manifest["images_per_s"])
            seconds, weights = bare(manifest["config"])
            alone.append(seconds)
            if weights != manifest["weights_sha256"]:
                sys.exit(f"{net}: the two sides end with different weights, so this compares different work")
        ours, theirs = 1000 * min(whole), 1000 * min(alone)
        share = f"{ours - theirs:.2f} ms, {(ours - theirs) / ours:.1%}"
        print(f"| {net} | {ours:.2f} | {theirs:.2f} | {share} |", flush=True)


if __name__ == "__main__":
    main()
