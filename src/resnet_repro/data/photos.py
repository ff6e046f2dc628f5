"""Labelled photographs in folders, as ImageNet is kept. Importing this, and counting, load no torch."""

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np

from resnet_repro.errors import UserError, first_words, printable

Split = Literal["train", "val"]
ARCHIVES: dict[Split, str] = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
OFFICIAL: dict[Split, int] = {"train": 1_281_167, "val": 50_000}
"""Images of ILSVRC2012's classification task. [v1 Sec. 4.1]"""
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""What counts as an image; torchvision.datasets.folder has the same (tested)."""
LEFT_BY_SYSTEMS = {
    *("__macosx", "__pycache__", "lost+found", "@eadir", "@recycle", "@tmp", "#recycle", "#snapshot"),
    *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
}
"""Names in small letters of what macOS, Windows, disks and network drives put into folders of images."""


class Photos(NamedTuple):
    """The images of one split, class by class, in the order of their names."""

    paths: list[Path]
    labels: np.ndarray
    """int64 [n], positions in `classes`"""
    classes: list[str]
    """Names of the folders of training images, sorted: WordNet's for ImageNet."""
    hidden: tuple[str, ...] = ()
    """Files and folders below the root that were passed over, see `is_hidden`."""


class Counts(NamedTuple):
    """What a run has to know of a tree before it starts."""

    num_classes: int
    num_train: int
    num_val: int


def find(root: Path, split: Split) -> Photos:
    """The images in `root/SPLIT/CLASS/`, at whatever depth, in the order of `torchvision.datasets.ImageFolder`.

    What systems and editors leave in folders is passed over, which `ImageFolder` takes for classes and images.

    Raises:
        UserError: see `count`.
    """
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
    """Whether a file or folder is none of a data set's: its name begins with a dot, or is one of LEFT_BY_SYSTEMS."""
    return name.startswith(".") or name.lower() in LEFT_BY_SYSTEMS


def about_hidden(*splits: Photos) -> str:
    """One line for the log on what was passed over, empty where nothing was."""
    names = [name for split in splits for name in split.hidden]
    if not names:
        return ""
    what = "1 hidden name" if len(names) == 1 else f"{len(names):,} hidden names"
    return f"passed over {what}: {', '.join(map(printable, names[:3]))}{', ...' if len(names) > 3 else ''}"


@cache
def count(root: Path) -> Counts:
    """The numbers of classes and images, told from the names of the files alone: a second or two for ImageNet.

    Raises:
        UserError: no such folder, no train/ or val/ in it, no image in a class, a class that is not trained on, a
            folder that cannot be listed, or fewer images than in the official archive beside them.
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
            raise UserError(f"could not unpack {root / ARCHIVES[split]}: {first_words(error, at_most=300)}") from error


def checksum(root: Path, *splits: Photos) -> str:
    """SHA-256 over the path below `root` and the size in bytes of every image, in order.

    Not over the 150 GB of their contents, which would take longer to read than many a run: an image that was replaced
    by one of the same size goes unnoticed. A file without a size, as behind a broken link, is named when it is read.
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
    """Names of the folders, sorted; `hidden` gets the paths of what was passed over."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        _refuse_to_list(error)
    names = sorted(name for name, is_folder in found if is_folder and not is_hidden(name))
    if hidden is not None:
        hidden += sorted(f"{folder}/{name}" for name, _ in found if is_hidden(name))
    if not names:
        raise UserError(f"{folder} has no folder of a class: put the images into {folder}/CLASS/")
    return names


def _names(folder: Path, *, hidden: list[str] | None = None) -> list[str]:
    """Paths of the images below a folder, in torchvision's order; `hidden` gets those of what was passed over."""
    images, over = [], []
    for where, folders, files in os.walk(folder, followlinks=True, onerror=_refuse_to_list):
        over += [f"{where}/{name}" for name in (*folders, *files) if is_hidden(name)]
        folders[:] = [name for name in folders if not is_hidden(name)]
        images += [(where, name) for name in files if name.lower().endswith(EXTENSIONS) and not is_hidden(name)]
    if hidden is not None:
        hidden += sorted(over)
    return [f"{where}/{name}" for where, name in sorted(images)]


def _refuse_to_list(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename} cannot be listed ({error.strerror}): make it readable, or move it away")
