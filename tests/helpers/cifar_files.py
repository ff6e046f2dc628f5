"""CIFAR in small: files in the official layouts, with their own checksums."""

import hashlib
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnet_repro.data.cifar import File, Form
from resnet_repro.data.image_set import Images

RNG = np.random.default_rng(0)


X = RNG.integers(0, 256, (60, 3072), dtype=np.uint8)


COARSE, FINE = RNG.integers(0, 20, 60), RNG.integers(0, 100, 60)


BATCHES = [slice(0, 20), slice(20, 40), slice(40, 60)]  # two training files, one test file


def binary_file(batch: slice, label_bytes: int) -> bytes:
    labels = np.stack([COARSE[batch], FINE[batch]], 1)[:, -label_bytes:].astype(np.uint8)
    return np.hstack([labels, X[batch]]).tobytes()


def python3_file(batch: slice, label_bytes: int) -> bytes:
    key = b"labels" if label_bytes == 1 else b"fine_labels"
    entries = {b"data": X[batch], key: FINE[batch].tolist(), b"filenames": [b"a.png"]}
    return pickle.dumps(
        entries if label_bytes == 1 else {b"coarse_labels": COARSE[batch].tolist(), **entries}, protocol=2
    )


def python2_file(batch: slice, label_bytes: int) -> bytes:
    """Opcode by opcode what Python 2 wrote, as in the official files: its strings (U, T) are bytes to Python 3."""
    key = b"labels" if label_bytes == 1 else b"fine_labels"
    data = X[batch].tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K" + bytes([len(X[batch])]) + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", len(data)) + data + b"tb"
    )
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in FINE[batch]) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U" + bytes([len(key)]) + key + labels + b"u."


def md5_of(name: str, content: bytes) -> File:
    return File(name, len(content), f"md5:{hashlib.md5(content).hexdigest()}")


def write_form(root: Path, folder: str, contents: dict[str, bytes], decode: Callable[[str, bytes], Images]) -> Form:
    """Folder and archive under `root`; the last file is the test file."""
    (root / folder).mkdir()
    for name, content in contents.items():
        (root / folder / name).write_bytes(content)
    archive = root / f"{folder}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in reversed(contents):  # the official archives are in no order either
            tar.add(root / folder / name, arcname=f"{folder}/{name}")
    *train, test = (md5_of(name, content) for name, content in contents.items())
    return Form(folder, md5_of(archive.name, archive.read_bytes()), tuple(train), test, decode)
