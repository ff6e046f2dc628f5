"""Small CIFAR files in the official layouts, which have a row, and so checksums, of their own in the table."""

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_repro.data import cifar
from resnet_repro.data.cifar import Form
from resnet_repro.errors import UserError
from tests.helpers.cifar_files import BATCHES, FINE, X, binary_file, python2_file, python3_file, write_form


@pytest.fixture(params=[1, 2], ids=["cifar10", "cifar100"])
def label_bytes(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def forms(tmp_path: Path, label_bytes: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Form, ...]:
    """Return data set "small": Python 2 pickles, Python 3 pickles, binary, each as folder and archive in tmp_path."""
    key = b"labels" if label_bytes == 1 else b"fine_labels"
    rows = []
    for folder, file, decode in (
        ("py2", python2_file, partial(cifar.decode_python, label_key=key)),
        ("py3", python3_file, partial(cifar.decode_python, label_key=key)),
        ("bin", binary_file, partial(cifar.decode_binary, label_bytes=label_bytes)),
    ):
        contents = {name: file(batch, label_bytes) for name, batch in zip(("b_1", "b_2", "test"), BATCHES, strict=True)}
        rows.append(write_form(tmp_path, folder, contents, decode))
    monkeypatch.setitem(cifar.DATA_SETS, "small", tuple(rows))
    return tuple(rows)


def locate(root: Path, *, val_size: int = 0, download: bool = False) -> cifar.Source:
    return cifar.locate("small", root, val_size=val_size, download=download)


def refusal(call: Callable[[], Any]) -> str:
    """Return the line with which a call refuses."""
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def alone(root: Path, folder: str) -> Path:
    """Move `folder` to a root with nothing else, and return that root."""
    (root / "alone").mkdir()
    (root / folder).rename(root / "alone" / folder)
    return root / "alone"


def test_folder_and_archive_of_every_form_give_the_same_images(tmp_path: Path, forms: tuple[Form, ...]) -> None:
    checksums = set()
    for form in forms:
        for path in (tmp_path / form.folder, tmp_path / form.archive.name):
            images = cifar.load(cifar.Source(path, form))
            assert images.test is not None
            np.testing.assert_array_equal(images.train.x, X[:40].reshape(-1, 3, 32, 32))
            np.testing.assert_array_equal(images.test.x, X[40:].reshape(-1, 3, 32, 32))
            np.testing.assert_array_equal(images.train.y, FINE[:40])
            np.testing.assert_array_equal(images.test.y, FINE[40:])
            checksums.add(images.checksum)
    arrays: list[np.ndarray] = [X[:40], FINE[:40], X[40:], FINE[40:]]
    assert checksums == {hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()}


def test_reading_an_archive_leaves_nothing_on_disk(tmp_path: Path, forms: tuple[Form, ...]) -> None:
    root = alone(tmp_path, "py2.tar.gz")
    cifar.load(locate(root))
    assert [path.name for path in root.iterdir()] == ["py2.tar.gz"]


def test_a_complete_source_comes_first_then_a_folder(tmp_path: Path, forms: tuple[Form, ...]) -> None:
    assert locate(tmp_path).path.name == "py2"
    (tmp_path / "py2" / "test").unlink()
    assert locate(tmp_path, val_size=1).path.name == "py3"
    (tmp_path / "py3" / "test").unlink()
    (tmp_path / "bin" / "b_2").unlink()
    assert locate(tmp_path, val_size=1).path.name == "py2.tar.gz"
    for archive in tmp_path.glob("*.gz"):
        archive.unlink()
    assert locate(tmp_path, val_size=1) == cifar.Source(tmp_path / "py2", forms[0], has_test=False)
    assert cifar.load(locate(tmp_path, val_size=1)).test is None
    assert "has every training file and no test: pass data.val_size=5000" in refusal(
        partial(locate, tmp_path, val_size=0)
    )


def test_root_may_be_the_official_folder_or_the_working_folder(
    tmp_path: Path, forms: tuple[Form, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert locate(tmp_path / "bin") == cifar.Source(tmp_path / "bin", forms[2])
    monkeypatch.chdir(tmp_path / "bin")
    assert locate(Path()).path.resolve() == tmp_path / "bin"


def test_missing_training_files_are_named(tmp_path: Path, forms: tuple[Form, ...]) -> None:
    root = alone(tmp_path, "bin")
    (root / "bin" / "b_2").unlink()
    assert f"{root / 'bin'} lacks b_2:" in refusal(partial(locate, root, download=True))
    (root / "bin" / "b_1").unlink()
    assert f"{root / 'bin'} lacks b_1, b_2:" in refusal(partial(locate, root, val_size=1))


def test_a_truncated_file_is_refused_with_both_sizes(tmp_path: Path, forms: tuple[Form, ...]) -> None:
    root = alone(tmp_path, "bin")
    for file in (forms[2].train[1], forms[2].test):
        path = root / "bin" / file.name
        whole = path.read_bytes()
        path.write_bytes(whole[:-10_000])
        text = refusal(partial(locate, root, val_size=1))
        assert f"{path} has {file.size - 10_000:,} bytes" in text
        assert f"{file.size:,}" in text.replace(f"{file.size - 10_000:,}", "")
        path.write_bytes(whole)
    assert locate(root).has_test


def test_a_truncated_archive_is_refused(tmp_path: Path, forms: tuple[Form, ...]) -> None:
    root = alone(tmp_path, "py2.tar.gz")
    (root / "py2.tar.gz").write_bytes((root / "py2.tar.gz").read_bytes()[:1000])
    assert f"{root / 'py2.tar.gz'} has 1,000 bytes" in refusal(partial(locate, root, download=True))


def test_a_wrong_checksum_is_refused_in_folder_and_archive(tmp_path: Path, forms: tuple[Form, ...]) -> None:
    for path in (tmp_path / "py2" / "test", tmp_path / "py2.tar.gz"):
        content = bytearray(path.read_bytes())
        content[-2] ^= 1
        path.write_bytes(content)
    for path in (tmp_path / "py2", tmp_path / "py2.tar.gz"):
        assert "has the checksum md5:" in refusal(partial(cifar.load, cifar.Source(path, forms[0])))


def test_the_refusal_without_files_names_ways_out(tmp_path: Path, forms: tuple[Form, ...]) -> None:
    nowhere = tmp_path / "nowhere"
    text = refusal(partial(locate, nowhere))
    assert all(word in text for word in (str(nowhere), "py2.tar.gz", "data.root=FOLDER", "data.download=true"))
    assert locate(nowhere, download=True).needs_download
    assert not nowhere.exists()


class Hostile:
    """Creates a folder if it is unpickled by the usual means."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    content = pickle.dumps({b"data": Hostile(evil), b"labels": [0]}, protocol=2)
    pickle.loads(content)
    evil.rmdir()  # so the pickle is hostile
    form = write_form(
        tmp_path, "py", {"b_1": content, "test": content}, partial(cifar.decode_python, label_key=b"labels")
    )
    for path in (tmp_path / "py", tmp_path / "py.tar.gz"):
        text = refusal(partial(cifar.load, cifar.Source(path, form)))
        assert f"{os.mkdir.__module__}.mkdir" in text
        assert str(path / "b_1") in text or str(path / "test") in text
        assert not evil.exists()


@pytest.mark.parametrize("name", ["builtins eval", "os system", "numpy load", "numpy.core.multiarray scalar"])
def test_a_pickle_may_name_no_global_but_those_of_arrays(name: str) -> None:
    content = b"c" + name.replace(" ", "\n").encode() + b"\n."
    pickle.Unpickler(io.BytesIO(content)).load()  # so the pickle is well-formed
    assert name.replace(" ", ".") in refusal(partial(cifar.decode_python, "data_batch_1", content, label_key=b"labels"))
