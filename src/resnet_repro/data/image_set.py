"""A data set as a reader returns it: images as they are stored, nothing normalised. Imports no torch."""

from typing import NamedTuple

import numpy as np


def fixed_order(num: int) -> np.ndarray:
    """Return a random order of `num` images, int64 [num], the same in every call."""
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
    """None if the official test file is missing."""
    checksum: str
    """SHA-256 of the bytes of train (images, labels), then of test."""
