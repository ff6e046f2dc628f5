"""ImageNet, or any tree of photographs in class folders, as one LightningDataModule."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch

from resnet_repro.data import augment, photos
from resnet_repro.data.device_batches import Normalisation
from resnet_repro.data.image_set import fixed_order
from resnet_repro.data.options import Batching, Photographs
from resnet_repro.data.photo_batches import DamagedImages, EvalBatches, Labelled, Source, TrainBatches
from resnet_repro.errors import UserError, printable
from resnet_repro.machine import num_cores


class ImageNetData(pl.LightningDataModule):
    """Training batches, and centre crops of the validation images.

    `splits` is ["val"]: the labels of the test images are not public, and all of the papers' tables but one are of the
    validation images. [v1 Sec. 4.1]
    """

    def __init__(self, data: Photographs, batching: Batching) -> None:
        super().__init__()
        self.data, self.batching = data, batching
        self.num_threads = _num_threads(data, batching)
        self.about_files = ""
        """A line for the log about files that were passed over; empty if there are none."""
        self.train, self.val, self.checksum = self._find()
        self.num_train = len(self.train.labels)
        self.splits = ["val"]
        self.damage = DamagedImages(skip=data.skip_damaged)
        self.crop, self.mode = data.crop, data.interpolation
        side = round(data.test_side * self.crop / augment.CROP)
        self.make_centre = partial(augment.centre_crop, side=side, size=self.crop, mode=self.mode)
        self.normalisation = Normalisation(torch.zeros(3, self.crop, self.crop), 1.0)  # until it is measured
        self.normalisation = self._measure()

    def _find(self) -> tuple[Labelled, Labelled, str]:
        """Return training images, validation images, and the checksum of both."""
        root = Path(self.data.root).expanduser()
        train, val = photos.find(root, "train"), photos.find(root, "val")
        self.about_files = photos.about_hidden(train, val)
        return train, val, photos.checksum(root, train, val)

    @property
    def damaged(self) -> set[str]:
        """Paths of the damaged images left out so far."""
        return self.damage.paths

    @property
    def num_evaluated(self) -> dict[str, int]:
        """The number of images of each split, without those left out."""
        return {"val": sum(printable(path) not in self.damaged for path in self.val.paths)}

    def train_dataloader(self) -> TrainBatches:
        return TrainBatches(
            self._shared(self.train),
            augment.Augmentation(augment.chooser(self.data), self.crop, self.data.flip, self.mode),
            batch_size=self.batching.batch_size,
            seed=self.batching.seed,
            num_steps=self.batching.num_steps,
            colour=self.data.colour,
            jitter=self.data.jitter,
        )

    def val_dataloader(self) -> list[EvalBatches]:
        return [EvalBatches(self._shared(self.val), self.make_centre, batch_size=self.batching.eval_batch_size)]

    def unaugmented(self, device: torch.device, *, at_most: int | None = None) -> EvalBatches:
        """Return centre crops of training images in a fixed random order: of all, or of `at_most`, evenly spaced."""
        source = self.source(self.train, device)
        which = self._mixed(self._some(at_most))
        return EvalBatches(source, self.make_centre, batch_size=self.batching.eval_batch_size, which=which)

    def _some(self, at_most: int | None) -> Sequence[int]:
        """Return the numbers of at most so many training images, evenly spaced: the images lie class by class."""
        return range(0, self.num_train, 1 if at_most is None else -(-self.num_train // at_most))

    def _mixed(self, images: Sequence[int]) -> Sequence[int]:
        """Return images in a fixed random order: a batch of few classes has less variance than all images have."""
        return [images[position] for position in fixed_order(len(images)).tolist()]

    def source(self, photos: Labelled, device: torch.device) -> Source:
        """Return images of one split, normalised as in training."""
        return Source(photos, self.damage, self.normalisation.to(device), device, self.num_threads)

    def _shared(self, photos: Labelled) -> Source:
        """Return this rank's share of images of one split."""
        assert self.trainer is not None
        source = self.source(photos, self.trainer.strategy.root_device)
        source.rank, source.world_size = self.trainer.global_rank, self.trainer.world_size
        return source

    def _measure(self) -> Normalisation:
        """Return the mean of each pixel, or mean and std of each channel, of `data.num_mean_images` training images.

        [open: v1 subtracts "the per-pixel mean" and cites AlexNet, whose mean is over the training set; neither says of
        which crops. Here: of centre crops and their mirrors] [deviates: of evenly spaced training images, 2,000 by
        default; all 1.28 million would take longer than an epoch's share of anything else]
        """
        source = self.source(self.train, torch.device("cpu"))
        which = self._some(self.data.num_mean_images)
        total = torch.zeros((3, self.crop, self.crop), dtype=torch.int64)  # exact in any order
        squares, num = torch.zeros(3, dtype=torch.int64), 0
        for samples in EvalBatches(source, self.make_centre, batch_size=100, which=which).crops():
            for crop, _ in samples:
                x = crop.pixels.long()
                total += x
                squares += (x * x).sum((1, 2))
                num += 1
        if not num:
            raise UserError(f"none of {len(which):,} images can be read: fix data.root")
        mean = (total + total.flip(-1)).double() / (2 * num)
        if self.data.normalise == "pixel":
            return Normalisation((mean / 255).float(), 255.0)
        by_channel = mean.mean((1, 2))
        std = (squares.double() / (num * self.crop**2) - by_channel**2).sqrt()
        scaled = (by_channel / std).float()[:, None, None]
        return Normalisation(scaled.expand(3, self.crop, self.crop), std.float()[:, None, None])


def _num_threads(data: Photographs, batching: Batching) -> int:
    """Return `data.num_threads`; for `auto`, one on a CPU, whose cores train, and beside a GPU a share of the cores."""
    if data.num_threads != "auto":
        return data.num_threads
    return max(1, num_cores() // batching.devices) if batching.on_gpu else 1
