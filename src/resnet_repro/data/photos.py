"""Labelled photographs in folders, as ImageNet is kept. Importing this, and counting, load no torch."""

import hashlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from resnet_repro.errors import UserError

Split = Literal["train", "val"]
ARCHIVES: dict[Split, str] = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
OFFICIAL: dict[Split, int] = {"train": 1_281_167, "val": 50_000}
"""Images of ILSVRC2012's classification task. [v1 Sec. 4.1]"""
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image; torchvision.datasets.folder has the same (tested)."""


class Photos(NamedTuple):
    """The images of one split, class by class, in the order of their names."""

    paths: list[Path]
    labels: np.ndarray
    """int64 [n], positions in `classes`"""
    classes: list[str]
    """Names of the folders of training images, sorted: WordNet's for ImageNet."""


class Counts(NamedTuple):
    """What a run has to know of a tree before it starts."""

    num_classes: int
    num_train: int
    num_val: int


def find(root: Path, split: Split) -> Photos:
    """The images in `root/SPLIT/CLASS/`, at whatever depth, as `torchvision.datasets.ImageFolder` finds them.

    Raises:
        UserError: see `count`.
    """
    count(root)
    from torchvision.datasets import ImageFolder

    folder = ImageFolder(root / split)
    classes = _classes(root / "train")
    position = {name: number for number, name in enumerate(classes)}
    labels = np.array([position[name] for name in folder.classes], np.int64)[folder.targets]
    return Photos([Path(path) for path, _ in folder.samples], labels, classes)


@cache
def count(root: Path) -> Counts:
    """The numbers of classes and images, told from the names of the files alone: a second or two for ImageNet.

    Raises:
        UserError: no such folder, no train/ or val/ in it, no image in a class, a class that is not trained on, or
            fewer images than in the official archive beside them.
    """
    for split in ("train", "val"):
        if not (root / split).is_dir():
            what = "has no " + split + "/" if root.is_dir() else "is no folder"
            raise UserError(
                f"data.root={root} {what}: give a folder with train/CLASS/ and val/CLASS/, or with {DEVKIT} and "
                + " and ".join(ARCHIVES.values())
            )
    classes = {split: _classes(root / split) for split in ARCHIVES}
    if unknown := sorted({*classes["val"]} - {*classes["train"]}):
        raise UserError(f"{root / 'val' / unknown[0]} is no class of {root / 'train'}: move it away, or add it there")
    numbers = {}
    for split, archive in ARCHIVES.items():
        by_class = {name: sum(1 for _ in _names(root / split / name)) for name in classes[split]}
        if empty := next((name for name, number in by_class.items() if not number), None):
            raise UserError(f"{root / split / empty} has no image ({' '.join(EXTENSIONS)}): add some, or remove it")
        numbers[split] = sum(by_class.values())
        if (root / archive).is_file() and numbers[split] != OFFICIAL[split]:
            raise UserError(
                f"{root / split} has {numbers[split]:,} images and {archive} has {OFFICIAL[split]:,}: remove "
                f"{root / split} and start again to unpack the archive, or move the archive away"
            )
    return Counts(len(classes["train"]), numbers["train"], numbers["val"])


def count_there(root: str) -> Counts | None:
    """As `count`; None where there is no tree."""
    folder = Path(root).expanduser()
    return count(folder) if all((folder / split).is_dir() for split in ARCHIVES) else None


def unpack(root: Path) -> None:
    """Unpack the official archives in `root` that have not been, by `torchvision.datasets.ImageNet`, which checks them.

    Raises:
        UserError: an archive, or the devkit that names its classes, is missing, partial or damaged.
    """
    packed = [split for split, archive in ARCHIVES.items() if (root / archive).is_file()]
    for split in packed:
        if (root / split).is_dir():
            continue
        from torchvision.datasets import ImageNet

        print(f"Checking and unpacking {root / ARCHIVES[split]} ...", flush=True)
        try:
            ImageNet(root, split)
        except (RuntimeError, OSError) as error:
            raise UserError(f"could not unpack {root / ARCHIVES[split]}: {' '.join(str(error).split())}") from error


def checksum(root: Path, *splits: Photos) -> str:
    """SHA-256 over the path below `root` and the size in bytes of every image, in order.

    Not over the 150 GB of their contents, which would take longer to read than many a run: an image that was replaced
    by one of the same size goes unnoticed.
    """
    digest = hashlib.sha256()
    for path in (path for split in splits for path in split.paths):
        digest.update(f"{path.relative_to(root).as_posix()} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _classes(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir())
    if not names:
        raise UserError(f"{folder} has no folder of a class: put the images into {folder}/CLASS/")
    return names


def _names(folder: Path) -> Iterator[str]:
    for where, _, names in os.walk(folder, followlinks=True):
        yield from (f"{where}/{name}" for name in names if name.lower().endswith(EXTENSIONS))
