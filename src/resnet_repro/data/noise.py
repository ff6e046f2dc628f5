"""Random pixels of any size: data to measure a machine's speed on, with nothing to download."""

import numpy as np

from resnet_repro.data.image_set import Images, ImageSet
from resnet_repro.data.options import InMemory

NUM_TEST = 1


def read(data: InMemory) -> ImageSet:
    """Return as many random images as the options say to train on, and one to test on."""
    random, num = np.random.default_rng(0), data.num_train + NUM_TEST
    x = random.integers(0, 256, (num, *data.image), dtype=np.uint8)
    y = random.integers(0, data.num_classes, num)
    return ImageSet(Images(x[NUM_TEST:], y[NUM_TEST:]), Images(x[:NUM_TEST], y[:NUM_TEST]), "noise")
