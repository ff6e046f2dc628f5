"""Packed photographs as `resnet_repro.data.pack` writes them: shards, files of some hundred images. Imports no torch.

A shard has LitData's format: uint32 n, uint32 [n + 1] offsets, then n items. An item is the size of each field as
uint32, then the fields: the image file's bytes, its label, its name. `litdata.StreamingDataset` reads shards, too, but
in an order that follows from the numbers of ranks and worker processes; ours follows from the step alone.
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
from typing import IO, TYPE_CHECKING, NamedTuple

from resnet_repro.data.bucket import Bucket, Folder, Storage, damaged, open_storage
from resnet_repro.data.photos import Counts, Split
from resnet_repro.errors import UserError

if TYPE_CHECKING:
    import numpy as np

INDEX = "shards.json"
FORMAT = 1
NUM_FETCHERS = 4  # shards copied at a time
MAX_OPEN = 128  # files of a folder kept open


class Shard(NamedTuple):
    """One file of images."""

    name: str
    """Path below the root."""
    num_images: int
    num_bytes: int
    sha256: str


class Packed(NamedTuple):
    """The files of one split."""

    labels: str
    """Path of the labels below the root: a NumPy array int64 [n]."""
    labels_sha256: str
    shards: tuple[Shard, ...]

    @property
    def num_images(self) -> int:
        return sum(shard.num_images for shard in self.shards)


class Index(NamedTuple):
    """The content of `shards.json`."""

    classes: list[str]
    splits: dict[Split, Packed]
    left_out: list[str]
    """Damaged images, which were not packed."""
    checksum: str
    """SHA-256 of the file, which holds the checksums of all shards and labels."""

    def labels(self, storage: Storage, split: Split) -> "np.ndarray":
        """Return the labels of a split, int64 [n], positions in `classes`.

        Raises:
            UserError: if the labels are missing, or not those that were packed.
        """
        import numpy as np  # reading the index, for the command line, needs none

        packed = self.splits[split]
        content = storage.read(packed.labels)
        if hashlib.sha256(content).hexdigest() != packed.labels_sha256:
            raise damaged(storage, packed.labels)
        return np.load(io.BytesIO(content), allow_pickle=False)


def read_index(storage: Storage) -> Index:
    """Return the index of packed photographs.

    Raises:
        UserError: if the index is missing, damaged, of another format, or out of reach.
    """
    content = storage.read(INDEX)
    try:
        index = json.loads(content)
        splits: dict[Split, Packed] = {}
        for split in ("train", "val"):
            packed = index["splits"][split]
            shards = tuple(Shard(**shard) for shard in packed["shards"])
            splits[split] = Packed(packed["labels"], packed["labels_sha256"], shards)
        if index["format"] == FORMAT:
            return Index(index["classes"], splits, index["left_out"], hashlib.sha256(content).hexdigest())
    except (ValueError, KeyError, TypeError):
        raise damaged(storage, INDEX) from None
    raise UserError(f"{storage}/{INDEX} is of format {index['format']}, and this code reads {FORMAT}: pack again")


@cache
def count(root: str) -> Counts:
    """Return the numbers of classes and images, from `shards.json` alone. In a folder, check the shards' sizes, too.

    Raises:
        UserError: as `read_index`; if a shard of a folder is missing or of another size.
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
    """Return the numbers of `count`; None if a folder has no index. A missing bucket is refused."""
    storage = open_storage(root)
    return None if isinstance(storage, Folder) and not (storage.root / INDEX).is_file() else count(root)


class OpenShard:
    """A shard that several threads can read at a time; closed once nothing refers to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        number = int(self._numbers(0, 1)[0])
        self.offsets = self._numbers(4, number + 1)

    def _numbers(self, at: int, number: int) -> "np.ndarray":
        import numpy as np

        return np.frombuffer(os.pread(self.file.fileno(), 4 * number, at), np.uint32).astype(np.int64)

    def image(self, position: int) -> bytes:
        """Return the bytes of the image file at a position of the shard."""
        begin, end = self.offsets[position : position + 2].tolist()
        item = os.pread(self.file.fileno(), end - begin, begin)
        return item[12 : 12 + int.from_bytes(item[:4], "little")]  # three sizes, then the first field

    def __del__(self) -> None:
        self.file.close()


class ShardCache:
    """The shards that can be read now: open files of a folder, or a few copies of a bucket's shards.

    Copies are files without a name, which the system removes with the process, however that ends. At most `cache_gb`
    of copies lie on the disk; the least recently used copy makes room for a new one.

    Args:
        folder: where copies lie; None: the system's folder of temporary files.
        num_threads: how many threads read at a time.
        num_needed: how many shards a run needs at a time, so as to copy none twice in an epoch.

    Raises:
        UserError: if `cache_gb` does not hold `num_needed` shards of a bucket.
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
            in_passing = NUM_FETCHERS + num_threads  # being copied, or dropped while a thread still reads them
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
        """Return shard `number`, once it can be read.

        Raises:
            UserError: as `Bucket.fetch`; if no copy can be written.
        """
        with self._lock:
            future = self._begin(number)
        return future.result()

    def expect(self, numbers: Iterable[int]) -> None:
        """Begin to copy shards that are needed soon, the soonest first.

        Begin no more than can be copied at a time: a run could not end before the copies that wait in a queue.
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
