"""The official CIFAR: the real images, the table of checksums, and no other file is read."""

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100  # type: ignore[import-untyped]

from resnet_repro.data import cifar
from resnet_repro.data.image_set import ImageSet
from resnet_repro.errors import UserError


@pytest.fixture(scope="module")
def real(cifar10_root: Path) -> ImageSet:
    return cifar.load(cifar.locate("cifar10", cifar10_root, val_size=0, download=False))


@pytest.mark.parametrize(
    ("split", "num_each", "first"),
    [
        ("train", 5000, [6, 9, 9, 4, 1]),  # frog, truck, truck, deer, automobile
        ("test", 1000, [3, 8, 8, 0, 6]),  # cat, ship, ship, airplane, frog
    ],
)
def test_real_cifar10_has_every_image_in_the_official_order(
    real: ImageSet, split: str, num_each: int, first: list[int]
) -> None:
    images = getattr(real, split)
    assert images.x.shape == (10 * num_each, 3, 32, 32)
    assert (images.x.dtype, images.y.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(np.bincount(images.y), [num_each] * 10)
    assert images.y[:5].tolist() == first


def test_real_cifar10_has_the_known_mean_of_red_green_blue(real: ImageSet) -> None:
    np.testing.assert_allclose(real.train.x.mean((0, 2, 3)), [125.3, 123.0, 113.9], atol=0.1)


def test_a_test_file_of_another_name_is_not_official(part_of_cifar10: Path) -> None:
    assert (part_of_cifar10 / "cifar-10-batches-bin" / "test_batch_first1000.bin").exists()
    assert not cifar.locate("cifar10", part_of_cifar10, val_size=5000, download=False).has_test


def test_without_the_test_file_a_run_needs_validation_images(part_of_cifar10: Path) -> None:
    for download in (False, True):
        with pytest.raises(UserError, match=r"no test_batch.bin: pass data.val_size=5000"):
            cifar.locate("cifar10", part_of_cifar10, val_size=0, download=download)


def test_one_changed_bit_is_refused(cifar10_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for file in cifar.DATA_SETS["cifar10"][1].train:
        (folder / file.name).symlink_to(cifar10_root / "cifar-10-batches-bin" / file.name)
    changed = folder / "data_batch_3.bin"
    content = bytearray(changed.read_bytes())
    content[12345] ^= 1
    changed.unlink()
    changed.write_bytes(content)
    source = cifar.locate("cifar10", tmp_path, val_size=5000, download=False)
    with pytest.raises(UserError) as error:
        cifar.load(source)
    for word in (str(changed), f"md5:{hashlib.md5(content).hexdigest()}", "md5:942cd6a4bcdd0dd3c604fbe906cb4421"):
        assert word in str(error.value)


def test_locate_takes_milliseconds(cifar10_root: Path) -> None:
    start = time.perf_counter()
    cifar.locate("cifar10", cifar10_root, val_size=5000, download=False)
    assert time.perf_counter() - start < 0.05


def test_locating_loads_none_of_the_slow_libraries() -> None:
    code = (
        "import sys; from resnet_repro.data import cifar, digits\n"
        "cifar.locate('cifar10', 'nowhere', val_size=0, download=True)\n"
        "print(*{'torch', 'sklearn', 'pooch', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_the_python_form_has_torchvisions_checksums() -> None:
    for name, theirs in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        form = cifar.DATA_SETS[name][0]
        assert form.folder == theirs.base_folder
        assert (form.archive.name, form.archive.digest) == (theirs.filename, f"md5:{theirs.tgz_md5}")
        assert [[file.name, file.digest] for file in (*form.train, form.test)] == [
            [file, f"md5:{md5}"] for file, md5 in theirs.train_list + theirs.test_list
        ]
        assert cifar.URL + form.archive.name == theirs.url


def test_the_binary_form_has_50000_and_10000_records() -> None:
    for name, label_bytes in (("cifar10", 1), ("cifar100", 2)):
        form = cifar.DATA_SETS[name][1]
        assert sum(file.size for file in form.train) == 50_000 * (label_bytes + 3 * 32 * 32)
        assert form.test.size == 10_000 * (label_bytes + 3 * 32 * 32)
