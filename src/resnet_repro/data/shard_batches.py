"""ImageNet from shards in a folder or a bucket: a machine needs no more disk than a cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Int

from resnet_repro.data.bucket import PATIENCE, open_storage
from resnet_repro.data.imagenet import ImageNetData
from resnet_repro.data.options import Batching, Shards
from resnet_repro.data.photo_batches import Labelled, Source
from resnet_repro.data.shards import Shard, ShardCache, read_index


class PackedFile(NamedTuple):
    """An image in a shard."""

    shards: ShardCache
    shard: int
    position: int

    def __str__(self) -> str:
        return f"{self.shards.storage}/{self.shards.shards[self.shard].name}[{self.position}]"

    def read_bytes(self) -> bytes:
        return self.shards[self.shard].image(self.position)


class PackedFiles(Sequence[PackedFile]):
    """The images of shards `first`, `first + 1`, ..., in order."""

    def __init__(self, shards: ShardCache, *, first: int, num_images: list[int]) -> None:
        self.shards, self.first = shards, first
        self.begins = np.cumsum([0, *num_images])
        """int64 [n + 1], the first image of each shard, and the number of all images."""

    def __len__(self) -> int:
        return int(self.begins[-1])

    @overload
    def __getitem__(self, index: int) -> PackedFile: ...
    @overload
    def __getitem__(self, index: slice) -> list[PackedFile]: ...
    def __getitem__(self, index: int | slice) -> PackedFile | list[PackedFile]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]  # IndexError if there is no such image
        (number,) = self.of(np.array([index])).tolist()
        return PackedFile(self.shards, self.first + number, index - int(self.begins[number]))

    def of(self, images: np.ndarray) -> Int[np.ndarray, " n"]:
        """Return which of these shards, counted from 0, each image is in."""
        return self.begins.searchsorted(images, side="right") - 1


class PackedPhotos(NamedTuple):
    """The images of one split, in the random order in which they were packed."""

    paths: PackedFiles
    labels: np.ndarray


@dataclass
class StreamedSource(Source):
    """Packed photographs. Ranks read different parts of an epoch's shards; two share at most the shard between them."""

    window: int = 1
    """Images shuffled together, `data.shuffle`."""

    def epoch(self, number: int, *, seed: int, batch_size: int) -> Int[np.ndarray, "steps share"]:
        """Return this rank's images in each step of an epoch, a function of (seed, epoch, rank, number of ranks).

        An interruption changes none of these: a run keeps its number of ranks. All ranks together see each image once,
        and images that fill no batch sit the epoch out.

        In each epoch, the shards come in a random order, and the images of each shard in another. Each rank takes its
        part of that, and shuffles every `window` images of its part. So a rank needs the shards of two windows at a
        time, and copies each shard once an epoch.
        """
        files = self.photos.paths
        assert isinstance(files, PackedFiles)
        everyone = _rng(seed, number)
        shards = everyone.permutation(len(files.begins) - 1).tolist()
        order = np.concatenate([everyone.permutation(np.arange(*files.begins[n : n + 2])) for n in shards])
        steps, share = len(order) // batch_size, batch_size // self.world_size
        mine = order[self.rank * steps * share :][: steps * share]
        own = _rng(seed, number, self.rank)
        windows = [own.permutation(mine[begin : begin + self.window]) for begin in range(0, len(mine), self.window)]
        return np.concatenate(windows).reshape(steps, share)

    def part(self, images: Sequence[int]) -> Sequence[int]:
        """Return this rank's share: images that lie together, so that a rank reads few shards."""
        begin, end = (len(images) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return images[begin:end]

    def expect(self, images: Sequence[int] | np.ndarray) -> None:
        files = self.photos.paths
        assert isinstance(files, PackedFiles)
        soon = images.flat[: self.window] if isinstance(images, np.ndarray) else images[: self.window]
        which = files.of(np.asarray(soon))
        numbers, first = np.unique(which, return_index=True)
        files.shards.expect((files.first + numbers[first.argsort()]).tolist())


class StreamedImageNetData(ImageNetData):
    """`ImageNetData` from the shards of `python -m resnet_repro pack`."""

    data: Shards

    def __init__(self, data: Shards, batching: Batching) -> None:
        super().__init__(data, batching)

    def _find(self) -> tuple[Labelled, Labelled, str]:
        storage = open_storage(self.data.root, patience=PATIENCE)
        index = read_index(storage)
        splits = [index.splits["train"], index.splits["val"]]
        shards = [shard for packed in splits for shard in packed.shards]
        cache = ShardCache(
            storage,
            shards,
            cache_gb=self.data.cache_gb,
            folder=self.data.cache_dir,
            num_threads=self.num_threads,
            num_needed=_num_needed(splits[0].shards, window=self.data.shuffle),
        )
        photos, first = [], 0
        for split, packed in index.splits.items():
            files = PackedFiles(cache, first=first, num_images=[shard.num_images for shard in packed.shards])
            photos.append(PackedPhotos(files, index.labels(storage, split)))
            first += len(packed.shards)
        return photos[0], photos[1], index.checksum

    def _some(self, at_most: int | None) -> Sequence[int]:
        """Return the first images, which are packed in random order: few shards have to be copied for them."""
        return range(self.num_train)[:at_most]

    def _mixed(self, images: Sequence[int]) -> Sequence[int]:
        """Return the images as they are: they are packed in a fixed random order."""
        return images

    def source(self, photos: Labelled, device: torch.device) -> Source:
        like, window = self.normalisation.to(device), self.data.shuffle
        return StreamedSource(photos, self.damage, like, device, self.num_threads, window=window)


def _num_needed(shards: Sequence[Shard], *, window: int) -> int:
    """Return how many shards a rank needs at a time so as to copy none twice in an epoch: those of two windows."""
    fewest = sorted(shard.num_images for shard in shards)
    across = int(np.searchsorted(np.cumsum(fewest), window)) + 2  # at worst the smallest shards, and parts at both ends
    return min(2 * across, len(shards))


def _rng(seed: int, epoch: int, *rank: int) -> np.random.Generator:
    """Return a generator whose stream is no sample's; each rank has its own, and all ranks share one."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch], spawn_key=(2, *rank))))
