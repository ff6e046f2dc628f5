"""Labelled photographs in folders of classes, as in ImageNet. Only unpacking imports torch."""

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

from resnet_repro.errors import UserError, first_words, printable

if TYPE_CHECKING:
    import numpy as np

Split = Literal["train", "val"]
ARCHIVES: dict[Split, str] = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
OFFICIAL: dict[Split, int] = {"train": 1_281_167, "val": 50_000}
"""Images of ILSVRC2012's classification task. [v1 Sec. 4.1]"""
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""File name endings of images; torchvision.datasets.folder has the same (tested)."""
LEFT_BY_SYSTEMS = {
    *("__macosx", "__pycache__", "lost+found", "@eadir", "@recycle", "@tmp", "#recycle", "#snapshot"),
    *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
}
"""Names, in lower case, of files and folders that macOS, Windows, disks and network drives add to any folder."""


class Photos(NamedTuple):
    """The images of one split, class by class, in the order of their names."""

    paths: list[Path]
    labels: "np.ndarray"
    """int64 [n], positions in `classes`"""
    classes: list[str]
    """Names of the folders of training images, sorted; in ImageNet they are WordNet's."""
    hidden: tuple[str, ...] = ()
    """Paths below the root of files and folders that were passed over, see `is_hidden`."""


class Counts(NamedTuple):
    """What a run has to know about its photographs before it starts."""

    num_classes: int
    num_train: int
    num_val: int


def find(root: Path, split: Split) -> Photos:
    """Return the images in `root/SPLIT/CLASS/`, at any depth, in the order of `torchvision.datasets.ImageFolder`.

    Files and folders that systems and editors leave are passed over; `ImageFolder` takes them for images and classes.

    Raises:
        UserError: as `count`.
    """
    import numpy as np  # counting, for the command line, needs none

    count(root)
    hidden: list[str] = []
    classes = _classes(root / "train", hidden=hidden if split == "train" else None)
    paths: list[Path] = []
    labels: list[int] = []
    for name in classes if split == "train" else _classes(root / split, hidden=hidden):
        images = [Path(path) for path in _names(root / split / name, hidden=hidden)]
        paths += images
        labels += [classes.index(name)] * len(images)
    below = [Path(path).relative_to(root).as_posix() for path in hidden]
    return Photos(paths, np.array(labels, np.int64), classes, tuple(below))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is no part of a data set: its name begins with a dot or is in LEFT_BY_SYSTEMS."""
    return name.startswith(".") or name.lower() in LEFT_BY_SYSTEMS


def about_hidden(*splits: Photos) -> str:
    """Return a line for the log about what was passed over; empty if nothing was."""
    names = [name for split in splits for name in split.hidden]
    if not names:
        return ""
    what = "1 hidden name" if len(names) == 1 else f"{len(names):,} hidden names"
    return f"passed over {what}: {', '.join(map(printable, names[:3]))}{', ...' if len(names) > 3 else ''}"


@cache
def count(root: Path) -> Counts:
    """Return the numbers of classes and images, by the names of the files alone: takes a second or two for ImageNet.

    Raises:
        UserError: if `root`, its train/ or its val/ is no folder, a class has no image, a validation class is no
            training class, a folder cannot be listed, or a split has fewer or more images than its official archive.
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
        by_class = {name: len(_names(root / split / name)) for name in classes[split]}
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
    """Return the numbers of `count`; None if there is no tree."""
    folder = Path(root).expanduser()
    return count(folder) if all((folder / split).is_dir() for split in ARCHIVES) else None


def unpack(root: Path) -> None:
    """Unpack the official archives in `root` that are still packed. `torchvision.datasets.ImageNet` checks them.

    Raises:
        UserError: if an archive is partial or damaged, or the devkit that names the classes is, or is missing.
    """
    for split, archive in ARCHIVES.items():
        if (root / split).is_dir() or not (root / archive).is_file():
            continue
        from torchvision.datasets import ImageNet

        print(f"Checking and unpacking {root / archive} ...", flush=True)
        try:
            ImageNet(root, split)
        except (RuntimeError, OSError) as error:
            raise UserError(f"could not unpack {root / archive}: {first_words(error, at_most=300)}") from error


def checksum(root: Path, *splits: Photos) -> str:
    """Return the SHA-256 of every image's path below `root` and size in bytes, in order.

    Reading the 150 GB of their contents would take longer than many a run. So an image replaced by another of the same
    size goes unnoticed. A broken link has no size here, and is refused by name once it is read.
    """
    digest = hashlib.sha256()
    for path in (path for split in splits for path in split.paths):
        try:
            size = str(path.stat().st_size)
        except OSError:
            size = "?"
        digest.update(os.fsencode(f"{path.relative_to(root).as_posix()} {size}\n"))
    return digest.hexdigest()


def _classes(folder: Path, *, hidden: list[str] | None = None) -> list[str]:
    """Return the sorted names of the folders; add the paths of what is passed over to `hidden`."""
    try:
        with os.scandir(folder) as scan:
            entries = [(entry.name, entry.is_dir()) for entry in scan]
    except OSError as error:
        _refuse_to_list(error)
    names = sorted(name for name, is_folder in entries if is_folder and not is_hidden(name))
    if hidden is not None:
        hidden += sorted(f"{folder}/{name}" for name, _ in entries if is_hidden(name))
    if not names:
        raise UserError(f"{folder} has no folder of a class: put the images into {folder}/CLASS/")
    return names


def _names(folder: Path, *, hidden: list[str] | None = None) -> list[str]:
    """Return the images' paths in torchvision's order; add the paths of what is passed over to `hidden`."""
    images, passed_over = [], []
    for where, folders, files in os.walk(folder, followlinks=True, onerror=_refuse_to_list):
        passed_over += [f"{where}/{name}" for name in (*folders, *files) if is_hidden(name)]
        folders[:] = [name for name in folders if not is_hidden(name)]
        images += [(where, name) for name in files if name.lower().endswith(EXTENSIONS) and not is_hidden(name)]
    if hidden is not None:
        hidden += sorted(passed_over)
    return [f"{where}/{name}" for where, name in sorted(images)]


def _refuse_to_list(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename} cannot be listed ({error.strerror}): make it readable, or move it away")
