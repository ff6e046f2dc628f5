"""Training from shards: everyone once an epoch, the same after a stop, on ranks that read a part each."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_repro.data import augment, photos
from resnet_repro.data.options import Shards
from resnet_repro.data.photo_batches import EvalBatches
from resnet_repro.data.shard_batches import PackedFiles, StreamedImageNetData
from resnet_repro.errors import Stopped, UserError
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import make_job
from resnet_repro.training.run import run
from tests.helpers import commands
from tests.helpers.photo_files import MINI, make_tree, needs_mini
from tests.helpers.photo_runs import FOR_RANKS, assert_ranks_go_on
from tests.helpers.runs import composed, interrupt_at
from tests.helpers.shards import CPU, NUM, STREAMED, batches, packed, prepared, source


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streaming")
    return packed(make_tree(folder / "photos", num=NUM // 2), folder / "packed")


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(MINI, tmp_path_factory.mktemp("mini") / "packed", shard_mb=0.3)


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_all_ranks_together_see_each_image_once_an_epoch(root: Path, world_size: int) -> None:
    parts = [source(root, rank=rank, world_size=world_size) for rank in range(world_size)]
    for number in range(3):
        seen = np.concatenate([part.epoch(number, seed=3, batch_size=4).ravel() for part in parts])
        assert len(seen) == len({*seen.tolist()}) == 20  # five batches of four; two images fill none


def test_epochs_and_seeds_and_ranks_differ_in_their_order(root: Path) -> None:
    orders = [source(root).epoch(n, seed=seed, batch_size=4).ravel().tolist() for n in (0, 1) for seed in (3, 4)]
    assert len({*map(tuple, orders)}) == 4
    assert {image for order in orders for image in order} == {*range(NUM)}, "whoever sits an epoch out is drawn anew"


def test_an_image_comes_next_to_any_other_over_epochs(root: Path) -> None:
    found = source(root)
    pairs = {
        (a, b)
        for number in range(400)
        for a, b in zip(*(found.epoch(number, seed=3, batch_size=4).ravel()[i : 19 + i] for i in (0, 1)), strict=True)
    }
    assert len(pairs) == NUM * (NUM - 1)


def test_a_rank_needs_a_window_of_shards_and_each_but_the_last_of_its_part_once(root: Path) -> None:
    found = source(root)
    files = found.photos.paths
    assert isinstance(files, PackedFiles)
    order = files.of(found.epoch(0, seed=3, batch_size=2).ravel())
    last = {shard: step for step, shard in enumerate(order.tolist())}
    first = {shard: -step for step, shard in reversed([*enumerate(order.tolist())])}
    assert all(last[shard] + first[shard] < 2 * 8 for shard in last)  # apart by less than two windows of 8 images


def test_ranks_read_shards_of_their_own(root: Path) -> None:
    read = []
    for rank in range(2):
        found = source(root, rank=rank, world_size=2)
        files = found.photos.paths
        assert isinstance(files, PackedFiles)
        read.append({*files.of(found.epoch(0, seed=3, batch_size=2).ravel()).tolist()})
    assert len(read[0] & read[1]) <= 1  # the one that the border is in
    assert read[0] | read[1] == {*range(max(read[0] | read[1]) + 1)}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_image_once_on_any_number_of_ranks(root: Path, world_size: int) -> None:
    make = partial(augment.centre_crop, side=18, size=16)
    ranks = [EvalBatches(source(root, rank=r, world_size=world_size), make, batch_size=5) for r in range(world_size)]
    assert torch.cat([y for loader in ranks for _, y in loader]).tolist() == [*range(NUM)]


def test_batches_are_those_of_the_same_step_after_a_stop_with_any_window_at_hand(root: Path) -> None:
    whole = [*batches(source(root))]
    for stop in (1, 4, 5, 6, 11):  # an epoch has 5 steps
        first, second = batches(source(root)), batches(source(root))
        iterator = iter(first)
        for _ in range(stop):
            next(iterator)
        second.load_state_dict(first.state_dict())
        for (x, y), (x2, y2) in zip(whole[stop:], second, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_resumed_run_equals_uninterrupted_run_bitwise(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its second epoch, which begins with step 5, and with another number of threads."""
    options = ("schedule.steps=9", "schedule.batch_size=4", "schedule.eval_every=3")
    whole = prepared(tmp_path / "whole", root, *options)
    before = run(whole)
    path = prepared(tmp_path / "stopped", root, *options)
    with monkeypatch.context() as patch:
        interrupt_at(7, patch)
        with pytest.raises(Stopped, match="stopped at step 7"):
            run(path)
    after = run(prepared(tmp_path / "stopped", root, *options, "data.num_threads=3", "data.cache_gb=2"))
    assert after["weights_sha256"] == before["weights_sha256"]
    assert after["results"]["num_val_images"] == NUM
    assert RunDir(path).metrics.read_bytes() == RunDir(whole).metrics.read_bytes()


@pytest.mark.slow
def test_a_command_trains_two_ranks_from_shards_and_names_what_is_not_imagenet(root: Path, tmp_path: Path) -> None:
    options = ("schedule.steps=6", "schedule.batch_size=4", "hardware=ddp_2cpu")
    status, said = commands.run("train.py", *STREAMED, f"data.root={root}", *options, home=tmp_path)
    assert status == 0, said
    ((name, manifest),) = commands.manifests(tmp_path / "outputs").items()
    assert manifest["results"]["num_val_images"] == NUM
    assert f"num_train={NUM}__num_classes=2" in name
    status, said = commands.run("evaluate.py", f"run=outputs/imagenet_streaming/{name}", home=tmp_path)
    assert status == 0, said
    (tested,) = read_json(tmp_path / "outputs/imagenet_streaming" / name / "evaluations.json")["evaluations"]
    assert tested["error"] == manifest["results"]["val/error"]


@needs_mini
@pytest.mark.slow
def test_two_ranks_that_were_stopped_go_on_bit_for_bit(mini: Path, tmp_path: Path) -> None:
    options = (*FOR_RANKS, "data.shuffle=100")
    assert_ranks_go_on(*(prepared(tmp_path / name, mini, *options) for name in ("whole", "again")))


def module(root: Path) -> StreamedImageNetData:
    job = make_job(composed(*STREAMED, f"data.root={root}"), usual=composed("data=imagenet_streaming"))
    assert isinstance(job.run.data, Shards)
    return StreamedImageNetData(job.run.data, job.run.batching())


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_image_has_the_label_of_its_class(root: Path, split: str) -> None:
    data, tree = module(root), root.parent / "photos"
    ours = data.train if split == "train" else data.val
    theirs = photos.find(tree, split)
    label_of = {path.read_bytes(): label for path, label in zip(theirs.paths, theirs.labels.tolist(), strict=True)}
    assert len(label_of) == len(ours.paths) == NUM
    assert [label_of[ours.paths[i].read_bytes()] for i in range(NUM)] == ours.labels.tolist()


def test_images_that_a_mean_is_taken_of_are_those_of_the_first_shards(root: Path) -> None:
    data = module(root)
    assert torch.equal(
        torch.cat([y for _, y in data.unaugmented(CPU, at_most=5)]), torch.from_numpy(data.train.labels[:5])
    )


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ("data.shuffle=0", "data.shuffle=0 is not a whole number of images, at least 1"),
        ("data.cache_gb=lots", "data.cache_gb=lots is not a number of GB of disk"),
        ("data.root=gs://bucket/imagenet", "data.root=gs://bucket/imagenet is neither a folder nor s3://BUCKET/PREFIX"),
        ("data.root=s3:///imagenet", "data.root=s3:///imagenet names no bucket: give s3://BUCKET/PREFIX"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(option: str, rule: str) -> None:
    with pytest.raises(UserError) as error:
        make_job(composed(*STREAMED, option), usual=composed("data=imagenet_streaming"))
    assert rule in str(error.value)


def test_a_folder_without_shards_is_refused_before_the_start_and_without_torch(tmp_path: Path) -> None:
    status, said, modules = commands.imported_modules("data=imagenet_streaming", "depth=18", home=tmp_path)
    assert status == 2, said
    assert "data.root=data/imagenet_shards has no shards.json: give what `python -m resnet_repro pack" in said
    assert said.strip().count("\n") == 0
    assert "torch" not in modules


def test_a_run_from_shards_stands_beside_the_papers_rows_of_imagenet() -> None:
    here, there = (
        make_job(composed(f"data={data}", "depth=50"), usual=composed(f"data={data}")).run
        for data in ("imagenet", "imagenet_streaming")
    )
    assert here.cell == there.cell
