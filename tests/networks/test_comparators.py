"""Runs of networks of torchvision and timm: they resume as ours do, and reports show them beside ours."""

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from resnet_repro.errors import Stopped, UserError
from resnet_repro.launch.checks import claim
from resnet_repro.papers import judgement, verdicts
from resnet_repro.papers import rows as paper
from resnet_repro.report import report, training_curves
from resnet_repro.runs.finished import FinishedRun, read
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.groups import group
from resnet_repro.runs.job import resolve
from resnet_repro.runs.options import Run
from resnet_repro.training.layers import write_responses
from resnet_repro.training.run import run
from tests.helpers.comparators import asked, job_of
from tests.helpers.runs import assert_a_stop_changes_nothing, interrupt_at, network_of
from tests.helpers.synthetic_runs import write_comparator, write_example, write_run

TINY = ("data=digits", "arch.image_size=24", "logger=csv", "schedule.steps=8", "schedule.batch_size=32")


def prepared(outputs: Path, name: str, *overrides: str) -> Path:
    job = job_of("torchvision", name, *TINY, *overrides, f"outputs={outputs}")
    claim(job, group="test", command="python train.py")
    return job.dir


def test_a_resumed_run_with_dropout_is_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SqueezeNet drops half of its last features and draws them from PyTorch's global generator."""
    whole, parts = (prepared(tmp_path / name, "squeezenet1_1") for name in ("whole", "parts"))
    assert_a_stop_changes_nothing(whole, parts, monkeypatch, step=3)
    folder = RunDir(parts)
    manifest = read_json(folder.manifest)
    assert manifest["num_parameters"] == 727_626  # 1,235,496 less 990 classes of 512 weights and a bias
    assert manifest["config"]["arch"]["name"] == "squeezenet1_1"
    responses = folder.responses.read_text().splitlines()
    assert len(responses) == 1 + 9  # the first convolution and the 3x3 convolution of each of eight fire modules
    gradients = folder.gradients.read_text().splitlines()
    assert len(gradients) == 1 + 26 * 5  # every convolution at five steps


def test_a_comparator_does_not_resume_with_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = prepared(tmp_path, "squeezenet1_1")
    with monkeypatch.context() as patch:
        interrupt_at(1, patch)
        with pytest.raises(Stopped):
            run(path)
    begun = read_json(RunDir(path).begun)
    RunDir(path).begun.write_text(json.dumps(begun | {"torchvision": "0.1.0"}))
    with pytest.raises(UserError, match=r"torchvision was 0\.1\.0 and is now .*; install torchvision 0\.1\.0 to go on"):
        run(path)


def test_a_network_without_3x3_convolutions_has_no_responses(tmp_path: Path) -> None:
    net = network_of(resolve(asked("timm", "vit_tiny_patch16_224")))
    write_responses(tmp_path / "responses.csv", net, [(torch.randn(2, 3, 32, 32), torch.zeros(2))])
    assert (tmp_path / "responses.csv").read_text().splitlines() == ["layer,name,std"]


# --- the report -------------------------------------------------------------------------------------------------------


def test_tables_list_comparators_last_and_with_their_library(tmp_path: Path) -> None:
    write_example(tmp_path)
    write_comparator(tmp_path, "squeezenet1_1", test=7.5)
    write_comparator(tmp_path, "resnet18", source="timm", test=6.5)
    write_comparator(tmp_path, "alexnet", test=8.5)
    console = Console(record=True, width=160)
    report.write(tmp_path, console, with_details=True)
    text = console.export_text()
    protocol = next(p for p in group(read(tmp_path)[0]) if p.data == "digits")
    assert [cell.name for cell in protocol.cells] == [
        *("plain-20", "plain-56", "plain-110", "resnet_v2-20", "resnet_v2-56", "resnet_v2-110"),
        *("alexnet (torchvision) image_size=64", "resnet18 (timm)", "squeezenet1_1 (torchvision)"),
    ]
    assert "squeezenet1_1 (torchvision)" in text
    own = "alexnet (torchvision) image_size=64, squeezenet1_1 (torchvision)"
    assert f"Without batch norm, and so begun at a rate of 0.01: {own}" in text
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["protocols"]
    row = next(r for part in rows for r in part["rows"] if r["network"].startswith("resnet18"))
    assert (row["depth"], row["published"], row["errors"]["test"]["mean"]) == (None, None, 6.5)
    assert "resnet18 (timm)" in (tmp_path / "report" / "index.html").read_text()


def test_a_rate_given_by_hand_is_another_protocol(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 20)
    write_comparator(tmp_path, "vgg16")
    write_comparator(tmp_path, "alexnet", schedule__lr=0.05)
    titles = {cell.name: p.title for p in group(read(tmp_path)[0]) for cell in p.cells}
    assert titles["plain-20"] == titles["vgg16 (torchvision)"]
    assert titles["plain-20"] == "Digits, 275 steps"
    assert titles["alexnet (torchvision) image_size=64"] == "Digits, 275 steps, schedule.lr=0.05"


def test_no_claim_of_the_papers_is_judged_on_comparators(tmp_path: Path) -> None:
    write_example(tmp_path / "without")
    write_example(tmp_path / "with")
    for name, source in (("resnet18", "timm"), ("googlenet", "torchvision")):
        write_comparator(tmp_path / "with", name, source=source, train=0.0, test=0.0)
    without, with_them = (
        [judgement.judge(each) for each in group(read(tmp_path / folder)[0])] for folder in ("without", "with")
    )
    assert with_them == without


def test_comparators_share_a_figure_of_one_panel(tmp_path: Path) -> None:
    write_example(tmp_path)
    write_comparator(tmp_path, "googlenet")
    for source in ("timm", "torchvision"):
        write_comparator(tmp_path, "resnet18", source=source)
    protocol = next(p for p in group(read(tmp_path)[0]) if p.data == "digits")
    assert list(training_curves.by_architecture(protocol)) == ["plain", "resnet_v2"]
    (networks,) = training_curves.comparators(protocol).values()
    labels = [network.label for network in networks]
    assert labels == ["googlenet", "resnet18 (timm)", "resnet18 (torchvision)"]  # the library only if names are equal
    assert training_curves.ablations(protocol) == {}


def test_a_comparator_is_no_row_of_a_paper(tmp_path: Path) -> None:
    folder = write_comparator(tmp_path, "resnet18", source="timm", data__name="cifar10")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert paper.published(Run.of_record(manifest["config"])) is None
    row = next(row for row in paper.registry() if row.has_number and row.overrides and not row.why)
    verdict = verdicts.judge(row, [FinishedRun(folder, manifest)])
    assert verdict.word == "not comparable"
    assert "name=resnet18, not None" in verdict.reason
