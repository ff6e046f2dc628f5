"""Every run in results/, as a pull request may send it in: it is whole, and its weights give its error again."""

import re
import shutil
from pathlib import Path

import pytest

from resnet_repro.runs.finished import load
from resnet_repro.runs.folder import RunDir, read_json
from tests.helpers.commands import ROOT
from tests.helpers.commands import run as command

KEPT = sorted(path.parent for path in (ROOT / "results").glob("*/*/manifest.json"))
WITH_WEIGHTS = [folder for folder in KEPT if RunDir(folder).weights.exists()]


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_a_kept_run_is_whole_and_its_code_is_in_a_commit(folder: Path) -> None:
    manifest, run = read_json(folder / "manifest.json"), load(folder)
    assert run is not None
    assert (folder.parent.name, folder.name) == (manifest["config"]["data"]["name"], manifest["name"])
    assert re.fullmatch("[0-9a-f]{40}", manifest["git_commit"])
    assert run.curves["step"][-1] == manifest["results"]["step"] == manifest["config"]["schedule"]["steps"]
    errors = {key: value for key, value in manifest["results"].items() if key in ("test/error", "val/error")}
    assert errors
    assert {key: run.curves[key][-1] for key in errors} == pytest.approx(errors, abs=0.01)


@pytest.mark.parametrize("folder", WITH_WEIGHTS, ids=lambda folder: folder.name)
def test_the_weights_of_a_kept_run_give_its_error_again(folder: Path, cifar10_root: Path, tmp_path: Path) -> None:
    """On another processor bf16 rounds differently, and a few of 10,000 images change sides."""
    copy = RunDir(shutil.copytree(folder, tmp_path / folder.name))
    status, output = command("evaluate.py", f"run={copy.path}", f"data.root={cifar10_root}", home=tmp_path)
    assert status == 0, output
    found = {f"{entry['split']}/error": entry["error"] for entry in copy.read_evaluations()}
    results = read_json(copy.manifest)["results"]
    assert found == pytest.approx({key: results[key] for key in found}, abs=0.1)
