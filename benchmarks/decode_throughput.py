"""Training images/s that one core reads, decodes and augments, beside torchvision's reference recipe.

    python benchmarks/decode_throughput.py FOLDER/CLASS OF PHOTOGRAPHS [--seconds 60]

The same augmentation on both sides: a crop of random area and aspect ratio, 224 x 224, and a flip. They take turns.
A side is a process of its own, as its users run it. A figure is images by processor time, of all its threads, in a
round; the middle round is less left to luck than the best. The files are in memory after the first round. Prints JSON
for speed.py.

- reference: `torchvision.datasets.ImageFolder` (PIL), RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize,
  batched by a DataLoader; float32 batches come out.
- reference, freed memory kept: the same, with the C library set as ours has it (`hardware.keep_freed_memory`).
- ours: `data.stream.TrainBatches`; what comes out is uint8, on its way to the device, with what is to be done there.
- ours, device's part too: the same, and colour, normalisation and mirroring on the same core, as on a CPU.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch.utils.data import DataLoader
from usual_loop import photographs

from resnet_repro.data import augment
from resnet_repro.data.augment import Crop
from resnet_repro.data.device_batches import Normalisation
from resnet_repro.data.photo_batches import DamagedImages, Source, TrainBatches
from resnet_repro.data.photos import Photos
from resnet_repro.training.hardware import keep_freed_memory

BATCH_SIZE = 49
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class OnHost(Source):
    """Ends where the device would begin."""

    def send(self, crops: list[Crop], labels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pack(crops)[0], torch.tensor(labels)


def reference(folder: Path) -> Iterable[object]:
    return DataLoader(photographs(folder), BATCH_SIZE, shuffle=True, drop_last=True)


def ours(folder: Path, *, on_host: bool) -> Iterable[object]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    photos = Photos(paths, np.zeros(len(paths), np.int64), ["photos"])
    mean, scale = torch.tensor(MEAN) / torch.tensor(STD), 255 * torch.tensor(STD)
    like = Normalisation(mean[:, None, None].expand(3, 224, 224), scale[:, None, None])
    source = (OnHost if on_host else Source)(
        photos, DamagedImages(skip=False), like, torch.device("cpu"), num_threads=1
    )
    augmentation = augment.Augmentation(augment.scale_aspect_box, 224, flip=True)
    num_steps = len(paths) // BATCH_SIZE
    return TrainBatches(source, augmentation, batch_size=BATCH_SIZE, seed=0, num_steps=num_steps, colour=0.0)


SIDES: dict[str, tuple[Callable[[Path], Iterable[object]], bool]] = {
    "reference": (reference, False),
    "reference, freed memory kept": (reference, True),
    "ours": (partial(ours, on_host=True), True),
    "ours, device's part too": (partial(ours, on_host=False), True),
}
"""What makes the batches of a folder, and whether the process keeps freed memory."""


def rate(name: str, folder: Path) -> float:
    """Return the images decoded in a second of processor time."""
    make, keeps = SIDES[name]
    torch.set_num_threads(1)
    if keeps:
        keep_freed_memory()
    batches = make(folder)
    begin = time.process_time()
    num_steps = sum(1 for _ in batches)
    return BATCH_SIZE * num_steps / (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    with ExitStack() as stack:
        spawn = get_context("spawn")
        processes = {name: stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn)) for name in SIDES}
        begin = time.monotonic()
        while len(rates["ours"]) < 2 or time.monotonic() < begin + options.seconds:
            for name, process in processes.items():
                rates[name].append(process.submit(rate, name, options.folder).result())
    best = {name: [max(values[1:])] for name, values in rates.items()}  # the first round warms up
    middle = {name: [median(values[1:])] for name, values in rates.items()}
    print(json.dumps({"best round": best, "middle round": middle}))


if __name__ == "__main__":
    main()
