"""Training from shards shows each image once an epoch, also after a stop, on ranks that read a part each."""

from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_repro.data import augment, photos
from resnet_repro.data.photo_batches import EvalBatches
from resnet_repro.data.shard_batches import StreamedImageNetData, StreamedSource
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import make_job
from tests.helpers import commands
from tests.helpers.loaders import assert_goes_on
from tests.helpers.photo_files import MINI, make_tree, needs_mini
from tests.helpers.photo_runs import FOR_RANKS, assert_ranks_go_on, assert_resumes, refusal, refused_at_once
from tests.helpers.runs import composed
from tests.helpers.shards import CPU, NUM, STREAMED, batches, files_of, packed, prepared, source


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


def test_epochs_and_seeds_differ_in_order(root: Path) -> None:
    orders = [source(root).epoch(n, seed=seed, batch_size=4).ravel().tolist() for n in (0, 1) for seed in (3, 4)]
    assert len({*map(tuple, orders)}) == 4
    assert {image for order in orders for image in order} == {*range(NUM)}, "other images sit out other epochs"


def test_over_epochs_every_image_comes_after_every_other(root: Path) -> None:
    orders = (source(root).epoch(number, seed=3, batch_size=4).ravel().tolist() for number in range(400))
    pairs = {pair for order in orders for pair in pairwise(order)}
    assert len(pairs) == NUM * (NUM - 1)


def shards_of(photos: StreamedSource) -> list[int]:
    """Return the shard of each image of an epoch, in order."""
    return files_of(photos).of(photos.epoch(0, seed=3, batch_size=2).ravel()).tolist()


def test_a_rank_needs_a_shard_for_less_than_two_windows(root: Path) -> None:
    order = shards_of(source(root))
    last = {shard: step for step, shard in enumerate(order)}
    assert all(last[shard] - order.index(shard) < 2 * 8 for shard in last)  # windows of 8 images


def test_ranks_read_shards_of_their_own(root: Path) -> None:
    first, second = ({*shards_of(source(root, rank=rank, world_size=2))} for rank in range(2))
    assert len(first & second) <= 1  # the shard between their parts
    assert first | second == {*range(max(first | second) + 1)}


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_sees_each_image_once_on_any_number_of_ranks(root: Path, world_size: int) -> None:
    make = partial(augment.centre_crop, side=18, size=16)
    ranks = [EvalBatches(source(root, rank=r, world_size=world_size), make, batch_size=5) for r in range(world_size)]
    assert torch.cat([y for loader in ranks for _, y in loader]).tolist() == [*range(NUM)]


def test_a_resumed_run_sees_the_remaining_batches(root: Path) -> None:
    assert_goes_on(lambda: batches(source(root)), stops=(1, 4, 5, 6, 11))  # an epoch has 5 steps


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_run_bitwise(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run resumes in its second epoch, which begins with step 5, and with more threads."""
    options = ("schedule.steps=9", "schedule.batch_size=4", "schedule.eval_every=3")
    whole, parts = (prepared(tmp_path / name, root, *options) for name in ("whole", "parts"))
    again = partial(prepared, tmp_path / "parts", root, *options, "data.num_threads=3", "data.cache_gb=2")
    assert_resumes(whole, parts, again, monkeypatch)
    assert read_json(RunDir(parts).manifest)["results"]["num_val_images"] == NUM


@pytest.mark.slow
def test_a_command_trains_two_ranks_from_shards(root: Path, tmp_path: Path) -> None:
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
def test_a_run_on_two_ranks_resumes_bitwise(mini: Path, tmp_path: Path) -> None:
    options = (*FOR_RANKS, "data.shuffle=100")
    assert_ranks_go_on(*(prepared(tmp_path / name, mini, *options) for name in ("whole", "again")))


def module(root: Path) -> StreamedImageNetData:
    """Return the data of a small run on the shards in `root`."""
    job = make_job(composed(*STREAMED, f"data.root={root}"), usual=composed("data=imagenet_streaming"))
    return StreamedImageNetData(job.run.data, job.run.batching())


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_image_has_the_label_of_its_class(root: Path, split: str) -> None:
    data, tree = module(root), root.parent / "photos"
    ours = data.train if split == "train" else data.val
    theirs = photos.find(tree, split)
    label_of = {path.read_bytes(): label for path, label in zip(theirs.paths, theirs.labels.tolist(), strict=True)}
    assert len(label_of) == len(ours.paths) == NUM
    assert [label_of[ours.paths[i].read_bytes()] for i in range(NUM)] == ours.labels.tolist()


def test_some_unaugmented_images_are_those_of_the_first_shards(root: Path) -> None:
    data = module(root)
    labels = torch.cat([y for _, y in data.unaugmented(CPU, at_most=5)])
    assert torch.equal(labels, torch.from_numpy(data.train.labels[:5]))


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ("data.shuffle=0", "data.shuffle=0 is not a whole number of images, at least 1"),
        ("data.cache_gb=lots", "data.cache_gb=lots is not a number of GB of disk"),
        ("data.root=gs://bucket/imagenet", "data.root=gs://bucket/imagenet is neither a folder nor s3://BUCKET/PREFIX"),
        ("data.root=s3:///imagenet", "data.root=s3:///imagenet names no bucket: give s3://BUCKET/PREFIX"),
    ],
)
def test_an_option_that_breaks_its_rule_is_refused(option: str, rule: str) -> None:
    assert rule in refusal("imagenet_streaming", option)


def test_a_folder_without_shards_is_refused_before_the_start(tmp_path: Path) -> None:
    line = refused_at_once("data=imagenet_streaming", "depth=18", home=tmp_path)
    assert "data.root=data/imagenet_shards has no shards.json: give the complete output of `python -m resnet" in line


def test_a_run_from_shards_has_the_cell_of_a_run_on_imagenet() -> None:
    here, there = (
        make_job(composed(f"data={data}", "depth=50"), usual=composed(f"data={data}")).run
        for data in ("imagenet", "imagenet_streaming")
    )
    assert here.cell == there.cell
