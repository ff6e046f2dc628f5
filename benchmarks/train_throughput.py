"""Training images/s of CIFAR networks, batch 128, beside the usual loop, on this machine's CPU.

    python benchmarks/train_throughput.py [FOLDER OF CIFAR-10] [--nets resnet_v1-20 resnet_v2-164] [--rounds 3]
        [--steps 100] [--compile]

Both sides compute with one thread and take turns. Each side's figure is its fastest round: what else runs on a machine
only ever slows a side down. Prints a table in Markdown, with all rounds; our runs' records stay in results/benchmarks.

- ours: `python train.py`, as it is; its images/s are those of its manifest, of training alone: what comes before the
  first step (imports, data, compiling fused.c) is left out, as it is on the other side, and compiling is printed.
- the usual loop: torchvision's CIFAR10 with RandomCrop, RandomHorizontalFlip, ToTensor and Normalize, a DataLoader
  with worker processes (they may use the other cores), float32, contiguous; the same network, loss and SGD.
- the same loop in bf16 autocast; with `--compile` also through torch.compile, its compiling not counted. [timm has none
  of the CIFAR networks, so the compiled one is the same network as on the other sides]
- the floor: what the convolutions' multiply-adds alone take at the rate of a large bf16 matrix product on one thread.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import psutil
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchvision
from short_run import trained
from torch.utils.data import DataLoader
from torchvision import transforms

from resnet_repro.data import cifar
from resnet_repro.launch.plan import multiply_adds
from resnet_repro.networks.build import build
from resnet_repro.networks.fused import kernels
from resnet_repro.runs.options import Run
from resnet_repro.training.manifest import machine

BATCH_SIZE = 128
NUM_WARM_UPS = 5
"""Steps of the usual loop that are not counted."""


def ours(root: Path, net: str, *, steps: int, leaves: bool = True) -> dict[str, Any]:
    arch, depth = net.split("-")
    options = [f"arch={arch}", f"depth={depth}", f"data.root={root}", "data.val_size=500"]
    options += [f"schedule.steps={steps}", f"schedule.batch_size={BATCH_SIZE}", "hardware=cpu"]
    return trained(*options, leaves=leaves)


def official_dataset(root: Path) -> torchvision.datasets.CIFAR10:
    """torchvision's own data set over the images at hand; its constructor accepts the python files only."""
    images = cifar.load(cifar.locate("cifar10", root, val_size=500, download=False)).train
    dataset = torchvision.datasets.CIFAR10.__new__(torchvision.datasets.CIFAR10)
    dataset.data, dataset.targets = images.x.transpose(0, 2, 3, 1).copy(), images.y.tolist()
    dataset.target_transform = None
    normalize = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    dataset.transform = transforms.Compose([*augment, transforms.ToTensor(), normalize])
    return dataset


def usual(
    dataset: torchvision.datasets.VisionDataset,
    make_net: Callable[[], torch.nn.Module],
    *,
    steps: int,
    num_workers: int,
    batch_size: int = BATCH_SIZE,
    num_warm_ups: int = NUM_WARM_UPS,
    bf16: bool = False,
    compiles: bool = False,
) -> float:
    """images/s of the usual loop, its first steps left out."""
    torch.manual_seed(0)
    net = make_net()
    if compiles:
        net.compile()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=num_workers, drop_last=True)
    assert len(loader), f"{len(dataset)} images are less than a batch of {batch_size}"  # type: ignore[arg-type]
    endless = (batch for _ in count() for batch in loader)
    for step, (images, labels) in enumerate(islice(endless, steps)):
        if step == num_warm_ups:
            start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return batch_size * (steps - num_warm_ups) / (time.perf_counter() - start)


def in_turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """images/s of every side in every round; told as they come."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name, side in sides.items():
            rates[name].append(side())
            print(f"{number + 1} of {rounds}, {name}: {rates[name][-1]:,.2f}/s", file=sys.stderr)
    return rates


def floor(run: Run) -> float:
    """images/s if nothing but multiply-adds took time, forward and two backward, at a matrix product's rate."""
    a, b = (torch.randn(1024, 1024, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    rate = 1024**3 / min(seconds)
    return rate / (3 * multiply_adds(run))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--nets", nargs="+", default=["resnet_v1-20"], metavar="ARCH-DEPTH")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    if options.steps <= NUM_WARM_UPS:
        parser.error(f"--steps {options.steps} leaves none to count: give more than {NUM_WARM_UPS}")
    torch.set_num_threads(1)
    dataset = official_dataset(options.root)

    records = {net: ours(options.root, net, steps=1, leaves=False)["config"] for net in options.nets}
    runs = {net: Run.of_record(record) for net, record in records.items()}
    hardware = runs[options.nets[0]].hardware
    settings = ", ".join(f"{key}={getattr(hardware, key)}" for key in ("precision", "channels_last", "fused"))
    if hardware.fused:
        start = time.perf_counter()
        kernels()
        settings += f"; fused.c compiled in {time.perf_counter() - start:.1f} s before the first step, not counted"
    about = machine(on_gpu=False)
    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, pytorch-lightning {pl.__version__}"
    print(f"CIFAR-10, batch {BATCH_SIZE}, training images/s, one thread; {date.today()}")
    print(f"{about['cpu']}, {psutil.cpu_count(logical=False)} cores; {platform.python_version()}, {versions}")
    print(f"ours: {settings}")
    print(f"`python benchmarks/train_throughput.py FOLDER {' '.join(sys.argv[2:])}`".replace(" `", "`") + "\n")
    print("| network | | images/s | all rounds | ours is |\n|---|---|---:|---|---:|", flush=True)
    for net, run in runs.items():
        network = partial(build, run.network, run.images)
        usually = partial(usual, dataset, network, steps=options.steps, num_workers=2)
        sides: dict[str, Callable[[], float]] = {
            "ours": lambda net=net: float(ours(options.root, net, steps=options.steps)["images_per_s"]),
            "usual loop, float32, 2 workers": usually,
            "usual loop, float32, no workers": partial(usually, num_workers=0),
            "usual loop, bf16 autocast, 2 workers": partial(usually, bf16=True),
        }
        if options.compile:
            sides["the same through torch.compile"] = partial(usually, bf16=True, compiles=True)
        rates = in_turns(sides, options.rounds)
        fastest = {name: max(values) for name, values in rates.items()}
        every = {name: ", ".join(f"{value:,.0f}" for value in values) for name, values in rates.items()}
        fastest["floor: multiply-adds alone"], every["floor: multiply-adds alone"] = floor(run), ""
        for name, rate in fastest.items():
            ratio = fastest["ours"] / rate
            print(f"| {net} | {name} | {rate:,.0f} | {every[name]} | {ratio:.2f} times |", flush=True)


if __name__ == "__main__":
    main()
