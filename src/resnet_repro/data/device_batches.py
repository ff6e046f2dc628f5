"""Batches of images that live on the training device as uint8 and are augmented there, a batch at a time."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler


class EpochDraw(NamedTuple):
    """Every random choice of one epoch, a function of (seed, epoch) alone."""

    which: Int[Tensor, "steps batch"]
    top: Int[Tensor, "steps batch"]
    left: Int[Tensor, "steps batch"]
    mirrored: Int[Tensor, "steps batch"]


def draw_epoch(epoch: int, *, seed: int, num_images: int, batch_size: int, pad: int, flip: bool) -> EpochDraw:
    """Return the order, crop corners (0 ... 2 pad) and flips of an epoch's full batches.

    Images that do not fill a last batch sit the epoch out; the next epoch's order leaves out other images.
    [open: the papers do not say what they do with them]
    """
    steps = num_images // batch_size
    entropy = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(entropy) >> 1)
    shape = (steps, batch_size)
    order = torch.randperm(num_images, generator=generator)[: steps * batch_size].view(shape)
    top, left = torch.randint(0, 2 * pad + 1, (2, *shape), generator=generator)
    mirrored = torch.randint(0, 2, shape, generator=generator) if flip else torch.zeros(shape, dtype=torch.int64)
    return EpochDraw(order, top, left, mirrored)


class Normalisation(NamedTuple):
    """How pixels 0..255 become the network's input: x / scale - mean."""

    mean: Float[Tensor, "c size size"]
    scale: Float[Tensor, "c 1 1"] | float

    def to(self, device: torch.device) -> "Normalisation":
        scale = self.scale if isinstance(self.scale, float) else self.scale.to(device)
        return Normalisation(self.mean.to(device), scale)


def normalisation(images: UInt8[np.ndarray, "n c size size"], by: str) -> Normalisation:
    """Return what normalises training images.

    Args:
        by: `pixel`: 0 to 1, less the mean of each pixel [v1 Sec. 4.2]; `channel`: mean 0 and std 1 in each channel.
    """
    if by == "pixel":
        return Normalisation(torch.from_numpy(images.mean(0, dtype=np.float64) / 255).float(), 255.0)
    values = np.arange(256)
    counts = np.stack([np.bincount(images[:, c].ravel(), minlength=256) for c in range(images.shape[1])])
    share = counts / counts.sum(1, keepdims=True)  # of each value, [c, 256]: exact, without a float copy of the images
    mean = share @ values
    std = np.sqrt(share @ values**2 - mean**2)
    by_channel = torch.from_numpy(np.stack([mean / std, std])).float()[..., None, None]
    return Normalisation(by_channel[0].expand(images.shape[1:]), by_channel[1])


def crop(padded: Tensor, size: int, which: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Return windows [batch, c, size, size] of images [n, c, size + 2 pad, size + 2 pad], gathered in one kernel."""
    return padded.unfold(2, size, 1).unfold(3, size, 1)[which, :, top, left]


class DeviceBatches:
    """An endless training set: yields batch `step`, `step + 1`, ... of a run, whatever epoch they fall in.

    Batch k of a run is a function of (seed, k), so a resumed run sees the batches of an uninterrupted run. Images are
    normalised, padded with zeros and cropped at random, and half of them are mirrored. [v1 Sec. 4.2]
    [open: whether zeros are padded before or after the mean is subtracted: after]
    [open: the scale of the pixels: 0 to 1; the batch norm after the first convolution cancels it]

    With `steps_at_once`, yields only the random choices, int64 [steps_at_once, 4, batch]; the steps then make each
    `batch` themselves.
    """

    def __init__(
        self,
        images: UInt8[Tensor, "n c size size"],
        labels: Int[Tensor, " n"],
        *,
        mean: Float[Tensor, "c size size"],
        scale: Float[Tensor, "c 1 1"] | float,
        batch_size: int,
        pad: int,
        flip: bool,
        seed: int,
        num_steps: int,
        rank: int = 0,
        world_size: int = 1,
        steps_at_once: int | None = None,
    ) -> None:
        assert batch_size % world_size == 0
        assert num_steps % (steps_at_once or 1) == 0
        self.size = images.shape[-1]
        self.images = F.pad(images, (pad,) * 4)
        self.mean, self.scale = F.pad(mean, (pad,) * 4)[None], scale
        self.labels = labels
        self.draw_args: dict[str, Any] = {
            "seed": seed,
            "num_images": len(images),
            "batch_size": batch_size,
            "pad": pad,
            "flip": flip,
        }
        self.steps_per_epoch = len(images) // batch_size
        share = batch_size // world_size
        self.share = slice(rank * share, (rank + 1) * share)  # of every global batch
        self.num_steps = num_steps
        self.steps_at_once = steps_at_once
        self.step = 0

    def __len__(self) -> int:
        return self.num_steps // (self.steps_at_once or 1)

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor] | Tensor]:
        steps = self.choices()
        while group := [*islice(steps, self.steps_at_once or 1)]:
            self.step += len(group)
            yield torch.stack(group) if self.steps_at_once else self.batch(*group[0])

    def choices(self) -> Iterator[Int[Tensor, "4 batch"]]:
        """Yield the choices of each remaining step: the rows of `EpochDraw` for this rank's share of the batch."""
        epoch = -1
        for step in range(self.step, self.num_steps):
            if epoch != step // self.steps_per_epoch:
                epoch = step // self.steps_per_epoch
                draw = draw_epoch(epoch, **self.draw_args)
                choices = torch.stack([d[:, self.share] for d in draw], dim=1).to(self.images.device)
            yield choices[step % self.steps_per_epoch]

    def batch(self, which: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """Return the augmented images, float32 [batch, c, size, size], and their labels, int64 [batch]."""
        x = crop(self.images, self.size, which, top, left) / self.scale
        x = x - crop(self.mean, self.size, torch.zeros_like(which), top, left)
        x = torch.where(mirrored.bool()[:, None, None, None], x.flip(-1), x)
        return x, self.labels[which]


class EvalBatches:
    """Every image of a split once, not augmented, normalised as in training; a rank sees its share."""

    def __init__(
        self,
        images: UInt8[Tensor, "n c size size"],
        labels: Int[Tensor, " n"],
        *,
        mean: Float[Tensor, "c size size"],
        scale: Float[Tensor, "c 1 1"] | float,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images, self.labels = images[rank::world_size], labels[rank::world_size]
        self.mean, self.scale, self.batch_size = mean, scale, batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True):
            yield x / self.scale - self.mean, y


Choice = tuple[int, int, int, int]
"""index, top, left, mirrored"""


class AugmentedImages(Dataset[tuple[Tensor, Tensor]]):
    """One image at a time, augmented as the sampler's choice says."""

    def __init__(self, batches: DeviceBatches) -> None:
        self.batches = batches

    def __getitem__(self, choice: Choice) -> tuple[Tensor, Tensor]:
        index, top, left, mirrored = choice
        b = self.batches
        window = (slice(None), slice(top, top + b.size), slice(left, left + b.size))
        x = b.images[index][window] / b.scale - b.mean[0][window]
        return x.flip(-1) if mirrored else x, b.labels[index]


class KeyedBatches(Sampler[list[Choice]]):
    """The choices for the images of batch `step`, `step + 1`, ..."""

    def __init__(self, batches: DeviceBatches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Choice]]:
        for choices in self.batches.choices():
            yield list(zip(*choices.tolist(), strict=True))


class ComparisonLoader:
    """The batches of `DeviceBatches` through a DataLoader, to compare the two."""

    def __init__(self, batches: DeviceBatches, *, num_workers: int) -> None:
        self.batches = batches
        self.loader = DataLoader(AugmentedImages(batches), batch_sampler=KeyedBatches(batches), num_workers=num_workers)

    def __len__(self) -> int:
        return len(self.batches)

    def state_dict(self) -> dict[str, int]:
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.load_state_dict(state)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            self.batches.step += 1  # counts batches handed out, not those that workers have prefetched
            yield batch
