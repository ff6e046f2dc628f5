"""Photographs packed into shards of a few images, and batches and runs from them."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from resnet_repro.data import augment
from resnet_repro.data.bucket import open_storage
from resnet_repro.data.device_batches import Normalisation
from resnet_repro.data.pack import pack
from resnet_repro.data.photo_batches import DamagedImages, TrainBatches
from resnet_repro.data.shard_batches import PackedFiles, PackedPhotos, StreamedSource
from resnet_repro.data.shards import ShardCache, read_index
from resnet_repro.launch.checks import claim
from resnet_repro.runs.job import make_job
from tests.helpers.photo_runs import SMALL
from tests.helpers.runs import composed

NUM = 22  # images, in a dozen shards
STREAMED = ("data=imagenet_streaming", *SMALL[1:], "data.shuffle=8")
CPU = torch.device("cpu")


def packed(
    src: Path, dest: Path, *, skip_damaged: bool = False, shard_mb: float = 0.0025, num_threads: int = 2
) -> Path:
    """Pack photographs, by default into shards of a few images each, and return their folder."""
    pack(src, dest, shard_mb=shard_mb, skip_damaged=skip_damaged, num_threads=num_threads)
    return dest


def prepared(outputs: Path, root: Path | str, *overrides: str) -> Path:
    """Return a run folder as the sweep leaves it to the job's process."""
    config = composed(*STREAMED, f"data.root={root}", *overrides, f"outputs={outputs}")
    job = make_job(config, usual=composed("data=imagenet_streaming"))
    claim(job, group="test", command="python train.py")
    return job.dir


def source(
    root: Path | str, *, window: int = 8, rank: int = 0, world_size: int = 1, cache_gb: float = 1
) -> StreamedSource:
    """Return the training images, each labelled by its number."""
    storage = open_storage(str(root))
    shards = read_index(storage).splits["train"].shards
    cache = ShardCache(storage, shards, cache_gb=cache_gb, folder=None, num_threads=1, num_needed=1)
    files = PackedFiles(cache, first=0, num_images=[shard.num_images for shard in shards])
    like = Normalisation(torch.zeros(3, 16, 16), 255.0)
    numbered = PackedPhotos(files, np.arange(len(files)))
    return StreamedSource(numbered, DamagedImages(False), like, CPU, 1, rank, world_size, window=window)


def files_of(photos: StreamedSource) -> PackedFiles:
    """Return the image files of a source."""
    assert isinstance(photos.photos.paths, PackedFiles)
    return photos.photos.paths


def batches(photos: StreamedSource, *, seed: int = 3, num_steps: int = 12, batch_size: int = 4) -> TrainBatches:
    """Return 16 x 16 training batches of a source."""
    augmentation = augment.Augmentation(partial(augment.scale_box, shorter_side=(256, 480)), 16, flip=True)
    return TrainBatches(photos, augmentation, batch_size=batch_size, seed=seed, num_steps=num_steps, colour=0.1)
