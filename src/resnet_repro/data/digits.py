"""scikit-learn's 1,797 scanned digits of 8 x 8 pixels: data for a first run, with nothing to download."""

import hashlib

import numpy as np

from resnet_repro.data.image_set import Images, ImageSet
from resnet_repro.data.options import InMemory

NUM_TRAIN = 1_500  # of 1,797


def read(data: InMemory) -> ImageSet:
    """Return the first 1,500 digits to train on and the last 297 to test on: x uint8 [n, 1, 8, 8], y int64 [n].

    Pixels are counts of 0..16, stored times 15: spread over the range of uint8 (0..240) and exactly invertible.

    [open: scikit-learn describes this as the UCI test set, by 13 writers, and names no writer per image. A cut in
    the file's order, not at random, keeps writers apart as far as that order follows the writers.]
    """
    from sklearn.datasets import load_digits  # slow

    digits = load_digits()
    x = (digits.images * 15).astype(np.uint8)[:, None]
    y = digits.target.astype(np.int64)
    train, test = Images(x[:NUM_TRAIN], y[:NUM_TRAIN]), Images(x[NUM_TRAIN:], y[NUM_TRAIN:])
    return ImageSet(train, test, hashlib.sha256(b"".join(a.tobytes() for a in (*train, *test))).hexdigest())
