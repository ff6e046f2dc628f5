"""Packed photographs as `resnet_repro.data.pack` leaves them: images by the hundred in a file, a shard, of LitData's.

A shard is LitData's own: uint32 n, uint32 [n + 1] offsets, then the items; an item is a uint32 a field, its size, then
the fields: the image file's bytes, its label, its name. `litdata.StreamingDataset` reads them, too. It is not what
reads them here, as its order follows from the numbers of ranks and worker processes, and ours from the step alone.

Importing this, and counting, load no torch.
"""

import hashlib
import io
import json
import os
import resource
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import IO, NamedTuple

import numpy as np

from resnet_repro.data.bucket import Bucket, Folder, Storage, damaged, open_storage
from resnet_repro.data.photos import Counts, Split
from resnet_repro.errors import UserError

INDEX = "shards.json"
FORMAT = 1
NUM_FETCHERS = 4  # shards that are copied at a time
MAX_OPEN = 128  # files of a folder that are kept open


class Shard(NamedTuple):
    """One file of images."""

    name: str
    """Below the root."""
    num_images: int
    num_bytes: int
    sha256: str


class Packed(NamedTuple):
    """One split."""

    labels: str
    """Name of the file with the labels, a NumPy array int64 [n]."""
    labels_sha256: str
    shards: tuple[Shard, ...]

    @property
    def num_images(self) -> int:
        return sum(shard.num_images for shard in self.shards)


class Index(NamedTuple):
    """What `shards.json` tells."""

    classes: list[str]
    splits: dict[Split, Packed]
    left_out: list[str]
    """Images that were damaged and not packed."""
    checksum: str
    """SHA-256 of the file, and so, as it holds theirs, of all images."""

    def labels(self, storage: Storage, split: Split) -> np.ndarray:
        """int64 [n], positions in `classes`."""
        packed = self.splits[split]
        content = storage.read(packed.labels)
        if hashlib.sha256(content).hexdigest() != packed.labels_sha256:
            raise damaged(storage, packed.labels)
        return np.load(io.BytesIO(content), allow_pickle=False)


def read_index(storage: Storage) -> Index:
    """What there is.

    Raises:
        UserError: nothing, nothing that was packed, or not to be reached.
    """
    content = storage.read(INDEX)
    try:
        told = json.loads(content)
        splits: dict[Split, Packed] = {
            split: Packed(
                told["splits"][split]["labels"],
                told["splits"][split]["labels_sha256"],
                tuple(Shard(**shard) for shard in told["splits"][split]["shards"]),
            )
            for split in ("train", "val")
        }
        if told["format"] == FORMAT:
            return Index(told["classes"], splits, told["left_out"], hashlib.sha256(content).hexdigest())
    except (ValueError, KeyError, TypeError):
        raise damaged(storage, INDEX) from None
    raise UserError(f"{storage}/{INDEX} is of format {told['format']}, and this code reads {FORMAT}: pack again")


@cache
def count(root: str) -> Counts:
    """The numbers of classes and images, from `shards.json` alone; of a folder its files are looked at, too.

    Raises:
        UserError: as `read_index`; a shard that is not there, or not whole.
    """
    storage = open_storage(root)
    index = read_index(storage)
    if not isinstance(storage, Bucket):
        for shard in (shard for packed in index.splits.values() for shard in packed.shards):
            with storage.open(shard.name) as file:
                if os.fstat(file.fileno()).st_size != shard.num_bytes:
                    raise damaged(storage, shard.name)
    return Counts(len(index.classes), index.splits["train"].num_images, index.splits["val"].num_images)


def count_there(root: str) -> Counts | None:
    """As `count`; None where a folder is not there. A bucket is asked in any case."""
    storage = open_storage(root)
    return None if isinstance(storage, Folder) and not (storage.root / INDEX).is_file() else count(root)


class OpenShard:
    """A shard that can be read, by several threads at a time; closed when nobody has it any more."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        number = int(self._numbers(0, 1)[0])
        self.offsets = self._numbers(4, number + 1)

    def _numbers(self, at: int, number: int) -> np.ndarray:
        return np.frombuffer(os.pread(self.file.fileno(), 4 * number, at), np.uint32).astype(np.int64)

    def image(self, position: int) -> bytes:
        """The image file that was packed there."""
        begin, end = self.offsets[position : position + 2].tolist()
        item = os.pread(self.file.fileno(), end - begin, begin)
        return item[12 : 12 + int.from_bytes(item[:4], "little")]  # three sizes, then the first field

    def __del__(self) -> None:
        self.file.close()


class ShardCache:
    """The shards that can be read now: open files of a folder, or copies of a bucket's, of which few are kept.

    Copies are files without a name in `folder`, by default the system's for such. It takes them back with the process,
    however that ends. At most `cache_gb` of them lie on the disk; the one that has waited longest to be asked for makes
    room.

    Raises:
        UserError: from the constructor, where `cache_gb` does not hold two windows: every image would be copied again
            and again. From the rest, see `Bucket.fetch`.
    """

    def __init__(
        self,
        storage: Storage,
        shards: Sequence[Shard],
        *,
        cache_gb: float,
        folder: str | None,
        num_threads: int,
        num_needed: int,
    ) -> None:
        self.storage, self.shards, self.folder = storage, shards, folder
        self.num_kept = MAX_OPEN
        if isinstance(storage, Bucket):
            largest = max(shard.num_bytes for shard in shards)
            in_passing = NUM_FETCHERS + num_threads  # under way, or given up while a thread reads in them
            self.num_kept = int(cache_gb * 1e9 / largest) - in_passing
            if self.num_kept < num_needed:
                enough = 1.1 * (num_needed + in_passing) * largest / 1e9  # still enough when rounded
                raise UserError(
                    f"data.cache_gb={cache_gb:g} holds too few of {storage}'s shards for data.shuffle: give at least "
                    f"{enough:.2g}, or shuffle fewer images at a time"
                )
        max_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # 256 under macOS
        if max_files != resource.RLIM_INFINITY:
            self.num_kept = max(1, min(self.num_kept, max_files // 2))
        self.num_fetched = 0
        """Copies made so far."""
        self._kept: OrderedDict[int, Future[OpenShard]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(NUM_FETCHERS, thread_name_prefix="fetch")

    def __getitem__(self, number: int) -> OpenShard:
        """Shard `number`, once it is at hand."""
        with self._lock:
            future = self._begin(number)
        return future.result()

    def expect(self, numbers: Iterable[int]) -> None:
        """Begin to copy those that are needed soon, the soonest first.

        No more than can be under way: what waited in a queue would have to be copied before a run can end.
        """
        soon = [*numbers][: self.num_kept]
        with self._lock:
            for number in reversed([number for number in soon if number in self._kept]):
                self._kept.move_to_end(number)
            idle = NUM_FETCHERS - sum(not future.done() for future in self._kept.values())
            for number in [number for number in soon if number not in self._kept][: max(idle, 0)]:
                self._begin(number)

    def _begin(self, number: int) -> Future[OpenShard]:
        if number not in self._kept:
            while len(self._kept) >= self.num_kept:
                self._kept.popitem(last=False)
            self._kept[number] = self._pool.submit(self._open, self.shards[number])
        self._kept.move_to_end(number)
        return self._kept[number]

    def _open(self, shard: Shard) -> OpenShard:
        if not isinstance(self.storage, Bucket):
            return OpenShard(self.storage.open(shard.name))
        try:
            file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - OpenShard closes it
            self.storage.fetch(shard.name, file, sha256=shard.sha256)
        except OSError as error:
            raise UserError(
                f"no copy of {self.storage}/{shard.name} can be kept in {self.folder or tempfile.gettempdir()} "
                f"({error.strerror}): free some space, or give another data.cache_dir"
            ) from None
        with self._lock:
            self.num_fetched += 1
        return OpenShard(file)
