"""`python -m resnet_repro pack SRC DEST`: a tree of photographs as shards, for `data=imagenet_streaming`."""

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

SHARD_MB = 64  # some 600 of ImageNet's images: many to a request, few to the cache
GROUP = 128  # images that are read while those before are written
ABOUT = """
SRC is what data=imagenet reads: train/CLASS/* and val/CLASS/*, or ILSVRC2012's archives, which are unpacked there.
The image files go into the shards as they are, once each was decoded to see that it can be, in a random order that is
the same every time: training shuffles shards, and among a few of them. DEST is then a data.root of
data=imagenet_streaming, as is the bucket that it is copied to:

  python -m resnet_repro pack data/imagenet data/imagenet_shards
  aws s3 sync data/imagenet_shards s3://bucket/imagenet
  python train.py data=imagenet_streaming data.root=s3://bucket/imagenet depth=50
"""


def pack(src: Path, dest: Path, *, shard_mb: float, skip_damaged: bool, num_threads: int) -> dict[str, Any]:
    """Write the shards of both splits, and last `shards.json`, without which nobody takes `dest` for complete.

    The same images make the same files, but for LitData's own `index.json`, which has the time in it.

    Returns:
        What is in `shards.json`.

    Raises:
        UserError: `src` is no tree of photographs, `dest` is not empty, an image is damaged, LitData is not there.
    """
    _litdata()
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise UserError(f"{dest} is not empty: remove it, or give a folder that is not there yet")
    try:
        photos.unpack(src)
        found: dict[Split, Photos] = {"train": photos.find(src, "train"), "val": photos.find(src, "val")}
    except UserError as error:
        raise UserError(str(error).removeprefix("data.root=")) from None
    if about_hidden := photos.about_hidden(*found.values()):
        print(about_hidden, file=sys.stderr, flush=True)
    left_out: list[str] = []
    splits = {}
    for split, images in found.items():
        contents = _contents(images, skip_damaged=skip_damaged, num_threads=num_threads)
        splits[split] = _write(split, images, contents, src, dest, shard_mb=shard_mb, left_out=left_out)
    index = {"format": FORMAT, "classes": found["train"].classes, "splits": splits, "left_out": left_out}
    part = dest / f"{INDEX}.part"
    part.write_text(json.dumps(index, indent=1), encoding="utf-8")
    part.replace(dest / INDEX)
    return index


Content = tuple[int, bytes | None]
"""Number of an image and its file's bytes, None where it is damaged."""


def _contents(images: Photos, *, skip_damaged: bool, num_threads: int) -> Iterator[Content]:
    """Every image's, in a random order: lying class by class, they would need to be shuffled all at once to mix."""
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
    """A split's shards and labels; what `shards.json` tells of them."""
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
    told = json.loads((folder / "index.json").read_text(encoding="utf-8"))["chunks"]
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
            for chunk in told
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
    """Pack what the command line names."""
    parser = argparse.ArgumentParser(
        "python -m resnet_repro pack", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("src", metavar="SRC", type=Path, help="folder of the photographs")
    parser.add_argument("dest", metavar="DEST", type=Path, help="folder of the shards, empty or not there yet")
    parser.add_argument(
        "--skip-damaged", action="store_true", help="leave out images that cannot be read, and name them"
    )
    parser.add_argument("--shard-mb", type=float, default=SHARD_MB, help="MB a shard (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=num_cores(), help="that decode (default: one a core)")
    given = parser.parse_args(arguments)
    if given.shard_mb <= 0 or given.threads < 1:
        raise UserError("--shard-mb and --threads are above 0: give numbers that are, or leave them out")
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
