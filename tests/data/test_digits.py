"""All digits of scikit-learn, as scanned, without a loss in uint8."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from resnet_repro.data import digits
from resnet_repro.data.image_set import ImageSet
from tests.helpers.runs import resolved


def read() -> ImageSet:
    return digits.read(resolved("data=digits", "depth=8").data)


def test_digits_are_scikit_learns_in_its_order() -> None:
    images, reference = read(), load_digits()
    assert images.test is not None
    assert images.train.x.shape == (1500, 1, 8, 8)
    assert images.test.x.shape == (297, 1, 8, 8)
    x, y = (np.concatenate(pair) for pair in zip(images.train, images.test, strict=True))
    assert (x.dtype, y.dtype) == (np.uint8, np.int64)
    assert x.max() == 240
    np.testing.assert_array_equal(x[:, 0] / 15, reference.images)
    np.testing.assert_array_equal(y, reference.target)


def test_every_digit_is_about_equally_frequent_in_both_splits() -> None:
    images = read()
    assert images.test is not None
    for split in (images.train, images.test):
        share = np.bincount(split.y, minlength=10) / len(split.y)
        np.testing.assert_allclose(share, 0.1, atol=0.02)


def test_no_test_image_is_also_a_training_image() -> None:
    images = read()
    assert images.test is not None
    assert not {x.tobytes() for x in images.train.x} & {x.tobytes() for x in images.test.x}


def test_the_checksum_is_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    checksum = read().checksum
    assert read().checksum == checksum
    monkeypatch.setattr(digits, "find_spec", lambda name: None)  # scikit-learn's file is not where it was
    assert read().checksum == checksum
