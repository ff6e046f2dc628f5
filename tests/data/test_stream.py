"""Batches of photographs depend on the seed alone, whoever makes them, and show each image once an epoch."""

import errno
import io
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from resnet_repro.data import augment, photos
from resnet_repro.data.device_batches import Normalisation
from resnet_repro.data.jpeg import Damaged, read
from resnet_repro.data.photo_batches import MAX_IN_A_ROW, DamagedImages, EvalBatches, Source, TrainBatches, in_threads
from resnet_repro.errors import UserError
from tests.helpers.loaders import assert_goes_on, assert_same
from tests.helpers.photo_files import make_tree, scene

NUM_CLASSES, NUM, BATCH, SIZE = 2, 11, 4, 16  # 22 images, 5 steps an epoch, 2 images left over
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("photos"), num=NUM)


def source(root: Path, *, skip: bool = False, num_threads: int = 1, rank: int = 0, world_size: int = 1) -> Source:
    """Return the training images, each labelled by its number."""
    train = photos.find(root, "train")
    train = train._replace(labels=np.arange(len(train.paths)))
    like = Normalisation(torch.zeros(3, SIZE, SIZE), 255.0)
    return Source(train, DamagedImages(skip), like, CPU, num_threads, rank, world_size)


def batches(root: Path, *, seed: int = 3, num_steps: int = 12, **kwargs) -> TrainBatches:
    crops = augment.Augmentation(partial(augment.scale_box, shorter_side=(256, 480)), SIZE, flip=True)
    return TrainBatches(source(root, **kwargs), crops, batch_size=BATCH, seed=seed, num_steps=num_steps, colour=0.1)


def evaluation(root: Path, *, batch_size: int = 5, **kwargs) -> EvalBatches:
    return EvalBatches(source(root, **kwargs), partial(augment.centre_crop, side=18, size=SIZE), batch_size=batch_size)


def test_any_number_of_threads_makes_the_same_batches(root: Path) -> None:
    one = list(batches(root))
    assert len(one) == 12
    assert_same(one, batches(root, num_threads=3))


def test_a_resumed_run_sees_the_remaining_batches(root: Path) -> None:
    assert_goes_on(lambda: batches(root), stops=(1, 4, 5, 6, 11))  # an epoch has 5 steps


def test_epochs_differ_in_order_and_show_no_image_twice(root: Path) -> None:
    labels = torch.stack([y for _, y in batches(root, num_steps=10)]).view(2, 20)
    assert all(len(epoch.unique()) == 20 for epoch in labels)
    assert not torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[0], torch.stack([y for _, y in batches(root, seed=4, num_steps=5)]).view(20))


def test_an_image_is_cropped_differently_in_every_epoch(root: Path) -> None:
    seen: dict[int, list[torch.Tensor]] = {}
    for x, y in batches(root, num_steps=10):
        for image, label in zip(x, y.tolist(), strict=True):
            seen.setdefault(label, []).append(image)
    twice = [images for images in seen.values() if len(images) == 2]
    assert len(twice) >= 18
    assert not any(torch.equal(*images) for images in twice)


def test_ranks_share_batches_and_together_see_each_image_once(root: Path) -> None:
    parts = [batches(root, num_steps=5, rank=rank, world_size=2) for rank in range(2)]
    seen = []
    for whole, *halves in zip(batches(root, num_steps=5), *parts, strict=True):
        assert torch.equal(whole[0], torch.cat([x for x, _ in halves]))
        assert torch.equal(whole[1], torch.cat([y for _, y in halves]))
        seen += whole[1].tolist()
    assert len(set(seen)) == len(seen) == 20


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_image_once_on_any_number_of_ranks(root: Path, world_size: int) -> None:
    ranks = [evaluation(root, rank=rank, world_size=world_size) for rank in range(world_size)]
    seen = torch.cat([y for loader in ranks for _, y in loader])
    assert torch.equal(seen.sort().values, torch.arange(22))
    assert sum(len(loader) for loader in ranks) == sum(1 for loader in ranks for _ in loader)


def test_evaluation_gives_normalised_centre_crops(root: Path) -> None:
    loader = evaluation(root, batch_size=22)
    ((x, y),) = loader
    for image, index in zip(x, y.tolist(), strict=True):
        crop = augment.centre_crop(read(loader.source.photos.paths[index]), side=18, size=SIZE)
        torch.testing.assert_close(image, crop / 255)


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, Path]:
    root = make_tree(tmp_path, num=NUM)
    path = root / "train" / "dog" / "5.JPEG"
    path.write_bytes(path.read_bytes()[:-60])
    return root, path


def test_a_damaged_image_ends_the_run_by_name(damaged: tuple[Path, Path]) -> None:
    root, path = damaged
    with pytest.raises(Damaged, match=str(path)):
        list(batches(root, num_threads=2))


def test_a_skipped_image_makes_batches_smaller_and_is_named_once(
    damaged: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, path = damaged
    loader = batches(root, skip=True, num_threads=2)
    whole = list(loader)
    assert sorted({len(y) for _, y in whole}) == [BATCH - 1, BATCH]
    assert len({label for _, y in whole for label in y.tolist()}) == 21
    assert loader.source.damage.paths == {str(path)}
    assert capsys.readouterr().err.count(f"left out: {path} cannot be read (") == 1
    resumed = batches(root, skip=True)
    resumed.load_state_dict(loader.state_dict() | {"step": 7})
    assert resumed.source.damage.paths == {str(path)}
    assert_same(whole[7:], resumed)


def test_evaluation_leaves_out_a_skipped_image(damaged: tuple[Path, Path]) -> None:
    assert sum(len(y) for _, y in evaluation(damaged[0], skip=True)) == 21


def test_a_batch_of_damaged_images_alone_is_refused(tmp_path: Path) -> None:
    root = make_tree(tmp_path, num=NUM)
    for path in (root / "train").rglob("*.JPEG"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no image of a batch can be read"):
        next(iter(batches(root, skip=True)))


class OnAFailingDisk(NamedTuple):
    """An image on a disk that fails, or with `fails=False` an image that can be read."""

    name: str
    fails: bool = True

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        content = io.BytesIO()
        scene().save(content, "PNG")
        return content.getvalue()


def test_a_disk_that_fails_ends_a_run_that_skips_damaged_images() -> None:
    damage = DamagedImages(skip=True)
    for number in range(MAX_IN_A_ROW - 1):
        assert damage.read(OnAFailingDisk(f"{number}.jpg")) is None
    message = r"^50 images in a row cannot be read, the last of them: 49.jpg .*check disk, network and permissions"
    with pytest.raises(UserError, match=message):
        damage.read(OnAFailingDisk("49.jpg"))


def test_any_number_of_single_images_may_be_damaged() -> None:
    damage = DamagedImages(skip=True)
    for number in range(MAX_IN_A_ROW):
        assert damage.read(OnAFailingDisk(f"{number}.jpg")) is None
        assert damage.read(OnAFailingDisk("", fails=False)) is not None
    assert len(damage.paths) == MAX_IN_A_ROW


def test_threads_are_at_most_two_batches_ahead() -> None:
    calls: list[int] = []

    def call(number: int) -> int:
        calls.append(number)
        return number

    groups = ([partial(call, 10 * group + i) for i in range(3)] for group in range(50))
    results = in_threads(groups, num_threads=2)
    for group in range(5):
        assert next(results) == [10 * group, 10 * group + 1, 10 * group + 2]
        assert max(calls) < 10 * (group + 3)
    results.close()
