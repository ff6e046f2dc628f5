"""Photographs become shards with every byte, which LitData reads, too, or are refused in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resnet_repro.data import photos, shards
from resnet_repro.data.bucket import open_storage
from resnet_repro.data.shards import ShardCache, read_index
from resnet_repro.errors import UserError
from tests.helpers import commands
from tests.helpers.photo_files import MINI, make_tree, needs_mini
from tests.helpers.shards import packed

NUM = 11


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("photos"), num=NUM)


def command(*arguments: str | Path, home: Path) -> tuple[int, str]:
    result = subprocess.run(
        [sys.executable, "-m", "resnet_repro", "pack", *map(str, arguments)],
        cwd=home,
        env=commands.environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout.strip()


@pytest.mark.parametrize("src", [pytest.param(MINI, marks=needs_mini), None])
def test_shards_hold_the_bytes_and_label_of_every_image_once(src: Path | None, tree: Path, tmp_path: Path) -> None:
    src = src or tree
    storage = open_storage(str(packed(src, tmp_path / "packed", shard_mb=0.3 if src == MINI else 0.0025)))
    index = read_index(storage)
    for split in photos.ARCHIVES:
        files = index.splits[split].shards
        assert len(files) > 5
        cache = ShardCache(storage, files, cache_gb=0, folder=None, num_threads=1, num_needed=1)
        images = [cache[n].image(i) for n, shard in enumerate(files) for i in range(shard.num_images)]
        theirs = photos.find(src, split)
        expected = [(path.read_bytes(), label) for path, label in zip(theirs.paths, theirs.labels, strict=True)]
        assert sorted(zip(images, index.labels(storage, split), strict=True)) == sorted(expected)
    assert index.classes == photos.find(src, "train").classes
    assert shards.count(str(storage)) == photos.count(src)


def test_litdatas_own_reader_reads_the_shards(tree: Path, tmp_path: Path) -> None:
    from litdata import StreamingDataset

    theirs = StreamingDataset(str(packed(tree, tmp_path / "packed") / "train"))
    read = {name: (content, label) for content, label, name in (theirs[i] for i in range(len(theirs)))}
    train = photos.find(tree, "train")
    assert read == {
        path.relative_to(tree).as_posix(): (path.read_bytes(), label)
        for path, label in zip(train.paths, train.labels.tolist(), strict=True)
    }


def test_any_number_of_threads_makes_the_same_shards(tree: Path, tmp_path: Path) -> None:
    first, second = (packed(tree, tmp_path / str(n), num_threads=n) for n in (1, 3))
    assert (first / shards.INDEX).read_bytes() == (second / shards.INDEX).read_bytes()


def test_most_shards_have_images_of_all_classes(tree: Path, tmp_path: Path) -> None:
    storage = open_storage(str(packed(tree, tmp_path / "packed")))
    index = read_index(storage)
    labels = index.labels(storage, "train")
    ends = np.cumsum([shard.num_images for shard in index.splits["train"].shards])
    mixed = [len(set(part.tolist())) == 2 for part in np.split(labels, ends[:-1])]
    assert sum(mixed) > len(mixed) / 2


def test_counting_reads_the_index_alone_and_imports_no_torch(tree: Path, tmp_path: Path) -> None:
    root = packed(tree, tmp_path / "packed")
    code = (
        "import sys; from resnet_repro.data import shards; "
        "print(*shards.count(sys.argv[1]), any(name in sys.modules for name in ('torch', 'litdata', 'boto3')))"
    )
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "22", "22", "False"]


@pytest.mark.slow
def test_the_command_reports_what_it_packed_and_has_a_help_text(tree: Path, tmp_path: Path) -> None:
    status, said = command(tree, "packed", home=tmp_path)
    assert status == 0
    assert said == "train: 22 images in 1 shards\nval: 22 images in 1 shards"
    status, said = command("--help", home=tmp_path)
    assert status == 0
    assert "data=imagenet_streaming data.root=s3://" in said


def test_folders_that_cannot_be_packed_are_refused_in_one_line(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    for src, dest, reason in (
        ("nowhere", "packed", "nowhere is no folder: give a folder with train/CLASS/"),
        ("full", "packed", "full has no train/: give a folder"),
        (tree, "full", "full is not empty: remove it, or give a new folder"),
    ):
        with pytest.raises(UserError) as error:
            packed(tmp_path / src, tmp_path / dest)
        assert str(error.value).startswith(f"{tmp_path}/{reason}")
        assert "\n" not in str(error.value)
    status, said = command(tree, "packed", "--shard-mb=0", home=tmp_path)
    assert (status, said.count("\n")) == (2, 0)
    assert "--shard-mb and --threads must be above 0" in said
    assert not (tmp_path / "packed").exists()


@pytest.mark.slow
def test_a_damaged_image_is_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "photos", num=NUM)
    path = tree / "train" / "dog" / "5.JPEG"
    path.write_bytes(path.read_bytes()[:-60])
    status, said = command(tree, "first", home=tmp_path)
    assert status == 2
    assert f"{path} cannot be read (" in said
    assert "replace it, remove it, or pass --skip-damaged" in said
    assert "\n" not in said
    status, said = command(tree, "second", "--skip-damaged", home=tmp_path)
    assert status == 0
    assert f"left out: {path} cannot be read" in said
    assert "train: 21 images" in said
    assert "1 damaged images were left out" in said
    assert read_index(open_storage(str(tmp_path / "second"))).left_out == ["train/dog/5.JPEG"]


def test_packing_without_litdata_names_what_to_install(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(UserError, match=r"^packing needs LitData: pip install 'resnet_repro\[streaming\]'$"):
        packed(tree, tmp_path / "packed")


# --- shards that are not, or no longer, what was packed --------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: (root / "shards.json").unlink(), "has no shards.json: give the complete output of `python"),
        (
            lambda root: (root / "shards.json").write_text("{"),
            "shards.json is not what was packed: copy it there again",
        ),
        (lambda root: (root / "train" / "chunk-0-1.bin").unlink(), "has no train/chunk-0-1.bin: give the complete"),
        (lambda root: (root / "val" / "chunk-0-0.bin").write_bytes(b"x"), "val/chunk-0-0.bin is not what was packed"),
    ],
)
def test_an_incomplete_folder_is_refused_by_a_name(change, reason: str, tree: Path, tmp_path: Path) -> None:
    root = packed(tree, tmp_path / "packed")
    change(root)
    with pytest.raises(UserError) as error:
        shards.count(str(root))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_shards_of_another_format_are_refused(tree: Path, tmp_path: Path) -> None:
    index = packed(tree, tmp_path / "packed") / "shards.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"format": 2}))
    with pytest.raises(UserError, match="is of format 2, and this code reads 1: pack again"):
        shards.count(str(index.parent))


def test_labels_that_were_changed_are_refused(tree: Path, tmp_path: Path) -> None:
    root = packed(tree, tmp_path / "packed")
    np.save(root / "train" / "labels.npy", np.zeros(22, np.int64))
    storage = open_storage(str(root))
    with pytest.raises(UserError, match=r"train/labels.npy is not what was packed"):
        read_index(storage).labels(storage, "train")
