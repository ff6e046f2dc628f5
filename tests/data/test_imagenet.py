"""Training on photographs: resumed runs, runs on two ranks, and refusals before the start."""

import os
import shutil
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
import torch

from resnet_repro.data import imagenet
from resnet_repro.errors import UserError
from resnet_repro.evaluation.measure import PhotographViews
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.job import make_job, result_keys
from resnet_repro.runs.ranks import Rank
from resnet_repro.training.hardware import keep_freed_memory
from resnet_repro.training.run import run
from tests.helpers import commands
from tests.helpers.photo_files import MINI, make_tree, needs_mini
from tests.helpers.photo_runs import (
    FOR_RANKS,
    SMALL,
    assert_ranks_go_on,
    assert_resumes,
    module,
    prepared,
    refusal,
    refused_at_once,
)
from tests.helpers.runs import composed, resolved


@needs_mini
@pytest.mark.slow
def test_resnet_18_learns_to_tell_photographs_apart(tmp_path: Path) -> None:
    options = ("schedule.steps=180", "schedule.batch_size=32", "schedule.shape=cosine", "data.crop=48")
    results = run(prepared(tmp_path, MINI, *options))["results"]
    assert results["train/error"] < 75  # of ten classes: 90 by chance
    assert results["val/error"] < 75


@needs_mini
def test_a_run_reports_validation_errors_and_names_its_tree(tmp_path: Path) -> None:
    path = prepared(tmp_path, MINI, "schedule.steps=3")
    manifest = run(path)
    assert manifest["results"]["num_val_images"] == 200
    assert 0 < manifest["results"]["val/error"] <= 100
    assert not [key for key in manifest["results"] if key.startswith("test")]
    assert manifest["damaged_images"] == []
    assert "num_train=600__num_classes=10__crop=32" in path.name
    assert RunDir(path).responses.exists()


@pytest.mark.slow
@pytest.mark.parametrize("root", [pytest.param(MINI, marks=needs_mini), None])
def test_a_resumed_run_equals_an_uninterrupted_run_bitwise(
    root: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run resumes with more threads, and on the small tree in its second epoch, which begins with step 5."""
    root = root or make_tree(tmp_path / "photos", num=11)
    options = ("schedule.steps=9", "schedule.batch_size=4", "schedule.eval_every=3")
    whole, parts = (prepared(tmp_path / name, root, *options) for name in ("whole", "parts"))
    again = partial(prepared, tmp_path / "parts", root, *options, "data.num_threads=3")
    assert_resumes(whole, parts, again, monkeypatch)


@pytest.mark.slow
@needs_mini
def test_two_ranks_train_one_run_and_validate_each_image_once(tmp_path: Path) -> None:
    status, said = commands.run(
        "train.py", *SMALL, f"data.root={MINI}", "schedule.steps=6", "hardware=ddp_2cpu", home=tmp_path
    )
    assert status == 0, said
    (manifest,) = commands.manifests(tmp_path / "outputs").values()
    assert manifest["results"]["num_val_images"] == 200
    assert manifest["config"]["hardware"]["devices"] == 2


@needs_mini
@pytest.mark.slow
def test_a_run_on_two_ranks_resumes_bitwise(tmp_path: Path) -> None:
    assert_ranks_go_on(*(prepared(tmp_path / name, MINI, *FOR_RANKS) for name in ("whole", "again")))


def test_a_damaged_training_image_is_refused_or_left_out(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "photos", num=10)
    damaged = root / "train" / "cat" / "3.JPEG"
    damaged.write_bytes(damaged.read_bytes()[:-80])
    options = ("schedule.batch_size=4", "schedule.steps=5")
    message = r"cat/3.JPEG cannot be read \(.*\): replace it, remove it, or pass data.skip_damaged"
    with pytest.raises(UserError, match=message):
        run(prepared(tmp_path, root, *options))
    path = prepared(tmp_path, root, *options, "data.skip_damaged=true")
    manifest = run(path)
    assert manifest["damaged_images"] == [str(damaged)]
    assert manifest["results"]["num_val_images"] == 20


def test_a_damaged_validation_image_left_out_is_not_counted(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "photos", num=10)
    (root / "val" / "dog" / "7.JPEG").write_bytes(b"no image")
    options = ("schedule.batch_size=4", "schedule.steps=5", "data.skip_damaged=true")
    assert run(prepared(tmp_path, root, *options))["results"]["num_val_images"] == 19


@pytest.mark.parametrize("normalise", ["pixel", "channel"])
@needs_mini
def test_normalisation_is_that_of_the_centre_crops(normalise: str) -> None:
    data = module(MINI, f"data.normalise={normalise}", "data.num_mean_images=100")
    images = [data.damage.read(data.train.paths[i]) for i in range(0, 600, 6)]
    crops = torch.stack([data.make_centre(image) for image in images]).double()
    mean, scale = data.normalisation
    if normalise == "pixel":
        assert scale == 255
        torch.testing.assert_close(mean.double(), (crops + crops.flip(-1)).mean(0) / 510, atol=1e-6, rtol=0)
        torch.testing.assert_close(mean, mean.flip(-1))
    else:
        x = crops / scale - mean
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-4, rtol=0)
        torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3).double(), atol=1e-4, rtol=0)


@needs_mini
def test_all_or_some_training_images_come_unaugmented() -> None:
    data = module(MINI)
    whole = torch.cat([y for _, y in data.unaugmented(torch.device("cpu"))])
    assert not torch.equal(whole, torch.from_numpy(data.train.labels))  # so batches mix the classes
    assert torch.equal(whole.bincount(), torch.from_numpy(data.train.labels).bincount())
    part = torch.cat([y for _, y in data.unaugmented(torch.device("cpu"), at_most=60)])
    assert torch.equal(part.bincount(), torch.full((10,), 6))


def test_auto_threads_are_one_on_a_cpu_and_a_share_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(16), raising=False)
    run = resolved(*SMALL)
    cpu, gpus = (replace(run.batching(), devices=4, on_gpu=on_gpu) for on_gpu in (False, True))
    assert imagenet._num_threads(run.data, cpu) == 1
    assert imagenet._num_threads(run.data, gpus) == 4
    assert imagenet._num_threads(run.data.but(num_threads=7), gpus) == 7


# --- before anything starts -------------------------------------------------------------------------------------------


def test_a_folder_without_the_images_is_refused_before_the_start(tmp_path: Path) -> None:
    line = refused_at_once("data=imagenet", "depth=18", home=tmp_path)
    assert "data.root=data/imagenet is no folder: give a folder with train/CLASS/ and val/CLASS/" in line


@pytest.mark.parametrize(
    ("folder", "message"), [("val", " has no val/: give a folder"), ("train/dog", "/val/dog is no class of")]
)
def test_an_incomplete_tree_is_refused_before_the_start(tmp_path: Path, folder: str, message: str) -> None:
    root = make_tree(tmp_path / "photos")
    shutil.rmtree(root / folder)
    line = refused_at_once("data=imagenet", "depth=18", f"data.root={root}", "schedule.batch_size=2", home=tmp_path)
    assert f"{root}{message}" in line


@pytest.mark.parametrize(
    ("option", "rule"),
    [
        ("data.crop=0", "data.crop=0 is not a whole number of pixels, at least 1"),
        ("data.shorter_side=[480,256]", "is not the smallest and the largest shorter side, [256,480], at least 224"),
        ("data.test_side=200", "data.test_side=200 is not a whole number of pixels, at least 224"),
        ("data.augment=mixup", "data.augment=mixup is not one of auto, scale, scale_aspect"),
        ("data.jitter=2", "data.jitter=2 is not auto or a number from 0 to 1"),
        ("data.interpolation=nearest", "data.interpolation=nearest is not one of auto, bilinear, bicubic"),
        ("data.num_threads=0", "data.num_threads=0 is not auto or a whole number of threads, at least 1"),
    ],
)
def test_an_option_that_breaks_its_rule_is_refused(option: str, rule: str) -> None:
    assert rule in refusal("imagenet", option)


def test_the_modern_protocol_takes_aspect_ratio_crops() -> None:
    modern, paper = (resolved(*SMALL, *more).data for more in (["protocol=modern"], []))
    assert (modern.augment, modern.normalise) == ("scale_aspect", "channel")
    assert (paper.augment, paper.normalise) == ("scale", "pixel")


def test_fb_resnet_is_the_recipe_that_v2_table_5_points_to() -> None:
    """fb.resnet.torch's README, imagenet.lua, preresnet.lua and train.lua differ from v2's recipe in these options."""
    v2 = ("data=imagenet", "arch=resnet_v2")
    overrides = (*v2, "protocol=fb_resnet")
    job = make_job(composed(*overrides, "depth=200"), usual=composed(*overrides))
    assert (job.name, job.departures) == ("resnet_v2-200-s0__fb_resnet", {"protocol": "fb_resnet"})
    theirs, ours = (result_keys(run) for run in (job.run, resolved(*v2, "depth=200")))
    assert {key: value for key, value in theirs.items() if value != ours[key]} == {
        "protocol.name": "fb_resnet",
        "arch.stride_on": "3x3",
        "schedule.nesterov": True,
        "schedule.decay": "all",
        "data.augment": "scale_aspect",
        "data.jitter": 0.4,
        "data.interpolation": "bicubic",
        "data.normalise": "channel",
    }
    assert (theirs["data.colour"], job.run.protocol.devices) == (0.1, 8)


def test_jitter_and_interpolation_reach_batches_and_views(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "photos", num=10)
    usual, other = module(root), module(root, "data.jitter=0.4", "data.interpolation=bicubic")
    trained, tested = [], []
    for data in (usual, other):
        data.trainer = Trainer()  # type: ignore[assignment]
        data.normalisation = usual.normalisation
        trained.append(next(iter(data.train_dataloader())))
        (views,) = PhotographViews(data, "320", torch.device("cpu"), Rank())
        tested.append(views.groups[0][0])
    assert torch.equal(trained[0][1], trained[1][1])
    colours = [x.mean((2, 3)) for x, _ in trained]
    assert (colours[0] - colours[1]).abs().amax(1).min() > 0.003  # of a range of 1: every image has changed
    assert 0 < (tested[0] - tested[1]).abs().max() < 0.3


class Trainer:
    """The part of a trainer that a loader needs."""

    strategy = type("Strategy", (), {"root_device": torch.device("cpu")})
    global_rank, world_size = 0, 1


def test_v2_trains_on_imagenet_for_90_epochs_by_default() -> None:
    overrides = ("data=imagenet", "arch=resnet_v2")
    job = make_job(composed(*overrides, "depth=50"), usual=composed(*overrides))
    assert job.name == "resnet_v2-50-s0"
    schedule, data = job.run.schedule, job.run.data
    assert schedule.protocol_steps == 90 * (data.num_train // schedule.batch_size)
    assert [m / schedule.protocol_steps for m in schedule.milestones] == [1 / 3, 2 / 3]
    assert job.run.network.shortcut == "B"
    assert schedule.warmup is None


def memory_after_batches(num: int) -> list[float]:
    """Return the MiB that this process holds after each batch of a run."""
    keep_freed_memory()
    data = module(MINI, "data.crop=224", "data.num_threads=2", f"schedule.steps={num}")
    data.trainer = Trainer()  # type: ignore[assignment]
    return [psutil.Process().memory_info().rss / 2**20 for _ in data.train_dataloader()]


@needs_mini
@pytest.mark.slow
def test_the_loaders_memory_is_flat_over_an_epoch() -> None:
    """Load in a new process, which has no spare memory for a leak to hide in.

    The number of batches in the making varies a little, at 9.6 MiB each; keeping one photograph a step would need 100
    MiB.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        mib = process.submit(memory_after_batches, 360).result()
    assert len(mib) == 360
    assert max(mib[180:]) < max(mib[60:180]) + 40


def test_the_log_names_hidden_files_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_tree(tmp_path / "photos", num=3)
    (root / "train" / "cat" / "._0.JPEG").write_bytes(b"no image")
    run(prepared(tmp_path, root, "schedule.batch_size=4", "schedule.steps=1"))
    assert capsys.readouterr().out.count("passed over 1 hidden name: train/cat/._0.JPEG\n") == 1


def test_images_that_cannot_be_read_for_any_reason_are_left_out(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "photos", num=5)
    bomb, link, odd = (root / "train" / "cat" / name for name in ("bomb.png", "link.png", os.fsdecode(b"caf\xe9.png")))
    bomb.write_bytes(png_header(height=10_000, width=20_000))
    link.symlink_to("gone.png")
    odd.write_bytes(b"")
    options = ("schedule.batch_size=4", "schedule.steps=4", "data.skip_damaged=true")
    manifest = run(prepared(tmp_path, root, *options))
    assert manifest["damaged_images"] == sorted([str(bomb), str(link), str(odd).replace("\udce9", r"\udce9")])


def png_header(*, height: int, width: int) -> bytes:
    content = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + content + struct.pack(">I", zlib.crc32(content)) + b"IDAT"
