"""CIFAR-10, CIFAR-100 and digits as one LightningDataModule: small enough to live on the training device."""

from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from resnet_repro.data.device_batches import ComparisonLoader, DeviceBatches, EvalBatches, normalisation
from resnet_repro.data.image_set import Images, ImageSet, fixed_order
from resnet_repro.data.options import Batching, InMemory, Photographs, Shards

if TYPE_CHECKING:
    from resnet_repro.data.imagenet import ImageNetData


MODULES = {"cifar10": "cifar", "cifar100": "cifar"}
"""The module that reads a data set, if its name is not the data set's."""


def read(data: InMemory) -> ImageSet:
    """Return the data set, which the module of its name reads and checks."""
    module = import_module(f"resnet_repro.data.{MODULES.get(data.name, data.name)}")
    images: ImageSet = module.read(data)
    return images


def split(train: Images, val_size: int) -> tuple[Images, Images | None]:
    """Return the training images without the validation images, and those `val_size` images, the same for every seed.

    [v1 Sec. 4.2: a 45k/5k split; open: which 5,000; here a fixed random choice]
    """
    if val_size == 0:
        return train, None
    order = fixed_order(len(train.y))
    val, kept = np.sort(order[:val_size]), np.sort(order[val_size:])
    return Images(train.x[kept], train.y[kept]), Images(train.x[val], train.y[val])


class InMemoryData(pl.LightningDataModule):
    """Training, validation and test batches of an in-memory image set.

    `splits` names the evaluated splits in the order of `val_dataloader()`: "val" if the options ask for a validation
    split, "test" if the official test file is there.
    """

    def __init__(self, data: InMemory, batching: Batching) -> None:
        super().__init__()
        self.data, self.batching = data, batching
        images = read(data)
        self.checksum = images.checksum
        self.train, val = split(images.train, data.val_size)
        self.evaluated = {name: i for name, i in (("val", val), ("test", images.test)) if i is not None}
        self.splits = list(self.evaluated)
        self.num_train = len(self.train.y)
        self.damaged: set[str] = set()  # a damaged file fails its checksum
        self.about_files = ""  # other files are never looked at
        self.num_evaluated = {name: len(i.y) for name, i in self.evaluated.items()}
        self.normalisation = normalisation(self.train.x, data.normalise)

    def train_dataloader(self) -> DeviceBatches | ComparisonLoader:
        assert self.trainer is not None
        on_device = self.data.loader == "device"
        device = self.trainer.strategy.root_device if on_device else torch.device("cpu")
        batches = DeviceBatches(
            *self._tensors(self.train, device),
            **self.normalisation.to(device)._asdict(),
            batch_size=self.batching.batch_size,
            pad=self.data.pad,
            flip=self.data.flip,
            seed=self.batching.seed,
            num_steps=self.batching.num_steps,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            steps_at_once=self.batching.steps_at_once,
        )
        return batches if on_device else ComparisonLoader(batches, num_workers=self.data.num_workers)

    def val_dataloader(self) -> list[EvalBatches]:
        assert self.trainer is not None
        shares = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        return self.evaluation(self.trainer.strategy.root_device, **shares)

    def evaluation(self, device: torch.device, *, rank: int = 0, world_size: int = 1) -> list[EvalBatches]:
        """Return a rank's share of every evaluated split, in the order of `splits`."""
        return [
            EvalBatches(
                *self._tensors(images, device),
                **self.normalisation.to(device)._asdict(),
                batch_size=self.batching.eval_batch_size,
                rank=rank,
                world_size=world_size,
            )
            for images in self.evaluated.values()
        ]

    def unaugmented(self, device: torch.device, *, at_most: int | None = None) -> EvalBatches:
        """Return the training images as they are, in a fixed random order: all, or `at_most` of them, evenly spaced."""
        every = 1 if at_most is None else -(-len(self.train.y) // at_most)
        which = np.arange(0, len(self.train.y), every)
        which = which[fixed_order(len(which))]
        x, y = self._tensors(Images(self.train.x[which], self.train.y[which]), device)
        like = self.normalisation.to(device)._asdict()
        return EvalBatches(x, y, **like, batch_size=self.batching.eval_batch_size)

    @staticmethod
    def _tensors(images: Images, device: torch.device) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(images.x).to(device), torch.from_numpy(images.y).to(device)


def open_data(data: InMemory | Photographs | Shards, batching: Batching) -> "InMemoryData | ImageNetData":
    """Return the data of a run.

    Raises:
        UserError: if the data is missing or incomplete.
    """
    if isinstance(data, InMemory):
        return InMemoryData(data, batching)
    if isinstance(data, Shards):
        from resnet_repro.data.shard_batches import StreamedImageNetData

        return StreamedImageNetData(data, batching)
    from resnet_repro.data.imagenet import ImageNetData  # not above: the import delays the start of every job

    return ImageNetData(data, batching)
