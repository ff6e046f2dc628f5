"""Image files of every kind, made by Pillow, and where the real ones are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHARED = Path(__file__).parents[3] / "shared" / "data"
MINI, PHOTOS = SHARED / "imagenet_mini", SHARED / "imagenet_photos"
needs_mini = pytest.mark.skipif(not MINI.exists(), reason="imagenet_mini is not beside the checkout")
needs_photos = pytest.mark.skipif(not PHOTOS.exists(), reason="imagenet_photos is not beside the checkout")


def scene(height: int = 48, width: int = 64) -> Image.Image:
    """A smooth RGB image, different in every corner."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = np.stack([255 * x, 255 * y, 255 * (1 - x) * (1 - y)], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def make_tree(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), num: int = 3, suffix: str = ".JPEG") -> Path:
    """`root/{train,val}/CLASS/N.JPEG`."""
    for split in ("train", "val"):
        for number, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(num):
                scene(40 + 4 * i, 48 + 8 * number).save(folder / f"{i}{suffix}", "JPEG")
    return root
