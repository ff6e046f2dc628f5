"""Augmented batches equal a slow obvious version, depend on the seed alone, and show each image once an epoch."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from resnet_repro.data.device_batches import ComparisonLoader, DeviceBatches, EvalBatches, draw_epoch, normalisation
from tests.helpers.loaders import assert_goes_on, assert_same

N, SIZE, PAD, BATCH = 50, 6, 2, 8
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (N, 3, SIZE, SIZE), generator=GENERATOR, dtype=torch.uint8)
LABELS = torch.arange(N)  # so that a label tells which image it is
MEAN = IMAGES.double().mean(0).float() / 255


def batches(*, seed: int = 3, num_steps: int = 20, **ranks: int) -> DeviceBatches:
    options = {"batch_size": BATCH, "pad": PAD, "seed": seed, "num_steps": num_steps, **ranks}
    return DeviceBatches(IMAGES, LABELS, mean=MEAN, scale=255.0, flip=True, **options)


def obvious(seed: int, num_steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Follow v1 Sec. 4.2 word for word: subtract the mean, pad with zeros, crop at random, mirror half."""
    steps_per_epoch = N // BATCH
    for step in range(num_steps):
        epoch, within = divmod(step, steps_per_epoch)
        draw = draw_epoch(epoch, seed=seed, num_images=N, batch_size=BATCH, pad=PAD, flip=True)
        images = []
        for index, top, left, mirrored in zip(*(d[within].tolist() for d in draw), strict=True):
            image = IMAGES[index].numpy() / np.float32(255) - MEAN.numpy()
            image = np.pad(image, ((0, 0), (PAD, PAD), (PAD, PAD)))[:, top : top + SIZE, left : left + SIZE]
            images.append(image[:, :, ::-1].copy() if mirrored else image)
        yield torch.from_numpy(np.stack(images)), draw.which[within]


def test_batches_equal_the_obvious_version() -> None:
    assert_same(batches(), obvious(3, 20), atol=1e-7)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_dataloader_gives_the_same_batches(num_workers: int) -> None:
    assert_same(batches(), ComparisonLoader(batches(), num_workers=num_workers), atol=1e-7)


@pytest.mark.parametrize("through_dataloader", [False, True])
def test_a_resumed_run_sees_the_remaining_batches(through_dataloader: bool) -> None:
    def loader() -> DeviceBatches | ComparisonLoader:
        return ComparisonLoader(batches(), num_workers=0) if through_dataloader else batches()

    assert_goes_on(loader, stops=(1, 5, 6, 7, 13))  # an epoch has 6 steps


def test_epochs_differ_in_order_and_show_no_image_twice() -> None:
    labels = torch.stack([y for _, y in batches(num_steps=12)]).view(2, 48)
    assert all(len(epoch.unique()) == 48 for epoch in labels)
    assert not torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], torch.stack([y for _, y in batches(seed=4, num_steps=6)]).view(48))


def test_corners_and_flips_are_uniform() -> None:
    draw = draw_epoch(0, seed=0, num_images=90_000, batch_size=100, pad=4, flip=True)
    for corner in (draw.top, draw.left):
        share = torch.bincount(corner.flatten(), minlength=9) / corner.numel()
        torch.testing.assert_close(share, torch.full((9,), 1 / 9), atol=0.005, rtol=0)
    assert draw.mirrored.double().mean() == pytest.approx(0.5, abs=0.01)
    assert not draw_epoch(0, seed=0, num_images=100, batch_size=10, pad=4, flip=False).mirrored.any()


def test_ranks_share_every_global_batch() -> None:
    for whole, *parts in zip(batches(), batches(world_size=2), batches(rank=1, world_size=2), strict=True):
        assert torch.equal(whole[1], torch.cat([y for _, y in parts]))
        assert torch.equal(whole[0], torch.cat([x for x, _ in parts]))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_image_once_on_any_number_of_ranks(world_size: int) -> None:
    ranks = [
        EvalBatches(IMAGES, LABELS, mean=MEAN, scale=255.0, batch_size=7, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    seen = torch.cat([y for loader in ranks for _, y in loader])
    assert torch.equal(seen.sort().values, LABELS)
    assert sum(len(loader) for loader in ranks) == sum(1 for loader in ranks for _ in loader)


def test_evaluation_subtracts_the_training_mean_and_nothing_else() -> None:
    x, y = next(iter(EvalBatches(IMAGES, LABELS, mean=MEAN, scale=255.0, batch_size=N)))
    torch.testing.assert_close(x, IMAGES.float() / 255 - MEAN)
    assert torch.equal(y, LABELS)


def test_pixel_normalisation_is_the_mean_of_each_pixel() -> None:
    mean, scale = normalisation(IMAGES.numpy(), "pixel")
    assert scale == 255
    torch.testing.assert_close(mean, MEAN)


def test_channel_normalisation_gives_channels_mean_0_and_std_1() -> None:
    norm = normalisation(IMAGES.numpy(), "channel")
    ((x, _),) = EvalBatches(IMAGES, LABELS, **norm._asdict(), batch_size=N)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3), rtol=0, atol=1e-6)
