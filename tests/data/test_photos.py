"""The images of a folder, their order, and which folders are refused."""

import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from resnet_repro.data import photos
from resnet_repro.errors import UserError
from tests.helpers.photo_files import MINI, make_tree, needs_mini


@needs_mini
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_tree_has_torchvisions_images_in_torchvisions_order(split):
    ours, theirs = photos.find(MINI, split), ImageFolder(MINI / split)
    assert [(str(path), label) for path, label in zip(ours.paths, ours.labels, strict=True)] == theirs.samples
    assert ours.classes == theirs.classes
    assert ours.labels.dtype == np.int64


@needs_mini
def test_a_tree_is_counted_without_torch():
    code = (
        "import sys; from pathlib import Path; from resnet_repro.data import photos\n"
        "print(*photos.count(Path(sys.argv[1])), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, MINI], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["10", "600", "200", "False"]


def test_the_endings_of_image_files_are_torchvisions():
    assert photos.EXTENSIONS == IMG_EXTENSIONS


def test_a_class_without_validation_images_keeps_its_number(tmp_path):
    make_tree(tmp_path, classes=("cat", "dog", "eel"))
    shutil.rmtree(tmp_path / "val" / "cat")
    assert set(photos.find(tmp_path, "val").labels.tolist()) == {1, 2}


def add_notes(root):
    (root / "train" / "eel").mkdir()
    (root / "train" / "eel" / "notes.txt").touch()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "photos is no folder: give a folder with train/CLASS/ and val/CLASS/"),
        (lambda root: shutil.rmtree(root / "train"), "has no train/: give a folder with train/CLASS/ and val/CLASS/"),
        (lambda root: shutil.rmtree(root / "val"), "has no val/: give a folder with train/CLASS/ and val/CLASS/"),
        (
            lambda root: [path.rename(root / path.name) for path in (root / "train").iterdir()],
            "train has no folder of a class: put the images into",
        ),
        (
            lambda root: (root / "val" / "dog").rename(root / "val" / "wolf"),
            "val/wolf is no class of .*train: move it away, or add it there",
        ),
        (add_notes, "train/eel has no image"),
    ],
)
def test_an_incomplete_tree_is_refused(tmp_path, change, message):
    root = make_tree(tmp_path / "photos")
    change(root)
    with pytest.raises(UserError, match=message):
        photos.count(root)


def test_the_checksum_changes_with_a_name_or_a_size(tmp_path):
    root = make_tree(tmp_path)

    def checksum():
        return photos.checksum(root, photos.find(root, "train"), photos.find(root, "val"))

    before = checksum()
    assert checksum() == before
    first = root / "train" / "cat" / "0.JPEG"
    first.write_bytes(first.read_bytes() + b"\x00")
    longer = checksum()
    first.rename(first.with_name("9.JPEG"))
    assert len({before, longer, checksum()}) == 3


def add_hidden(root):
    """Add the files and folders that Jupyter, macOS, Windows, a disk, a network drive and an archive leave behind."""
    image = (root / "train" / "cat" / "0.JPEG").read_bytes()
    folders = [".ipynb_checkpoints", "__MACOSX", "lost+found", "@eaDir", "cat/.ipynb_checkpoints", "cat/@eaDir/0.JPEG"]
    files = [f"{folder}/x.JPEG" for folder in folders]
    files += ["._cat", ".DS_Store", "cat/._0.JPEG", "cat/.DS_Store", "cat/Thumbs.db", "cat/desktop.ini"]
    for file in files:
        path = root / "train" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)


def test_files_that_systems_leave_are_no_classes_and_no_images(tmp_path):
    clean, other = make_tree(tmp_path / "clean"), make_tree(tmp_path / "other")
    add_hidden(other)
    for split in ("train", "val"):
        theirs, ours = photos.find(clean, split), photos.find(other, split)
        assert [path.relative_to(other) for path in ours.paths] == [path.relative_to(clean) for path in theirs.paths]
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert ours.classes == theirs.classes
    assert photos.count(other) == photos.count_there(str(other)) == photos.count(clean)
    checksums = [photos.checksum(root, *(photos.find(root, s) for s in ("train", "val"))) for root in (clean, other)]
    assert checksums[0] == checksums[1]


def test_names_passed_over_are_counted_in_one_line(tmp_path):
    root = make_tree(tmp_path)
    assert photos.about_hidden(photos.find(root, "train")) == ""
    add_hidden(root)
    line = photos.about_hidden(photos.find(root, "train"), photos.find(root, "val"))
    assert line == "passed over 12 hidden names: train/.DS_Store, train/._cat, train/.ipynb_checkpoints, ..."


def test_a_folder_that_cannot_be_listed_is_refused_by_name(tmp_path, monkeypatch):
    root, scandir = make_tree(tmp_path), os.scandir

    def refuse(path):
        if str(path).endswith("train/dog"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"train/dog cannot be listed \(Permission denied\): make it readable"):
        photos.count(root)


def test_the_checksum_takes_files_without_a_size_and_of_any_name(tmp_path):
    root = make_tree(tmp_path)
    (root / "train" / "cat" / "link.JPEG").symlink_to("gone.JPEG")
    (root / "train" / "cat" / os.fsdecode(b"caf\xe9.JPEG")).write_bytes(b"")
    assert len(photos.checksum(root, photos.find(root, "train"))) == 64
