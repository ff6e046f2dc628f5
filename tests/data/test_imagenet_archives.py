"""Small archives in place of the official ones are unpacked by torchvision, or refused by name."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat  # type: ignore[import-untyped]
from torchvision.datasets import imagenet as theirs
from torchvision.datasets.utils import calculate_md5

from resnet_repro.data import photos
from resnet_repro.errors import UserError
from tests.helpers.photo_files import scene

CLASSES = ("n01440764", "n02102040")
FIELDS = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "wordnet_height", "num_train_images")


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    scene(40 + number, 48).save(file, "JPEG")
    return file.getvalue()


def tar(path: Path, members: dict[str, bytes], *, mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the three archives: 3 training images of each of 2 classes, 4 validation images."""
    folder, made = tmp_path / "archives", tmp_path / "made"
    folder.mkdir()
    made.mkdir()
    for name in CLASSES:
        tar(made / f"{name}.tar", {f"{name}_{i}.JPEG": jpeg(i) for i in range(3)})
    tar(folder / photos.ARCHIVES["train"], {f"{name}.tar": (made / f"{name}.tar").read_bytes() for name in CLASSES})
    tar(folder / photos.ARCHIVES["val"], {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(i) for i in range(1, 5)})
    synsets = np.zeros(3, [(field, object) for field in FIELDS])
    for row, (name, children) in enumerate([*((name, 0) for name in CLASSES), ("n00001740", 2)]):
        synsets[row] = (row + 1, name, f"a word for {name}", "a gloss", children, 0, 3)
    savemat(made / "meta.mat", {"synsets": synsets})
    data = "ILSVRC2012_devkit_t12/data/"
    truth = {f"{data}ILSVRC2012_validation_ground_truth.txt": b"1\n2\n2\n1\n"}
    tar(folder / photos.DEVKIT, {f"{data}meta.mat": (made / "meta.mat").read_bytes(), **truth}, mode="w:gz")
    names = {"train": photos.ARCHIVES["train"], "val": photos.ARCHIVES["val"], "devkit": photos.DEVKIT}
    digests = {key: (name, calculate_md5(folder / name)) for key, name in names.items()}
    monkeypatch.setattr(theirs, "ARCHIVE_META", digests)
    monkeypatch.setattr(photos, "OFFICIAL", {"train": 6, "val": 4})
    return folder


def test_archives_are_unpacked_into_folders_of_classes(root: Path) -> None:
    photos.unpack(root)
    train, val = photos.find(root, "train"), photos.find(root, "val")
    assert train.classes == list(CLASSES)
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [path.name[-6] for path in val.paths] == ["1", "4", "2", "3"]
    assert val.labels.tolist() == [0, 0, 1, 1]


def test_unpacked_archives_are_not_read_again(root: Path) -> None:
    photos.unpack(root)
    before = [path.stat().st_mtime_ns for path in sorted((root / "train").rglob("*"))]
    (root / photos.ARCHIVES["train"]).write_bytes(b"")
    photos.unpack(root)
    assert [path.stat().st_mtime_ns for path in sorted((root / "train").rglob("*"))] == before


@pytest.mark.parametrize("name", [*photos.ARCHIVES.values(), photos.DEVKIT])
def test_a_partial_archive_is_named(root: Path, name: str) -> None:
    path = root / name
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=rf"could not unpack .*The archive {name} is not present .* or is corrupted"):
        photos.unpack(root)


def test_a_missing_devkit_is_named(root: Path) -> None:
    (root / photos.DEVKIT).unlink()
    with pytest.raises(UserError, match=rf"could not unpack .*The archive {photos.DEVKIT} is not present"):
        photos.unpack(root)


def test_a_partly_unpacked_archive_is_refused_by_its_count(root: Path) -> None:
    photos.unpack(root)
    next((root / "train" / CLASSES[0]).iterdir()).unlink()
    with pytest.raises(UserError, match=r"train has 5 images and ILSVRC2012_img_train.tar has 6: remove .*train and"):
        photos.count(root)
