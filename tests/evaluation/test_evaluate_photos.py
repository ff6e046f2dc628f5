"""Networks of the ImageNet family in the papers' four tests on real photographs, on one process and on two."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from resnet_repro.cli import config_dir, quoted
from resnet_repro.data.photo_batches import EvalBatches, Source
from resnet_repro.errors import UserError
from resnet_repro.evaluation import measure
from resnet_repro.evaluation.evaluate import main
from resnet_repro.evaluation.measure import PhotographViews, evaluate_runs
from resnet_repro.evaluation.request import make_request
from resnet_repro.papers.rows import TESTS, printed_errors, registry
from resnet_repro.runs.finished import read_record
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.job import Job, make_job
from resnet_repro.runs.ranks import Rank
from resnet_repro.training.checkpoints import trained
from resnet_repro.training.run import run as train
from tests.helpers.photo_files import MINI, make_tree, needs_mini
from tests.helpers.photo_runs import photographs, prepared
from tests.helpers.ranks import in_ranks
from tests.helpers.runs import composed, recorded


def options(run: Path, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        composed = compose("evaluate", [quoted(f"run={run}"), *overrides])
    return {str(key): value for key, value in OmegaConf.to_container(composed, resolve=True).items()}


def evaluated(run: Path, *overrides: str) -> dict[str, Any]:
    """Test a run, and return its newest entry."""
    main(options(run, *overrides))
    return dict(read_json(RunDir(run).evaluations)["evaluations"][-1])


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a ResNet-18 for six steps on a fifth of `imagenet_mini`: 120 and 40 images of ten classes."""
    root = tmp_path_factory.mktemp("photographs")
    for folder in MINI.glob("*/*/"):
        (root / folder.relative_to(MINI)).mkdir(parents=True)
        for image in sorted(folder.iterdir())[::5]:
            (root / image.relative_to(MINI)).symlink_to(image.resolve())
    path = prepared(tmp_path_factory.mktemp("mini"), root, "schedule.steps=6", "schedule.eval_batch_size=15")
    train(path)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Train a ResNet-18 for one step on six images. A test may change the run and the images."""
    root = make_tree(tmp_path / "photographs")
    path = prepared(tmp_path / "outputs", root, "schedule.steps=1", "schedule.batch_size=4")
    train(path)
    return path


def write_errors(test: str, path: Path, job: Job, rank: Rank) -> None:
    measured = evaluate_runs(make_request(options(path, f"test={test}", "hardware=ddp_2cpu")), rank)
    write_json(path / f"errors-{rank.rank}.json", measured)


@needs_mini
@pytest.mark.parametrize(
    "test", [pytest.param(test, marks=pytest.mark.slow) if test in ("10crop", "multiscale") else test for test in TESTS]
)
def test_two_ranks_find_the_errors_of_one(mini: Path, test: str) -> None:
    alone = evaluated(mini, f"test={test}")
    assert (alone["test"], alone["split"], alone["num_images"]) == (test, "val", 40)
    assert 0 < alone["error_top5"] <= alone["error"] <= 100
    (mini / "store").unlink(missing_ok=True)  # the meeting point of an earlier test's ranks
    in_ranks(2, partial(write_errors, test), mini)
    for rank in range(2):
        errors = read_json(mini / f"errors-{rank}.json")["splits"]["val"]
        assert errors == {key: alone[key] for key in ("num_images", "error", "error_top5")}


@needs_mini
def test_one_crop_gives_the_last_errors_of_the_training(mini: Path) -> None:
    results, entry = read_json(RunDir(mini).manifest)["results"], evaluated(mini)
    assert (entry["error"], entry["error_top5"]) == (results["val/error"], results["val/error_top5"])


@needs_mini
def test_recompute_bn_uses_statistics_of_training_images(mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After six steps, half of the running variance is still its first value, 1, but not of a recomputed variance."""
    tested, original = list[nn.Module](), measure.count_errors

    def count_errors(nets: list[nn.Module], batches: Any) -> dict[str, float | int]:
        tested.extend(nets)
        return original(nets, batches)

    monkeypatch.setattr("resnet_repro.evaluation.measure.count_errors", count_errors)
    assert evaluated(mini, "recompute_bn=true", "bn_images=60")["num_bn_images"] == 60
    (net,), running = tested, trained(RunDir(mini))
    data = photographs(recorded(mini))
    images = torch.cat([x for x, _ in data.unaugmented(torch.device("cpu"), at_most=60)])
    with torch.no_grad():
        expected = net.stem[0](images).var((0, 2, 3))
    # in batches of 15, whose variances average to less than the variance of all 60 images
    torch.testing.assert_close(net.stem[1].running_var, expected, rtol=0.2, atol=0)
    assert not torch.allclose(running.stem[1].running_var, expected, rtol=0.5, atol=0)


def test_one_crop_sees_the_pixels_of_the_trainings_evaluation(small: Path) -> None:
    data = photographs(recorded(small))
    (batch,) = PhotographViews(data, "1crop", torch.device("cpu"), Rank())
    ((x, _),) = batch.groups
    source = Source(data.val, data.damage, data.normalisation, torch.device("cpu"), num_threads=1)
    ((expected, labels),) = EvalBatches(source, data.make_centre, batch_size=50)
    assert torch.equal(x, expected)
    assert torch.equal(batch.labels, labels)


def test_views_of_other_sizes_are_normalised_by_channel(small: Path) -> None:
    """Only views of the training's size have the mean of each pixel subtracted."""
    data = photographs(recorded(small))
    batch, *others = PhotographViews(data, "multiscale", torch.device("cpu"), Rank())
    assert len(others) == 5  # every batch has the views of one image
    mean = data.normalisation.mean
    assert mean.std((1, 2)).max() > 0.1  # the mean differs from pixel to pixel
    for x, _ in batch.groups:
        by_channel = x + (mean if x.shape[2:] == mean.shape[1:] else mean.mean((1, 2))[:, None, None])
        pixels = by_channel * 255
        torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-3)
        assert -0.01 < pixels.min() < 128 < pixels.max() < 255.01


def test_an_unreadable_photograph_is_named_or_left_out(small: Path) -> None:
    root = Path(read_json(RunDir(small).manifest)["config"]["data"]["root"])
    path = root / "val" / "dog" / "1.JPEG"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UserError, match=r"val/dog/1\.JPEG cannot be read .* or pass data\.skip_damaged=true"):
        evaluated(small, "test=10crop")
    assert evaluated(small, "test=10crop", "data.skip_damaged=true")["num_images"] == 5


def test_a_run_from_before_jitter_and_bicubic_gets_its_defaults(small: Path) -> None:
    now = evaluated(small, "test=320")
    manifest = read_json(RunDir(small).manifest)
    for key in ("jitter", "interpolation"):
        del manifest["config"]["data"][key]
    write_json(RunDir(small).manifest, manifest)
    assert {**evaluated(small, "test=320"), "tested": now["tested"]} == now
    run = read_record(small)
    assert run is not None
    assert (run.options.data.jitter, run.options.data.interpolation) == (0, "bilinear")


def test_another_folder_needs_the_same_number_of_classes(small: Path, tmp_path: Path) -> None:
    config = read_json(RunDir(small).manifest)["config"]
    moved = shutil.copytree(config["data"]["root"], tmp_path / "moved")
    first = evaluated(small)
    assert {**evaluated(small, f"data.root={moved}"), "tested": first["tested"]} == first
    three = make_tree(tmp_path / "three", classes=("cat", "dog", "hen"))
    with pytest.raises(UserError, match="has 3 classes and the run was trained on 2; give the folder"):
        evaluated(small, f"data.root={three}")


def test_tables_use_the_newest_test_of_the_run_alone(small: Path) -> None:
    entry = evaluated(small, "test=10crop")
    main({**options(small, "test=10crop"), "run": [str(small), str(small)]})  # an ensemble, although of one network
    evaluated(small, "test=10crop", "recompute_bn=true", "bn_images=6")
    run = read_record(small)
    assert run is not None
    assert len(run.evaluations) == 3
    assert run.tested("10crop", "val") == entry
    assert run.tested("multiscale", "val") is None


@pytest.mark.parametrize("test", ["multiscale", "320"])
def test_a_network_of_one_size_is_not_tested_at_others(small: Path, test: str) -> None:
    manifest = read_json(RunDir(small).manifest)
    alexnet = {"source": "torchvision", "name": "alexnet", "image_size": 64, "protocol": "paper_v1", "multiply_adds": 1}
    manifest["config"]["arch"] = alexnet
    write_json(RunDir(small).manifest, manifest)
    with pytest.raises(UserError, match=f"test={test} is for plain and residual networks, which take any size"):
        evaluated(small, f"test={test}")


@pytest.mark.parametrize(
    ("network", "test", "top1", "top5"),
    [
        ("arch=plain depth=34", "10crop", 28.54, 10.02),
        ("arch=resnet_v1 depth=18 arch.shortcut=A", "10crop", 27.88, None),
        ("arch=resnet_v1 depth=50", "10crop", 22.85, 6.71),
        ("arch=resnet_v1 depth=50", "multiscale", 20.74, 5.25),
        ("arch=resnet_v1 depth=50", "1crop", None, None),
        ("arch=resnet_v1 depth=152 protocol=paper_v2", "1crop", 23.0, 6.7),
        ("arch=resnet_v2 depth=152", "320", 21.1, 5.5),
        ("arch=resnet_v1 depth=50 schedule.steps=100", "10crop", None, None),
    ],
)
def test_the_papers_error_is_of_the_same_network_and_test(
    network: str, test: str, top1: float | None, top5: float | None
) -> None:
    words = ("data=imagenet", *network.split())
    usual = composed(*(word for word in words if word.split("=")[0] in ("data", "arch", "protocol")))
    job = make_job(composed(*words), usual=usual)
    assert printed_errors(job.record, test=test) == {"paper_error": top1, "paper_error_top5": top5}


def test_the_papers_rows_use_exactly_the_known_tests() -> None:
    tests = {row.source: {other.test for other in registry() if other.source == row.source} for row in registry()}
    assert set().union(*tests.values()) == set(TESTS)
    assert (tests["v1 Table 3"], tests["v1 Table 4"]) == ({"10crop"}, {"multiscale"})
