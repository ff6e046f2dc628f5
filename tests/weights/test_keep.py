"""`keep`: finished runs in results/, which reports and tests read like those in outputs/."""

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from resnet_repro import load_run
from resnet_repro.errors import UserError
from resnet_repro.networks.resnet import ResNet
from resnet_repro.report import report
from resnet_repro.runs.finished import read
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.records import without_folders
from resnet_repro.training.manifest import weights_sha256
from resnet_repro.weights import keep as keeping
from resnet_repro.weights.keep import keep
from resnet_repro.weights.load import load
from tests.helpers.commands import ROOT
from tests.helpers.commands import run as command
from tests.helpers.synthetic_runs import write_run

COMMIT = {"git_commit": "0" * 40}


def finished_run(folder: Path, **options: Any) -> RunDir:
    """Return a finished run without checkpoints."""
    run = RunDir(write_run(folder, **{"manifest": COMMIT, **options}))
    shutil.rmtree(run.checkpoints)
    return run


def test_a_kept_run_reads_as_the_run_itself(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "outputs")
    kept, _ = keep(run, tmp_path / "results")
    assert kept == tmp_path / "results" / "digits" / "plain-20-s0"
    assert {file.name for file in kept.iterdir()} == {"manifest.json", "metrics.csv"}
    (from_results,), (from_outputs,) = read(tmp_path / "results")[0], read(tmp_path / "outputs")[0]
    assert from_results.manifest == without_folders(from_outputs.manifest)
    assert from_results.curves.keys() == from_outputs.curves.keys()
    assert keep(run, tmp_path / "results") == (kept, "the run has no checkpoint")  # a second time changes nothing


def test_a_kept_run_does_not_tell_the_folders_of_its_machine(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "outputs")
    manifest = read_json(run.manifest)
    manifest["config"]["outputs"] = manifest["config"]["data"]["root"] = "/home/ada/my data"
    manifest["command"] = "python /home/ada/train.py seed=0,1 'outputs=/home/ada/my data' 'data.root=/home/ada/my data'"
    write_json(run.manifest, manifest)
    kept, _ = keep(run, tmp_path / "results")
    assert "/home/ada" not in (kept / "manifest.json").read_text(encoding="utf-8")
    told = read_json(kept / "manifest.json")
    assert (told["config"]["outputs"], told["config"]["data"]["root"]) == ("outputs", "data")
    assert told["command"] == "python train.py seed=0,1 outputs=FOLDER data.root=FOLDER"


@pytest.mark.parametrize("outputs", ["outputs", "/home/ada/outputs"])
def test_a_run_in_both_folders_counts_once(tmp_path: Path, outputs: str) -> None:
    run = finished_run(tmp_path / "outputs")
    manifest = read_json(run.manifest)
    write_json(run.manifest, manifest | {"config": manifest["config"] | {"outputs": outputs}})
    keep(run, tmp_path / "results")
    runs, unfinished = read(tmp_path / "outputs", tmp_path / "results")
    assert (len(runs), unfinished) == (1, [])


def test_a_fresh_checkout_reports_the_kept_runs(tmp_path: Path) -> None:
    keep(finished_run(tmp_path / "elsewhere"), tmp_path / "results")
    status, output = command("report.py", "details=true", home=tmp_path)
    assert status == 0, output
    assert "plain-20" in output
    assert "1 run is kept in results/: digits/plain-20-s0" in output
    assert (tmp_path / "outputs" / "report" / "index.html").exists()


def test_newer_runs_replace_kept_runs_which_are_named(tmp_path: Path) -> None:
    keep(finished_run(tmp_path / "elsewhere", train=50.0), tmp_path / "results")
    finished_run(tmp_path / "outputs", train=2.0, manifest=COMMIT | {"finished": "2099-01-01T00:00:00+00:00"})
    console = Console(file=io.StringIO(), width=200)
    report.write(tmp_path / "outputs", console, kept=[tmp_path / "results"], with_details=True)
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert "2.00" in printed
    assert "50.00" not in printed
    assert "left out, as a later run has the same network and seed: digits/plain-20-s0" in printed


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"git_commit": None}, "the reason is not on record"),
        ({"git_commit": None, "why_no_commit": "git is not installed: install it"}, "git is not installed: install it"),
        ({"git_commit": "0123456789abcdef+"}, "changed files beside commit 0123456789ab: commit them"),
    ],
)
def test_a_run_of_uncommitted_code_is_not_kept(tmp_path: Path, facts: dict[str, Any], why: str) -> None:
    run = finished_run(tmp_path / "outputs", manifest=facts)
    refusal = f"was made by code in no commit ({why}); then make the run again with resume=false"
    with pytest.raises(UserError, match=re.escape(refusal)):
        keep(run, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_keep_refuses_unfinished_runs_and_overwrites_none(tmp_path: Path) -> None:
    first, second = finished_run(tmp_path / "a"), finished_run(tmp_path / "b", train=3.0)
    kept, _ = keep(first, tmp_path / "results")
    before = (kept / "manifest.json").read_bytes()
    with pytest.raises(UserError, match="holds another run of this name"):
        keep(second, tmp_path / "results")
    assert (kept / "manifest.json").read_bytes() == before
    second.manifest.unlink()
    with pytest.raises(UserError, match="holds no finished run"):
        keep(second, tmp_path / "results")


def test_the_command_prints_one_line(tmp_path: Path) -> None:
    shutil.copytree(finished_run(tmp_path / "outputs").path, tmp_path / "run")
    for arguments, status, words in (([], 2, "no run was given"), (["run"], 0, "results/digits/plain-20-s0")):
        command = [sys.executable, "-m", "resnet_repro", "keep", *arguments]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == status, result.stderr
        output = result.stdout + result.stderr
        assert words in output
        assert len(output.strip().splitlines()) == 1


def kept_with_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunDir, dict[str, Any]]:
    """Train two steps, keep the run in results/ of the current folder, and return the kept run and its manifest."""
    monkeypatch.chdir(home)
    options = ("data=digits", "arch=resnet_v1", "depth=8", "schedule.steps=2", "logger=csv", "hardware=cpu")
    status, output = command("train.py", *options, home=home)
    assert status == 0, output
    run = RunDir(home / "outputs/digits/resnet_v1-8-s0__steps=2")
    write_json(run.manifest, read_json(run.manifest) | COMMIT)
    path, why = keep(run, Path("results"))
    assert why == ""
    shutil.rmtree("outputs")
    return RunDir(path), read_json(path / "manifest.json")


@pytest.mark.slow
def test_a_kept_run_with_weights_is_tested_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, manifest = kept_with_weights(tmp_path, monkeypatch)
    status, output = command("evaluate.py", f"run={kept.path}", home=tmp_path)
    assert status == 0, output
    entries = {entry["split"]: entry for entry in kept.read_evaluations()}
    assert entries["test"]["error"] == pytest.approx(manifest["results"]["test/error"])

    net = ResNet(depth=8, family="cifar", num_classes=10, in_channels=1)
    load(net, "resnet_repro:resnet_v1-8-s0__steps=2")
    assert weights_sha256(net) == manifest["weights_sha256"]
    with pytest.raises(UserError, match=r"resnet_v1-9-s0 is not a run kept with its weights; there are .*"):
        load(net, "resnet_repro:resnet_v1-9-s0")
    assert weights_sha256(load_run(kept.path).network) == manifest["weights_sha256"]

    kept.weights.write_bytes(kept.weights.read_bytes()[:-1000])
    status, output = command("evaluate.py", f"run={kept.path}", home=tmp_path)
    assert status == 2
    assert "does not hold the weights of the finished run" in output


def test_large_weights_are_kept_on_request_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "MAX_MB", 0.1)
    monkeypatch.setattr(keeping, "trained", lambda run: torch.nn.Linear(1_000, 100))
    run = finished_run(tmp_path / "outputs")
    run.checkpoints.mkdir()
    (run.checkpoints / "step-00000001.ckpt").touch()
    kept, why = keep(run, tmp_path / "results")
    assert (RunDir(kept).weights.exists(), why) == (False, "0 MB; weights=true keeps them")
    assert keep(run, tmp_path / "results", with_weights=True) == (kept, "")
    assert RunDir(kept).weights.stat().st_size > 400_000


def test_the_results_pages_numbers_are_the_kept_runs() -> None:
    runs, unfinished = read(ROOT / "results")
    assert unfinished == []
    short = [run for run in runs if run.options.data.name == "cifar10" and run.options.schedule.steps == 4_000]
    kept = {(run.options.network.name, run.depth): run.results for run in short}
    for arch, words in {"plain": "plain", "resnet_v2": "residual (v2)"}.items():
        for split, name in {"train": "training", "val": "validation"}.items():
            shown = " | ".join(f"{kept[arch, depth][f'{split}/error']:.1f} %" for depth in (20, 56))
            assert f"| {words}, {name} error | {shown} |" in (ROOT / "docs/results.md").read_text(encoding="utf-8")
