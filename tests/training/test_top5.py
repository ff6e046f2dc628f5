"""The top-5 error, where the data asks for it."""

import csv
from pathlib import Path

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy

from resnet_repro.evaluation.measure import count_errors
from resnet_repro.evaluation.views import Views
from resnet_repro.runs.folder import RunDir
from resnet_repro.training.metrics import LossAndError
from resnet_repro.training.run import run
from tests.helpers.runs import prepared, resolved


def test_top5_error_equals_torchmetrics() -> None:
    torch.manual_seed(0)
    ours, reference = LossAndError(top5=True), MulticlassAccuracy(10, top_k=5, average="micro")
    for size in (128, 128, 7):
        logits, labels = torch.randn(size, 10), torch.randint(0, 10, (size,))
        ours.update(logits, labels, torch.tensor(1.0))
        reference.update(logits, labels)
    values = ours.compute()
    assert float(values["error_top5"]) == pytest.approx(100 * (1 - float(reference.compute())), abs=1e-4)
    assert 0 < values["error_top5"] < values["error"]


def test_of_equal_scores_that_of_the_first_class_is_the_higher_in_training_and_in_testing() -> None:
    """In bf16 some are equal, and `topk` ranks those as it happens to."""
    torch.manual_seed(0)
    logits, labels = torch.randint(0, 3, (300, 20)).bfloat16(), torch.randint(0, 20, (300,))
    ranked = [sorted(range(20), key=lambda c: -row[c]) for row in logits.tolist()]  # Python's sorting is stable
    places = [order.index(label) for order, label in zip(ranked, labels.tolist(), strict=True)]
    wanted = [100 * sum(place >= k for place in places) / 300 for k in (1, 5)]
    metric = LossAndError(top5=True)
    metric.update(logits, labels, torch.tensor(1.0))
    values = metric.compute()
    assert [float(values[name]) for name in ("error", "error_top5")] == wanted
    found = count_errors([torch.nn.Identity()], [Views([(logits, torch.arange(300))], labels)])
    assert [found[name] for name in ("error", "error_top5")] == wanted


def test_a_run_on_data_that_asks_for_it_records_the_top5_error_of_what_it_evaluates(tmp_path: Path) -> None:
    path = prepared(tmp_path, "+data.top5=true", "data.val_size=100")
    manifest = run(path)
    rows = list(csv.DictReader(RunDir(path).metrics.open()))
    measured = ["train/loss", "train/error"]
    for split in ("val", "test"):
        measured += [f"{split}/loss", f"{split}/error", f"{split}/error_top5"]
        assert float(rows[-1][f"{split}/error_top5"]) == manifest["results"][f"{split}/error_top5"]
        assert manifest["results"][f"{split}/error_top5"] < manifest["results"][f"{split}/error"]
    assert list(rows[0]) == ["step", "epoch", "lr", *measured]


def test_the_top5_error_of_imagenet_is_measured_where_there_are_more_than_five_classes() -> None:
    assert resolved("data=imagenet", "depth=18").data.measures_top5
    assert not resolved("data=imagenet", "depth=18", "data.num_classes=5").data.measures_top5
    assert not resolved("data=cifar100").data.measures_top5
