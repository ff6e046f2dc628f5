"""`python -m resnet_repro pack SRC DEST`: pack a tree of photographs into shards, for `data=imagenet_streaming`."""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from resnet_repro.data import jpeg, photos
from resnet_repro.data.bucket import INSTALL
from resnet_repro.data.image_set import fixed_order
from resnet_repro.data.jpeg import Damaged
from resnet_repro.data.photo_batches import DamagedImages, in_threads
from resnet_repro.data.photos import Photos, Split
from resnet_repro.data.shards import FORMAT, INDEX
from resnet_repro.errors import UserError, printable
from resnet_repro.machine import num_cores

SHARD_MB = 64  # some 600 images of ImageNet: many for a request, few for the cache
GROUP = 128  # images read at a time, while earlier images are written
ABOUT = """
SRC is a folder for data=imagenet: train/CLASS/* and val/CLASS/*, or ILSVRC2012's archives, which are unpacked there.
Each image file is decoded as a check and goes into the shards unchanged, in a random order that is always the same;
training shuffles the shards, and the images of a few shards at a time. DEST, or a bucket that it is copied to, is then
the data.root of data=imagenet_streaming:

  python -m resnet_repro pack data/imagenet data/imagenet_shards
  aws s3 sync data/imagenet_shards s3://bucket/imagenet
  python train.py data=imagenet_streaming data.root=s3://bucket/imagenet depth=50
"""


def pack(src: Path, dest: Path, *, shard_mb: float, skip_damaged: bool, num_threads: int) -> dict[str, Any]:
    """Write the shards of both splits, and `shards.json` last: without it `dest` counts as incomplete.

    The same images make the same files, except LitData's own `index.json`, which holds the time.

    Returns:
        The content of `shards.json`.

    Raises:
        UserError: if `src` is no tree of photographs, `dest` is not empty, an image is damaged and not to be skipped,
            or LitData is not installed.
    """
    _litdata()
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise UserError(f"{dest} is not empty: remove it, or give a new folder")
    try:
        photos.unpack(src)
        trees: dict[Split, Photos] = {"train": photos.find(src, "train"), "val": photos.find(src, "val")}
    except UserError as error:
        raise UserError(str(error).removeprefix("data.root=")) from None
    if about_hidden := photos.about_hidden(*trees.values()):
        print(about_hidden, file=sys.stderr, flush=True)
    left_out: list[str] = []
    splits = {}
    for split, images in trees.items():
        contents = _contents(images, skip_damaged=skip_damaged, num_threads=num_threads)
        splits[split] = _write(split, images, contents, src, dest, shard_mb=shard_mb, left_out=left_out)
    index = {"format": FORMAT, "classes": trees["train"].classes, "splits": splits, "left_out": left_out}
    part = dest / f"{INDEX}.part"
    part.write_text(json.dumps(index, indent=1), encoding="utf-8")
    part.replace(dest / INDEX)
    return index


Content = tuple[int, bytes | None]
"""The number of an image and its file's bytes, None if it is damaged."""


def _contents(images: Photos, *, skip_damaged: bool, num_threads: int) -> Iterator[Content]:
    """Yield every image's content in a random order: in class order, only a shuffle of all images mixes the classes."""
    order = fixed_order(len(images.paths)).tolist()
    damage = DamagedImages(skip=skip_damaged)
    calls: list[Callable[[], Content]] = [partial(_checked, number, images.paths[number], damage) for number in order]
    groups = (calls[begin : begin + GROUP] for begin in range(0, len(calls), GROUP))
    for group in in_threads(groups, num_threads=num_threads):
        yield from group


def _checked(number: int, path: Path, damage: DamagedImages) -> Content:
    try:
        content = jpeg.content(path)
        jpeg.pixels(content, path)
    except Damaged as error:
        if not damage.skip:
            raise UserError(f"{error.what}: replace it, remove it, or pass --skip-damaged") from None
        damage.leave_out(path, error)
        return number, None
    damage.num_in_a_row = 0
    return number, content


def _write(
    split: Split,
    images: Photos,
    contents: Iterator[Content],
    src: Path,
    dest: Path,
    *,
    shard_mb: float,
    left_out: list[str],
) -> dict[str, Any]:
    """Write a split's shards and labels, and return their entry in `shards.json`."""
    folder = dest / split
    folder.mkdir(parents=True)
    cache = _litdata().Cache(str(folder), chunk_bytes=int(shard_mb * 1e6))
    labels: list[int] = []
    for number, content in tqdm(contents, split, len(images.paths), unit="image", disable=not sys.stderr.isatty()):
        name = printable(images.paths[number].relative_to(src).as_posix())
        if content is None:
            left_out.append(name)
            continue
        cache[len(labels)] = (content, int(images.labels[number]), name)
        labels.append(int(images.labels[number]))
    if not labels:
        raise UserError(f"{src / split} has no image that can be read: give another SRC")
    cache.done()
    cache.merge()
    np.save(folder / "labels.npy", np.array(labels, np.int64))
    chunks = json.loads((folder / "index.json").read_text(encoding="utf-8"))["chunks"]
    return {
        "labels": f"{split}/labels.npy",
        "labels_sha256": _sha256(folder / "labels.npy"),
        "shards": [
            {
                "name": f"{split}/{chunk['filename']}",
                "num_images": chunk["chunk_size"],
                "num_bytes": (folder / chunk["filename"]).stat().st_size,
                "sha256": _sha256(folder / chunk["filename"]),
            }
            for chunk in chunks
        ],
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _litdata() -> Any:
    try:
        from litdata import streaming
    except ImportError:
        raise UserError(f"packing needs LitData: {INSTALL}") from None
    return streaming


def main(arguments: list[str]) -> None:
    """Pack the photographs that the command line names."""
    parser = argparse.ArgumentParser(
        "python -m resnet_repro pack", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="folder of the photographs")
    parser.add_argument("dest", metavar="DEST", type=Path, help="folder of the shards, empty or new")
    parser.add_argument(
        "--skip-damaged", action="store_true", help="leave out images that cannot be read, and name them"
    )
    parser.add_argument("--shard-mb", type=float, default=SHARD_MB, help="MB a shard (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=num_cores(), help="threads that decode (default: one a core)")
    given = parser.parse_args(arguments)
    if given.shard_mb <= 0 or given.threads < 1:
        raise UserError("--shard-mb and --threads must be above 0: give other numbers, or leave them out")
    index = pack(
        given.src.expanduser(),
        given.dest.expanduser(),
        shard_mb=given.shard_mb,
        skip_damaged=given.skip_damaged,
        num_threads=given.threads,
    )
    for split, packed in index["splits"].items():
        num_images = sum(shard["num_images"] for shard in packed["shards"])
        print(f"{split}: {num_images:,} images in {len(packed['shards']):,} shards")
    if index["left_out"]:
        print(f"{len(index['left_out']):,} damaged images were left out; {given.dest / INDEX} names them")
