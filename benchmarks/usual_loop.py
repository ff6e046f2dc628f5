"""The loop that others usually write, for `speed.py` to compare with: trains until it is stopped, one thread.

    python benchmarks/usual_loop.py OUT ROOT NET [--batch 128] [--workers 2] [--bf16] [--channels-last] [--compile]

torchvision's data set with crop, flip, ToTensor and Normalize, a DataLoader with worker processes (they may use other
cores), cross entropy and SGD. NET is resnet_v1-20, resnet_v2-164 ... for CIFAR-10 in ROOT, the same network as ours, as
timm has none of them; or a model of timm, for photographs in ROOT/CLASS. Writes each step's images/s to OUT/timing.csv.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10, ImageFolder, VisionDataset

from resnet_repro.data import cifar
from resnet_repro.networks.resnet import ResNet

ORDERS = {"resnet_v1": "original", "resnet_v2": "full_preact"}


def cifar10(root: Path) -> CIFAR10:
    """Return torchvision's data set over the images at hand; its constructor accepts the python files only."""
    images = cifar.load(cifar.locate("cifar10", root, val_size=500, download=False)).train
    dataset = CIFAR10.__new__(CIFAR10)
    dataset.data, dataset.targets = images.x.transpose(0, 2, 3, 1).copy(), images.y.tolist()
    dataset.target_transform = None
    normalize = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    dataset.transform = transforms.Compose([*augment, transforms.ToTensor(), normalize])
    return dataset


def photographs(folder: Path, crop: int = 224) -> ImageFolder:
    """Return torchvision's reference recipe, references/classification, its defaults for ResNets."""
    normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    augment = [transforms.RandomResizedCrop(crop), transforms.RandomHorizontalFlip()]
    return ImageFolder(folder, transforms.Compose([*augment, transforms.ToTensor(), normalize]))


def network(name: str, num_classes: int) -> nn.Module:
    arch, _, depth = name.partition("-")
    if arch in ORDERS:
        return ResNet(depth=int(depth), family="cifar", num_classes=num_classes, order=ORDERS[arch])
    import timm

    net: nn.Module = timm.create_model(name, num_classes=num_classes)
    return net


def seconds_of_steps(
    dataset: VisionDataset, net: nn.Module, *, batch_size: int, num_workers: int, bf16: bool, channels_last: bool
) -> Iterator[float]:
    """Yield how long each step takes, the wait for its batch included, without end."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=num_workers, drop_last=True)
    start = time.perf_counter()
    while True:
        for images, labels in loader:
            if channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(net(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            before, start = start, time.perf_counter()
            yield start - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("net")
    for name, default in (("batch", 128), ("workers", 2), ("crop", 224)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in ("bf16", "channels-last"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--compile", nargs="?", const="inductor", metavar="BACKEND")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    is_cifar = asked.net.partition("-")[0] in ORDERS
    dataset = cifar10(asked.root) if is_cifar else photographs(asked.root, asked.crop)
    net = network(asked.net, len(dataset.classes) if isinstance(dataset, ImageFolder) else 10)
    if asked.channels_last:
        net.to(memory_format=torch.channels_last)
    if asked.compile:
        net.compile(backend=asked.compile)
    words = {"batch_size": asked.batch, "num_workers": asked.workers}
    words |= {"bf16": asked.bf16, "channels_last": asked.channels_last}
    with (asked.out / "timing.csv").open("w", buffering=1) as file:
        print("step,time/images_per_s", file=file)
        for step, seconds in enumerate(seconds_of_steps(dataset, net, **words), start=1):
            print(f"{step},{asked.batch / seconds}", file=file)


if __name__ == "__main__":
    main()
