"""What a data source hands over: images as they are stored, nothing normalised. Imports no torch."""

from typing import NamedTuple

import numpy as np


def fixed_order(num: int) -> np.ndarray:
    """A random order of so many images, int64 [num], that is the same every time."""
    return np.random.Generator(np.random.PCG64(0)).permutation(num)


class Images(NamedTuple):
    """Labelled images of one split."""

    x: np.ndarray
    """uint8 [n, channels, height, width]"""
    y: np.ndarray
    """int64 [n], classes from 0"""


class ImageSet(NamedTuple):
    """A data set in memory, in its official order."""

    train: Images
    test: Images | None
    """None where the official test file is not there."""
    checksum: str
    """SHA-256 of the bytes of train (images, labels), then of test."""
