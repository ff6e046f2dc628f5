"""Training images/s of ResNet-50 on photographs beside timm's in the usual loop, on this machine's CPU.

    python benchmarks/imagenet_throughput.py FOLDER [--batch 32] [--steps 5] [--rounds 2] [--compile]

FOLDER holds train/CLASS/* and val/CLASS/*. All sides cut out aspect-ratio crops of 224, compute with one thread and
take turns; a side's figure is its fastest round. The papers' batch of 256 needs more memory than most machines have.

- ours: `python train.py data=imagenet depth=50 arch.stride_on=3x3`, whose network is timm's resnet50; decoding on a
  thread of its own, the first step left out.
- the usual loop: torchvision's ImageFolder, RandomResizedCrop, RandomHorizontalFlip, ToTensor and Normalize in two
  worker processes, timm's `create_model("resnet50")`, SGD; two steps left out. In float32, in bf16 autocast, and, with
  `--compile`, in bf16 through torch.compile.
- the floor: the multiply-adds alone at the rate of a large bf16 matrix product.
"""

import argparse
import platform
import tempfile
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import timm
import torch
from short_run import trained
from torchvision import transforms
from torchvision.datasets import ImageFolder
from train_throughput import floor, in_turns, usual

from resnet_repro.runs.options import Run
from resnet_repro.training.manifest import machine


def with_few_to_validate(folder: Path, place: Path) -> Path:
    """A tree of the same training images, and of one validation image a class: validation is not what is measured."""
    for split, num in (("train", None), ("val", 1)):
        for of_class in (folder / split).glob("*/"):
            (place / split / of_class.name).mkdir(parents=True)
            for image in sorted(of_class.iterdir())[:num]:
                (place / split / of_class.name / image.name).symlink_to(image.resolve())
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("batch", 32), ("steps", 5), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--compile", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        measure(asked, with_few_to_validate(asked.folder, Path(place)))


def measure(asked: argparse.Namespace, folder: Path) -> None:
    torch.set_num_threads(1)
    channel = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(), channel]
    dataset = ImageFolder(folder / "train", transforms.Compose(steps))
    options = ["data=imagenet", f"data.root={folder}", "depth=50", "arch.stride_on=3x3"]
    options += ["data.augment=scale_aspect", f"schedule.batch_size={asked.batch}", "data.colour=0"]
    options += ["hardware=cpu"]
    ours = partial(trained, *options, f"schedule.steps={asked.steps + 1}", f"schedule.eval_every={asked.steps + 1}")
    run = Run.of_record(trained(*options, "schedule.steps=1", leaves=False)["config"])
    usually = partial(
        usual,
        dataset,
        partial(timm.create_model, "resnet50", num_classes=len(dataset.classes)),
        batch_size=asked.batch,
        steps=asked.steps + 2,
        num_warm_ups=2,
        num_workers=2,
    )
    sides: dict[str, Callable[[], float]] = {
        "ours": lambda: float(ours()["images_per_s"]),
        "usual loop, timm, float32": usually,
        "usual loop, timm, bf16 autocast": partial(usually, bf16=True),
    }
    if asked.compile:
        sides["the same through torch.compile"] = partial(usually, bf16=True, compiles=True)
    rates = in_turns(sides, asked.rounds)
    rates["floor: multiply-adds alone"] = [floor(run)]
    print(f"ResNet-50, crops of 224, batch {asked.batch}, one thread; {machine(on_gpu=False)['cpu']}; {date.today()}")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}\n")
    print("| | images/s | all rounds | ours is |\n|---|---:|---|---:|")
    for name, found in rates.items():
        every = ", ".join(f"{rate:.2f}" for rate in found)
        print(f"| {name} | {max(found):.2f} | {every} | {max(rates['ours']) / max(found):.2f} times |")


if __name__ == "__main__":
    main()
