"""One job from its config to its manifest: results, files, and an exact resume after a stop."""

import csv
import os
import signal
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from resnet_repro.errors import Stopped, UserError
from resnet_repro.launch.checks import claim
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.job import make_job
from resnet_repro.training.classifier import LitClassifier
from resnet_repro.training.hardware import settle
from resnet_repro.training.metrics import LossAndError
from resnet_repro.training.run import run
from tests.helpers.runs import TINY, change_job, composed, interrupt_at, job_in, prepared


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[dict[str, Any], bytes]]:
    """Return a function that makes an uninterrupted run once for each set of overrides: manifest and metrics.csv."""

    @cache
    def result(*overrides: str) -> tuple[dict[str, Any], bytes]:
        path = prepared(tmp_path_factory.mktemp("undisturbed"), *overrides)
        return run(path), RunDir(path).metrics.read_bytes()

    return result


def stop_at(step: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a prepared run and stop it after this step."""
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        with pytest.raises(Stopped, match=f"stopped at step {step}"):
            run(path)
    assert not RunDir(path).is_done


def assert_equals(path: Path, expected: tuple[dict[str, Any], bytes]) -> None:
    """Run a folder's job to its end, and compare results, weights and metrics.csv with an uninterrupted run's."""
    resumed, (manifest, metrics) = run(path), expected
    assert RunDir(path).metrics.read_bytes() == metrics
    assert resumed["weights_sha256"] == manifest["weights_sha256"]
    assert resumed["results"] == manifest["results"]


def test_a_run_leaves_manifest_curves_and_last_checkpoint(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    manifest = run(path)
    folder = RunDir(path)
    assert folder.is_done
    rows = list(csv.DictReader(folder.metrics.open()))
    assert [int(row["step"]) for row in rows] == list(range(1, 25))
    assert [int(row["step"]) for row in rows if row["test/error"]] == [4, 8, 12, 16, 20, 24]
    assert float(rows[-1]["test/error"]) == manifest["results"]["test/error"]
    assert 0 <= manifest["results"]["train/error"] <= 100
    assert manifest["results"]["step"] == 24
    assert manifest["num_parameters"] == 75_002  # a ResNet-8 with one input channel, counted by hand
    assert [file.name for file in folder.checkpoint_files()] == ["step-00000024.ckpt"]
    assert set(manifest["packages"]) >= {"torch", "pytorch-lightning", "wandb"}
    assert manifest["images_per_s"] > 0
    assert manifest["peak_memory_mb"] > 100


def test_a_run_without_wandb_needs_no_wandb_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_repro.training.manifest.PACKAGES", ("torch", "a-package-that-is-not-installed"))
    manifest = run(prepared(tmp_path, "logger=csv"))
    assert manifest["packages"] == {"torch": version("torch")}


def test_the_same_run_twice_gives_the_same_bits(undisturbed: Callable[..., Any], tmp_path: Path) -> None:
    assert_equals(prepared(tmp_path), undisturbed())
    other = run(prepared(tmp_path, "seed=1"))
    assert other["weights_sha256"] != undisturbed()[0]["weights_sha256"]


WARMUP = ("depth=14", "schedule.warmup={lr: 0.01, until_error: 200.0}", "schedule.steps=110")


@pytest.mark.parametrize(
    ("overrides", "step"),
    [
        *(((), step) for step in (1, 3, 7, 8, 9, 23)),  # before, at and after an evaluation: every 4 steps
        (("arch=resnet_v1", "arch.shortcut=dropout"), 13),  # draws from the global generator
        pytest.param(("data.loader=dataloader", "data.num_workers=1"), 13, marks=pytest.mark.slow),
        (("data.val_size=100", "arch=plain"), 13),
        pytest.param(WARMUP, 13, marks=pytest.mark.slow),
        pytest.param(WARMUP, 100, marks=pytest.mark.slow),  # the warm-up is judged here, and nothing is evaluated
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_run_bitwise(
    overrides: tuple[str, ...],
    step: int,
    undisturbed: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = prepared(tmp_path, *overrides)
    stop_at(step, path, monkeypatch)
    assert_equals(path, undisturbed(*overrides))


@pytest.mark.slow
def test_a_stop_waits_for_the_end_of_an_evaluation(
    undisturbed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = prepared(tmp_path, "schedule.eval_batch_size=20")
    original = LitClassifier.validation_step

    def validation_step(self: LitClassifier, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        original(self, batch, batch_idx, dataloader_idx)
        if self.global_step == 8 and batch_idx == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(LitClassifier, "validation_step", validation_step)
        with pytest.raises(Stopped, match="stopped at step 8"):
            run(path)
    assert_equals(path, undisturbed("schedule.eval_batch_size=20"))


def test_a_run_killed_before_its_manifest_loses_nothing(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    before = run(path)
    RunDir(path).manifest.unlink()
    after = run(path)
    for key in ("results", "weights_sha256", "images_per_s", "started", "config"):
        assert after[key] == before[key]


def test_a_run_does_not_resume_in_another_number_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = prepared(tmp_path)
    stop_at(5, path, monkeypatch)
    begun = settle(job_in(path).run.hardware).precision
    other = "32-true" if begun == "bf16-mixed" else "bf16-mixed"
    change_job(path, precision=other)
    with pytest.raises(UserError, match=f"hardware.precision was {begun} and is now {other}: give the old values"):
        run(path)


def test_a_resumed_run_may_change_options_without_effect(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    usual = composed("data=digits")
    job = make_job(composed(*TINY, f"outputs={tmp_path}", "hardware.checkpoint_minutes=1"), usual=usual)
    assert job.dir == path
    claim(job, group="another", command="another")
    record = read_json(RunDir(path).job)
    assert record["config"]["hardware"]["checkpoint_minutes"] == 1
    assert record["group"] == "test"  # still the sweep that began the run, and so the same W&B run


@pytest.mark.slow
def test_v1s_warmup_ends_after_100_batches_with_a_low_error(undisturbed: Callable[..., Any]) -> None:
    _, metrics = undisturbed(*WARMUP)
    rates = {int(row["step"]): float(row["lr"]) for row in csv.DictReader(metrics.decode().splitlines())}
    assert rates[98] == 0.01
    assert rates[101] == pytest.approx(0.001)  # 0.1 after two milestones, at steps 55 and 83


def test_a_run_resumes_from_before_a_damaged_checkpoint(
    undisturbed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = undisturbed()
    path = prepared(tmp_path)
    for step in (5, 13):
        stop_at(step, path, monkeypatch)
    newest = RunDir(path).checkpoint_files()[0]
    assert newest.name == "step-00000013.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert_equals(path, expected)
    assert "step-00000013.ckpt is damaged and not used" in capfd.readouterr().out


def test_a_diverging_run_ends_and_records_the_step(tmp_path: Path) -> None:
    manifest = run(prepared(tmp_path, "schedule.lr=1e30"))
    assert manifest["state"] == "done"
    assert manifest["results"]["diverged_at"] < 24
    assert manifest["results"]["step"] == manifest["results"]["diverged_at"]


def test_a_run_follows_the_schedule_and_tests_every_image(undisturbed: Callable[..., Any]) -> None:
    _, metrics = undisturbed()
    rows = list(csv.DictReader(metrics.decode().splitlines()))
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.1] * 12 + [0.01] * 6 + [0.001] * 6)
    test_errors = [float(row["test/error"]) for row in rows if row["test/error"]]
    assert all(abs(error * 297 / 100 - round(error * 297 / 100)) < 1e-6 for error in test_errors)


def test_loss_and_error_equal_torchmetrics() -> None:
    from torchmetrics.classification import MulticlassAccuracy

    torch.manual_seed(0)
    ours, reference = LossAndError(), MulticlassAccuracy(10, average="micro")
    losses, sizes = [], [128, 128, 7]
    for size in sizes:
        logits, labels = torch.randn(size, 10), torch.randint(0, 10, (size,))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        losses.append(loss * size)
        ours.update(logits, labels, loss)
        reference.update(logits, labels)
    values = ours.compute()
    assert float(values["error"]) == pytest.approx(100 * (1 - float(reference.compute())), abs=1e-4)
    assert float(values["loss"]) == pytest.approx(float(sum(losses)) / sum(sizes), rel=1e-6)
