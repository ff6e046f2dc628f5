"""Finished runs: their labels, which of them are averaged, and which are kept apart."""

import io
import statistics
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from resnet_repro.errors import UserError
from resnet_repro.report import report
from resnet_repro.runs.finished import arch_label, read, title
from resnet_repro.runs.groups import group, identity
from resnet_repro.runs.job import make_job
from tests.helpers.runs import composed
from tests.helpers.synthetic_runs import config, departures, write_example, write_run


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return write_example(tmp_path)


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({}, "resnet_v1"),
        ({"arch__shortcut": "B"}, "resnet_v1 B"),
        ({"arch__order": "bn_after_add"}, "resnet_v1 order=bn_after_add"),
        ({"arch__shortcut": "C", "arch__mix": "half_both"}, "resnet_v1 C mix=half_both"),
        ({"arch__unit": "one_layer"}, "resnet_v1 unit=one_layer"),
        ({"arch__mix": "exclusive_gate", "arch__gate_bias": -7.0}, "resnet_v1 mix=exclusive_gate gate_bias=-7"),
        ({"data__name": "cifar10", "schedule__warmup": {"lr": 0.5}}, "resnet_v1 warmup={'lr': 0.5}"),
    ],
)
def test_a_label_has_only_departures_from_the_architecture(change: dict[str, Any], label: str) -> None:
    manifest = {"config": config("resnet_v1", 56, **change), "departures": departures(change)}
    assert arch_label(manifest) == label


@pytest.mark.parametrize("arch", ["plain", "resnet_v1", "resnet_v2"])
@pytest.mark.parametrize("data", ["digits", "cifar10"])
def test_the_label_without_departures_is_the_architecture(arch: str, data: str) -> None:
    for depth in (20, 110, 164, 1001):
        usual = composed(f"arch={arch}", f"data={data}")
        job = make_job(usual | {"depth": depth}, usual=usual)
        assert arch_label({"config": job.run.record(), "departures": job.departures}) == arch


def test_seeds_have_a_mean_and_a_sample_deviation(outputs: Path) -> None:
    cifar, _digits = group(read(outputs)[0])
    (cell,) = cifar.cells
    error = cell.error("test")
    assert error is not None
    assert error == pytest.approx((statistics.fmean((6.4, 6.6, 6.9)), statistics.stdev((6.4, 6.6, 6.9)), 3))


@pytest.mark.parametrize("change", [{"schedule__steps": 110}, {"data__val_size": 100}, {"schedule__lr": 0.05}])
def test_runs_of_different_protocols_are_never_averaged(tmp_path: Path, change: dict[str, Any]) -> None:
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, **change)
    comparisons = group(read(tmp_path)[0])
    assert [len(comparison.runs) for comparison in comparisons] == [1, 1]
    for names in ([c.title for c in comparisons], [c.slug for c in comparisons]):
        assert len(set(names)) == 2


@pytest.mark.parametrize("change", [{"data__root": "elsewhere"}, {"hardware__precision": "bf16-mixed"}])
def test_seeds_from_different_machines_share_a_cell(tmp_path: Path, change: dict[str, Any]) -> None:
    write_run(tmp_path, seed=0)
    write_run(tmp_path, seed=1, **change)
    (comparison,) = group(read(tmp_path)[0])
    assert [len(cell.runs) for cell in comparison.cells] == [2]


def test_architectures_with_own_warmups_are_compared_on_cifar(tmp_path: Path) -> None:
    for arch in ("plain", "resnet_v1", "resnet_v2"):
        write_run(tmp_path, arch, 110, data__name="cifar10")
        write_run(tmp_path, arch, 20, data__name="cifar10")
    (comparison,) = group(read(tmp_path)[0])
    assert [cell.name for cell in comparison.cells] == [
        f"{arch}-{depth}" for arch in ("plain", "resnet_v1", "resnet_v2") for depth in (20, 110)
    ]


def test_the_two_papers_recipes_are_compared_and_others_apart(tmp_path: Path) -> None:
    for protocol in ("paper_v1", "paper_v2", "modern"):
        made = config("resnet_v1", 110, data__name="cifar10")
        made["protocol"]["name"] = protocol
        departs = {} if protocol == "paper_v1" else {"protocol": protocol}
        changes = {"config": made, "departures": departs}
        write_run(tmp_path, "resnet_v1", 110, name=protocol, data__name="cifar10", manifest=changes)
    names = {comparison.title: [cell.name for cell in comparison.cells] for comparison in group(read(tmp_path)[0])}
    assert names == {
        "CIFAR-10, 64,000 steps": ["resnet_v1-110", "resnet_v1-110 paper_v2"],
        "CIFAR-10, modern, 64,000 steps": ["resnet_v1-110"],
    }


def test_a_report_without_runs_is_refused_with_a_command(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"holds no finished run.*python train\.py") as caught:
            report.write(folder, Console(file=io.StringIO()))
        assert "\n" not in str(caught.value)


def test_labels_group_runs_as_the_report_does(tmp_path: Path) -> None:
    write_example(tmp_path)
    comparisons = group(read(tmp_path)[0])
    labels = {
        (comparison.title, cell.name): [identity(run.manifest) for run in cell.runs]
        for comparison in comparisons
        for cell in comparison.cells
    }
    assert len({str(each) for runs in labels.values() for each in runs}) == len(labels)
    assert all(run["network"] == name for (_, name), runs in labels.items() for run in runs)
    by_title = {(title, run["comparable"]) for (title, _), runs in labels.items() for run in runs}
    assert len(by_title) == len(comparisons)


def test_only_the_full_imagenet_is_called_imagenet(tmp_path: Path) -> None:
    write_run(tmp_path, "resnet_v1", 18, data__name="imagenet", data__num_train=1_281_167, data__num_classes=1_000)
    write_run(tmp_path, "resnet_v1", 18, 1, data__name="imagenet", data__num_train=9_469, data__num_classes=10)
    titles = {comparison.title for comparison in group(read(tmp_path)[0])}
    assert titles == {"ImageNet, 600,000 steps", "9,469 photographs of 10 classes, 600,000 steps"}
    shards = {"data.name": "imagenet_streaming", "data.num_train": 9_469, "data.num_classes": 10, "schedule.steps": 6}
    assert title(shards) == "9,469 photographs of 10 classes from shards, 6 steps"
