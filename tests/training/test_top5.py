"""The top-5 error, on data whose options ask for it."""

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


def test_of_equal_scores_the_first_class_ranks_higher() -> None:
    """In training and in `evaluate.py`. In bf16 some scores are equal, and `topk` ranks those arbitrarily."""
    torch.manual_seed(0)
    logits, labels = torch.randint(0, 3, (300, 20)).bfloat16(), torch.randint(0, 20, (300,))
    ranked = [sorted(range(20), key=lambda c: -row[c]) for row in logits.tolist()]  # Python's sorting is stable
    places = [order.index(label) for order, label in zip(ranked, labels.tolist(), strict=True)]
    expected = [100 * sum(place >= k for place in places) / 300 for k in (1, 5)]
    metric = LossAndError(top5=True)
    metric.update(logits, labels, torch.tensor(1.0))
    tested = count_errors([torch.nn.Identity()], [Views([(logits, torch.arange(300))], labels)])
    for values in (metric.compute(), tested):
        assert [float(values[name]) for name in ("error", "error_top5")] == expected


def test_a_run_records_the_top5_error_of_evaluated_splits(tmp_path: Path) -> None:
    path = prepared(tmp_path, "+data.top5=true", "data.val_size=100")
    manifest = run(path)
    rows = list(csv.DictReader(RunDir(path).metrics.open()))
    measured = ["train/loss", "train/error"]
    for split in ("val", "test"):
        measured += [f"{split}/loss", f"{split}/error", f"{split}/error_top5"]
        assert float(rows[-1][f"{split}/error_top5"]) == manifest["results"][f"{split}/error_top5"]
        assert manifest["results"][f"{split}/error_top5"] < manifest["results"][f"{split}/error"]
    assert list(rows[0]) == ["step", "epoch", "lr", *measured]


def test_only_imagenet_of_over_five_classes_has_a_top5_error() -> None:
    assert resolved("data=imagenet", "depth=18").data.measures_top5
    assert not resolved("data=imagenet", "depth=18", "data.num_classes=5").data.measures_top5
    assert not resolved("data=cifar100").data.measures_top5
