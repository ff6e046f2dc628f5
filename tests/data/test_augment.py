"""Crops of photographs equal slow obvious versions, and are distributed as the papers say."""

from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, RandomResizedCrop
from torchvision.transforms import functional as reference

from resnet_repro.data import augment
from resnet_repro.data.augment import Augmentation, Crop, scale_aspect_box, scale_box
from resnet_repro.data.device_batches import Normalisation
from resnet_repro.data.jpeg import Box, read, resize
from tests.helpers.photo_files import PHOTOS, needs_photos, scene

SIDES = (256, 480)
NUM = 4_000


DRAWS = augment.draws(0, 0, batch_size=NUM, colour=0.1)
JITTERED = augment.draws(0, 0, batch_size=NUM, colour=0.1, jitter=0.4)


def boxes(height, width, choose, **kwargs):
    return np.array([choose(height, width, draw.uniform, **kwargs) for draw in DRAWS])


def pixels_of(image: Image.Image) -> np.ndarray:
    return np.array(image, np.int16).transpose(2, 0, 1)


def photos():
    return [path for path in sorted(PHOTOS.iterdir())[::20] if Image.open(path).mode == "RGB"]


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (150, 200), (1200, 1600)])
def test_a_scale_crop_is_the_crop_of_the_resized_image(height: int, width: int) -> None:
    """Follow v1 Sec. 3.4 word for word with Pillow: resize to a random shorter side, then cut 224 x 224 out.

    A pixel's red and green tell its place in this image. Our crop begins at a whole pixel of the source, so the two are
    at most a pixel apart.
    """
    image = scene(height, width)
    for number in range(10):
        box = scale_box(height, width, DRAWS[number].uniform, shorter_side=SIDES)
        scale = 224 / box.height
        resized = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        assert SIDES[0] - 3 <= min(resized.size) <= SIDES[1] + 3
        top, left = (min(round(x * scale), side - 224) for x, side in zip(box[:2], resized.size[::-1], strict=True))
        theirs = pixels_of(resized.crop((left, top, left + 224, top + 224)))
        source = np.array(image)[box.top : box.top + box.height, box.left : box.left + box.width]
        ours = resize(torch.from_numpy(source).permute(2, 0, 1), 224, 224).numpy()
        assert np.abs(ours - theirs)[:2].max() <= 2  # a pixel is at most one level, and rounded twice


@needs_photos
@pytest.mark.parametrize(("mode", "tolerance"), [("bilinear", 1), ("bicubic", 4)])
def test_crops_are_pillows_but_for_rounding(mode: str, tolerance: int) -> None:
    """Pillow's bicubic weights have 16 bits; bilinear pixels differ from them by 15 and more."""
    for number, path in enumerate(photos()):
        image = Image.open(path)
        box = scale_aspect_box(image.height, image.width, DRAWS[number].uniform)
        theirs = reference.resized_crop(image, *box, [224, 224], InterpolationMode(mode))
        augmentation = Augmentation(scale_aspect_box, 224, flip=False, mode=mode)
        ours = augmentation.crop(read(path, augmentation.box(DRAWS[number])), DRAWS[number])
        assert np.abs(ours.pixels.numpy() - pixels_of(theirs)).max() <= tolerance


@needs_photos
def test_centre_crops_are_torchvisions_but_for_rounding() -> None:
    for path in photos():
        theirs = CenterCrop(224)(reference.resize(Image.open(path), 256, InterpolationMode.BILINEAR))
        ours = augment.centre_crop(read(path), side=256, size=224).numpy()
        image = pixels_of(theirs)
        shifted = [image, np.roll(image, -1, 1), np.roll(image, -1, 2)]  # torchvision rounds an odd margin to even
        assert min(np.median(np.abs(ours - other)) for other in shifted) == 0
        assert min(np.abs(ours[:, :-1, :-1] - other[:, :-1, :-1]).max() for other in shifted) <= 1


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (100, 90), (2000, 1500)])
def test_scale_crops_lie_inside_with_the_papers_shorter_sides(height: int, width: int) -> None:
    top, left, crop_height, crop_width = boxes(height, width, scale_box, shorter_side=SIDES).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + crop_height <= height).all()
    assert (left + crop_width <= width).all()
    assert (crop_height == crop_width).all()
    sides = 224 * min(height, width) / crop_height
    assert sides.min() == pytest.approx(SIDES[0], rel=0.02)
    assert sides.max() == pytest.approx(SIDES[1], rel=0.02)
    assert np.mean(sides) == pytest.approx(np.mean(SIDES), rel=0.01)
    assert np.std(sides) == pytest.approx((SIDES[1] - SIDES[0]) / np.sqrt(12), rel=0.05)


def test_scale_crops_are_placed_evenly() -> None:
    top, left, _, _ = boxes(600, 800, scale_box, shorter_side=(300, 300)).T
    for corner, room in ((top, 600 - 448), (left, 800 - 448)):
        assert (corner.min(), corner.max()) == (0, room)
        counts = np.histogram(corner, bins=4, range=(0, room + 1))[0]
        np.testing.assert_allclose(counts / NUM, 0.25, atol=0.03)


@pytest.mark.parametrize(("height", "width"), [(375, 500), (200, 1000)])
def test_aspect_ratio_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(image, augment.AREA, augment.RATIO) for _ in range(NUM)])
    ours = boxes(height, width, scale_aspect_box)
    area, ratio, top = (
        lambda b: b[:, 2] * b[:, 3] / (height * width),
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0] / height,
    )
    for measure in (area, ratio, top):
        shares = [0.05, 0.25, 0.5, 0.75, 0.95]
        np.testing.assert_allclose(np.quantile(measure(ours), shares), np.quantile(measure(theirs), shares), atol=0.04)


def test_an_image_too_long_for_any_ratio_gives_its_middle() -> None:
    assert scale_aspect_box(10, 1000, DRAWS[0].uniform) == Box(0, 493, 10, 13)


def test_colours_shift_by_a_tenth_of_the_eigenvalues() -> None:
    shifts = np.array([draw.colour for draw in DRAWS]) @ np.array(augment.EIGENVECTORS)
    np.testing.assert_allclose(shifts.std(0), 0.1 * np.array(augment.EIGENVALUES), rtol=0.05)
    np.testing.assert_allclose(np.corrcoef(shifts.T), np.eye(3), atol=0.06)


@pytest.mark.parametrize(("flip", "share"), [(True, 0.5), (False, 0.0)])
def test_half_of_the_images_are_mirrored_if_flip_is_true(flip: bool, share: float) -> None:
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    crops = [Augmentation(scale_aspect_box, 4, flip).crop(image, draw) for draw in DRAWS]
    assert np.mean([crop.mirrored for crop in crops]) == pytest.approx(share, abs=0.03)


def test_draws_differ_between_seeds_steps_and_positions() -> None:
    rows = [augment.draws(seed, step, batch_size=3, colour=0.1) for seed in (0, 1) for step in (0, 1)]
    assert len({draw.uniform[0] for row in rows for draw in row}) == 12


ADJUST = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation)


def kind_of(change: np.ndarray) -> int:
    """Return 0 for brightness, 1 for contrast, 2 for saturation."""
    return 2 if change[1] else 1 if change[2] else 0


def test_jitter_equals_torchvisions_changes_of_colour() -> None:
    """The images are dull: no three changes take them beyond black or white, where torchvision clips."""
    torch.manual_seed(0)
    images = 60 + 30 * torch.rand(64, 3, 5, 7)
    jitter = np.stack([draw.jitter for draw in JITTERED[:64]])
    theirs = []
    for image, changes in zip(images / 255, jitter, strict=True):
        for change in changes:
            image = ADJUST[kind_of(change)](image, float(change[0]))
        theirs.append(255 * image)
    torch.testing.assert_close(
        augment.jittered(images, torch.from_numpy(jitter)), torch.stack(theirs), atol=0.02, rtol=1e-3
    )


def test_jitter_has_each_change_once_in_random_order() -> None:
    jitter = np.stack([draw.jitter for draw in JITTERED])
    kinds = np.array([[kind_of(change) for change in changes] for changes in jitter])
    assert (np.sort(kinds) == [0, 1, 2]).all()
    for order in permutations(range(3)):
        assert np.mean((kinds == order).all(1)) == pytest.approx(1 / 6, abs=0.03)
    for kind in range(3):
        factors = jitter[kinds == kind][:, 0]
        assert (factors.min(), factors.max()) == (pytest.approx(0.6, abs=0.01), pytest.approx(1.4, abs=0.01))
        assert factors.std() == pytest.approx(0.8 / np.sqrt(12), rel=0.05)


def test_jitter_changes_no_other_choice() -> None:
    for with_it, without in zip(JITTERED, DRAWS, strict=True):
        assert with_it.uniform == without.uniform
        assert (with_it.colour == without.colour).all()
    assert all((draw.jitter == augment.UNCHANGED).all() for draw in DRAWS)


def test_the_principal_components_are_orthonormal() -> None:
    vectors = np.array(augment.EIGENVECTORS)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-3)


@pytest.mark.parametrize("scale", [255.0, torch.tensor([58.0, 57.0, 57.5])[:, None, None]])
def test_the_device_finishes_images_as_computed_by_hand(scale) -> None:
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (5, 3, 6, 6), np.uint8))
    mean = torch.from_numpy(rng.random((3, 6, 6), np.float32))
    jitter = [augment.UNCHANGED, *(draw.jitter for draw in JITTERED[:4])]
    colours = (rng.normal(size=(5, 3)) / 50).astype(np.float32)
    crops = [Crop(image, bool(i % 2), colours[i], jitter[i]) for i, image in enumerate(pixels)]
    x = augment.finish(
        pixels,
        torch.tensor([crop.mirrored for crop in crops]),
        torch.from_numpy(np.stack([crop.colour for crop in crops])),
        torch.from_numpy(np.stack([crop.jitter for crop in crops])),
        Normalisation(mean, scale),
    )
    for ours, crop in zip(x, crops, strict=True):
        image = crop.pixels.numpy().astype(np.float64)
        for of_image, of_grey, of_mean in crop.jitter:
            grey = 0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]
            image = of_image * image + of_grey * grey + of_mean * grey.mean()
        image = (image + 255 * crop.colour[:, None, None]) / np.asarray(scale) - mean.numpy()
        np.testing.assert_allclose(ours.numpy(), image[:, :, ::-1] if crop.mirrored else image, atol=1e-5)
