"""Training images/s that one core reads, decodes and augments, beside torchvision's reference recipe.

    python benchmarks/decode_throughput.py FOLDER OF PHOTOGRAPHS [--rounds 40] [--batch 49]

The same augmentation on both sides: a crop of random area and aspect ratio, 224 x 224, and a flip. They take turns.
A side is a process of its own, as its users run it. Its figures are images by processor time, of all its threads, in
its best round, as what else runs on a machine only ever slows a side down, and in the middle one of all, which is less
left to luck. The files are in memory after the first round.

- reference: `torchvision.datasets.ImageFolder` (PIL), RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize,
  batched by a DataLoader; float32 batches come out.
- reference, freed memory kept: the same, with the C library set as ours has it (`hardware.keep_freed_memory`).
- ours: `data.stream.TrainBatches`; what comes out is uint8, on its way to the device, with what is to be done there.
- ours, device's part too: the same, and colour, normalisation and mirroring on the same core, as on a CPU.
"""

import argparse
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import date
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from resnet_repro.data import augment
from resnet_repro.data.augment import Crop
from resnet_repro.data.device_batches import Normalisation
from resnet_repro.data.photo_batches import DamagedImages, Source, TrainBatches
from resnet_repro.data.photos import Photos
from resnet_repro.training.hardware import keep_freed_memory
from resnet_repro.training.manifest import machine

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class OnHost(Source):
    """Ends where the device would begin."""

    def send(self, crops: list[Crop], labels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pack(crops)[0], torch.tensor(labels)


def reference(folder: Path, batch_size: int, num_steps: int) -> Iterable[object]:
    """torchvision's recipe, references/classification, its defaults for ResNets."""
    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    dataset = ImageFolder(folder, transforms.Compose([*steps, transforms.Normalize(MEAN, STD)]))
    assert len(dataset) == batch_size * num_steps
    return DataLoader(dataset, batch_size, shuffle=True)


def ours(folder: Path, batch_size: int, num_steps: int, *, on_host: bool) -> Iterable[object]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    photos = Photos(paths, np.zeros(len(paths), np.int64), ["photos"])
    mean, scale = torch.tensor(MEAN) / torch.tensor(STD), 255 * torch.tensor(STD)
    like = Normalisation(mean[:, None, None].expand(3, 224, 224), scale[:, None, None])
    source = (OnHost if on_host else Source)(
        photos, DamagedImages(skip=False), like, torch.device("cpu"), num_threads=1
    )
    augmentation = augment.Augmentation(augment.scale_aspect_box, 224, flip=True)
    return TrainBatches(source, augmentation, batch_size=batch_size, seed=0, num_steps=num_steps, colour=0.0)


SIDES: dict[str, tuple[Callable[[Path, int, int], Iterable[object]], bool]] = {
    "reference": (reference, False),
    "reference, freed memory kept": (reference, True),
    "ours": (partial(ours, on_host=True), True),
    "ours, device's part too": (partial(ours, on_host=False), True),
}
"""What makes the batches of a folder, and whether the process keeps freed memory."""


def rate(name: str, folder: Path, batch_size: int, num_steps: int) -> float:
    """images by second of processor time."""
    make, keeps = SIDES[name]
    torch.set_num_threads(1)
    if keeps:
        keep_freed_memory()
    batches = make(folder, batch_size, num_steps)
    begin = time.process_time()
    for _ in batches:
        pass
    return batch_size * num_steps / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--batch", type=int, default=49)
    options = parser.parse_args()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        found = sorted(path for path in options.folder.rglob("*") if path.is_file())
        num_steps = len(found) // options.batch
        (folder / "class").mkdir(parents=True)
        for path in found[: num_steps * options.batch]:
            shutil.copy(path, folder / "class")
        spawn = get_context("spawn")
        processes = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for name in SIDES}
        rates: dict[str, list[float]] = {name: [] for name in SIDES}
        for _ in range(options.rounds + 1):  # the first one warms up
            for name, process in processes.items():
                rates[name].append(process.submit(rate, name, folder, options.batch, num_steps).result())
    figures = {name: (max(values[1:]), median(values[1:])) for name, values in rates.items()}
    about = machine(on_gpu=False)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "pillow", "simplejpeg"))
    print(f"{num_steps * options.batch} photographs, batch {options.batch}, one thread; {date.today()}")
    print(f"{about['cpu']}, {psutil.cpu_count(logical=False)} cores; {platform.python_version()}, {packages}\n")
    print(f"| | images/s a core, best of {options.rounds} | median | of the reference, best | median |")
    print("|---|---:|---:|---:|---:|")
    for name, (best, middle) in figures.items():
        of_best, of_middle = (mine / theirs for mine, theirs in zip((best, middle), figures["reference"], strict=True))
        print(f"| {name} | {best:,.0f} | {middle:,.0f} | {of_best:.2f} times | {of_middle:.2f} times |")


if __name__ == "__main__":
    main()
