"""ImageNet, or any tree of photographs in folders of classes, as one LightningDataModule."""

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
    """Training batches, and the validation split's centre crops.

    `splits` is ["val"]: the labels of the test images are not public, and every table of the papers but one is of
    the validation images. [v1 Sec. 4.1]
    """

    def __init__(self, data: Photographs, batching: Batching) -> None:
        super().__init__()
        self.data, self.batching = data, batching
        self.num_threads = _num_threads(data, batching)
        self.about_files = ""
        """A line for the log on files that were passed over, empty where none were."""
        self.train, self.val, self.checksum = self._find()
        self.num_train = len(self.train.labels)
        self.splits = ["val"]
        self.damage = DamagedImages(skip=self.data.skip_damaged)
        self.crop = self.data.crop
        self.mode = self.data.interpolation
        self.make_centre = partial(
            augment.centre_crop, side=_in_proportion(self.data.test_side, self.crop), size=self.crop, mode=self.mode
        )
        self.normalisation = self._measure()

    def _find(self) -> tuple[Labelled, Labelled, str]:
        """Training images, validation images, and the checksum of both."""
        root = Path(self.data.root).expanduser()
        train, val = photos.find(root, "train"), photos.find(root, "val")
        self.about_files = photos.about_hidden(train, val)
        return train, val, photos.checksum(root, train, val)

    @property
    def damaged(self) -> set[str]:
        """Paths of the images that were left out so far."""
        return self.damage.paths

    @property
    def num_evaluated(self) -> dict[str, int]:
        """Images of each split, those left out not counted."""
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
        """The centre crops of the training images in a fixed random order: of all of them, or of so many, evenly
        spaced.
        """
        source = self.source(self.train, device, self.normalisation)
        which = self._mixed(self._some(at_most))
        return EvalBatches(source, self.make_centre, batch_size=self.batching.eval_batch_size, which=which)

    def _some(self, at_most: int | None) -> Sequence[int]:
        """So many training images, as good as any: they lie class by class."""
        return range(0, self.num_train, 1 if at_most is None else -(-self.num_train // at_most))

    def _mixed(self, images: Sequence[int]) -> Sequence[int]:
        """In a random order that is the same every time: a batch of few classes has less variance than all of them."""
        return [images[position] for position in fixed_order(len(images)).tolist()]

    def source(self, found: Labelled, device: torch.device, like: Normalisation | None = None) -> Source:
        """Return images of one split, normalised as in training unless `like` says otherwise."""
        like = self.normalisation if like is None else like
        return Source(found, self.damage, like.to(device), device, self.num_threads)

    def _shared(self, found: Labelled) -> Source:
        assert self.trainer is not None
        source = self.source(found, self.trainer.strategy.root_device, self.normalisation)
        source.rank, source.world_size = self.trainer.global_rank, self.trainer.world_size
        return source

    def _measure(self) -> Normalisation:
        """The mean of each pixel, or mean and std of each channel, of `data.num_mean_images` training images.

        [open: v1 subtracts "the per-pixel mean" and cites AlexNet, whose mean is over the training set; neither says of
        which crops. Here of centre crops and their mirrors] [deviates: of evenly spaced training images, 2,000 by
        default, as all 1.28 million would take longer than an epoch's share of anything else]
        """
        nothing = Normalisation(torch.zeros(3, self.crop, self.crop), 1.0)
        source = self.source(self.train, torch.device("cpu"), nothing)
        which = self._some(self.data.num_mean_images)
        total = torch.zeros((3, self.crop, self.crop), dtype=torch.int64)  # exact, so in whatever order
        squares, num = torch.zeros(3, dtype=torch.int64), 0
        for found in EvalBatches(source, self.make_centre, batch_size=100, which=which).crops():
            for made, _ in found:
                x = made.pixels.long()
                total += x
                squares += (x * x).sum((1, 2))
                num += 1
        if not num:
            raise UserError(f"no image of {len(which):,} can be read: mend data.root")
        mean = (total + total.flip(-1)).double() / (2 * num)
        if self.data.normalise == "pixel":
            return Normalisation((mean / 255).float(), 255.0)
        by_channel = mean.mean((1, 2))
        std = (squares.double() / (num * self.crop**2) - by_channel**2).sqrt()
        scaled = (by_channel / std).float()[:, None, None]
        return Normalisation(scaled.expand(3, self.crop, self.crop), std.float()[:, None, None])


def _in_proportion(side: int, crop: int) -> int:
    """A shorter side that goes with a crop of 224, for another crop."""
    return round(side * crop / augment.CROP)


def _num_threads(data: Photographs, batching: Batching) -> int:
    """As asked, else one on a CPU, whose cores train, and beside a GPU this process's part of the cores."""
    if data.num_threads != "auto":
        return data.num_threads
    return max(1, num_cores() // batching.devices) if batching.on_gpu else 1
