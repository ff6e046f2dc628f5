"""One job from its config to its manifest: results, files, and going on after a stop as if nothing had happened."""

import csv
import os
import signal
from collections.abc import Callable
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
    """The manifest and metrics.csv of a run that nobody stops, made once for each set of overrides."""
    made: dict[tuple[str, ...], tuple[dict[str, Any], bytes]] = {}

    def result(*overrides: str) -> tuple[dict[str, Any], bytes]:
        if overrides not in made:
            path = prepared(tmp_path_factory.mktemp("undisturbed"), *overrides)
            made[overrides] = run(path), RunDir(path).metrics.read_bytes()
        return made[overrides]

    return result


def test_a_run_leaves_its_manifest_curves_and_last_checkpoint(undisturbed: Callable[..., Any], tmp_path: Path) -> None:
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


def test_the_same_run_twice_gives_the_same_bits(undisturbed: Callable[..., Any], tmp_path: Path) -> None:
    manifest, metrics = undisturbed()
    path = prepared(tmp_path)
    again = run(path)
    assert again["weights_sha256"] == manifest["weights_sha256"]
    assert RunDir(path).metrics.read_bytes() == metrics
    other = run(prepared(tmp_path, "seed=1"))
    assert other["weights_sha256"] != manifest["weights_sha256"]


@pytest.mark.parametrize("step", [1, 3, 7, 8, 9, 23])
def test_resumed_run_equals_uninterrupted_run_bitwise(
    step: int, undisturbed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before, at and after an evaluation; eval_every is 4 here."""
    manifest, metrics = undisturbed()
    path = prepared(tmp_path)
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        with pytest.raises(Stopped, match=f"stopped at step {step}"):
            run(path)
    assert not RunDir(path).is_done
    resumed = run(path)
    assert RunDir(path).metrics.read_bytes() == metrics
    assert resumed["weights_sha256"] == manifest["weights_sha256"]
    assert resumed["results"] == manifest["results"]


WARMUP = ("depth=14", "schedule.warmup={lr: 0.01, until_error: 200.0}", "schedule.steps=110")


@pytest.mark.parametrize(
    ("overrides", "step"),
    [
        (("arch=resnet_v1", "arch.shortcut=dropout"), 13),  # draws from the global generator
        pytest.param(("data.loader=dataloader", "data.num_workers=1"), 13, marks=pytest.mark.slow),
        (("data.val_size=100", "arch=plain"), 13),
        pytest.param(WARMUP, 13, marks=pytest.mark.slow),
        pytest.param(WARMUP, 100, marks=pytest.mark.slow),  # where the warm-up is judged, and nothing is evaluated
    ],
)
def test_every_state_survives_a_stop(
    overrides: tuple[str, ...],
    step: int,
    undisturbed: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest, metrics = undisturbed(*overrides)
    path = prepared(tmp_path, *overrides)
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        with pytest.raises(Stopped):
            run(path)
    resumed = run(path)
    assert RunDir(path).metrics.read_bytes() == metrics
    assert resumed["weights_sha256"] == manifest["weights_sha256"]


@pytest.mark.slow
def test_a_stop_during_an_evaluation_waits_for_its_end_and_is_exact(
    undisturbed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, metrics = undisturbed("schedule.eval_batch_size=20")
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
    resumed = run(path)
    assert RunDir(path).metrics.read_bytes() == metrics
    assert resumed["weights_sha256"] == manifest["weights_sha256"]


def test_a_run_that_ended_between_its_last_step_and_its_manifest_loses_nothing(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    before = run(path)
    RunDir(path).manifest.unlink()
    after = run(path)
    for key in ("results", "weights_sha256", "images_per_s", "started", "config"):
        assert after[key] == before[key]


def test_a_run_does_not_go_on_in_another_number_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = prepared(tmp_path)
    with monkeypatch.context() as patch:
        interrupt_at(5, patch)
        with pytest.raises(Stopped):
            run(path)
    begun = settle(job_in(path).run.hardware).precision
    other = "32-true" if begun == "bf16-mixed" else "bf16-mixed"
    change_job(path, precision=other)
    with pytest.raises(UserError, match=f"hardware.precision was {begun} and is now {other}: give the old values"):
        run(path)


def test_what_is_no_part_of_the_result_may_change_when_a_run_goes_on(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    usual = composed("data=digits")
    job = make_job(composed(*TINY, f"outputs={tmp_path}", "hardware.checkpoint_minutes=1"), usual=usual)
    assert job.dir == path
    claim(job, group="another", command="another")
    asked = read_json(RunDir(path).job)
    assert asked["config"]["hardware"]["checkpoint_minutes"] == 1
    assert asked["group"] == "test"  # the sweep that it began in, and its W&B run


@pytest.mark.slow
def test_v1_warmup_ends_at_the_first_100_batches_whose_error_is_low_enough(undisturbed: Callable[..., Any]) -> None:
    _, metrics = undisturbed(*WARMUP)
    rates = {int(row["step"]): float(row["lr"]) for row in csv.DictReader(metrics.decode().splitlines())}
    assert rates[98] == 0.01
    assert rates[101] == pytest.approx(0.001)  # 0.1 after two milestones, at steps 55 and 83


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    undisturbed: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest, metrics = undisturbed()
    path = prepared(tmp_path)
    for step in (5, 13):
        with monkeypatch.context() as patch:
            interrupt_at(step, patch)
            with pytest.raises(Stopped):
                run(path)
    newest = RunDir(path).checkpoint_files()[0]
    assert newest.name == "step-00000013.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = run(path)
    assert "step-00000013.ckpt is damaged and not used" in capfd.readouterr().out
    assert RunDir(path).metrics.read_bytes() == metrics
    assert resumed["weights_sha256"] == manifest["weights_sha256"]


def test_a_run_that_diverges_ends_and_says_when(tmp_path: Path) -> None:
    manifest = run(prepared(tmp_path, "schedule.lr=1e30"))
    assert manifest["state"] == "done"
    assert manifest["results"]["diverged_at"] < 24
    assert manifest["results"]["step"] == manifest["results"]["diverged_at"]


def test_training_and_evaluation_use_the_schedule_and_every_image(undisturbed: Callable[..., Any]) -> None:
    _, metrics = undisturbed()
    rows = list(csv.DictReader(metrics.decode().splitlines()))
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.1] * 12 + [0.01] * 6 + [0.001] * 6)
    test_errors = [float(row["test/error"]) for row in rows if row["test/error"]]
    assert all(abs(error * 297 / 100 - round(error * 297 / 100)) < 1e-6 for error in test_errors)


def test_loss_and_error_equal_torchmetrics_accuracy_and_the_mean_loss() -> None:
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
