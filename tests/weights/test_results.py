"""Every run in results/, as a pull request may send it in: it is whole, and its weights give its error again."""

import re
import shutil
from pathlib import Path

import pytest

from resnet_repro.errors import UserError
from resnet_repro.runs.finished import load
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.runs.options import Run
from resnet_repro.training.manifest import weights_sha256
from resnet_repro.weights.export import export
from resnet_repro.weights.load import load as load_weights
from tests.helpers.commands import ROOT
from tests.helpers.commands import run as command
from tests.helpers.runs import network_of

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


@pytest.mark.slow
@pytest.mark.parametrize("folder", WITH_WEIGHTS, ids=lambda folder: folder.name)
def test_the_weights_of_a_kept_run_give_its_error_again(folder: Path, cifar10_root: Path, tmp_path: Path) -> None:
    """On another processor bf16 rounds differently, and a few of 10,000 images change sides."""
    copy = RunDir(shutil.copytree(folder, tmp_path / folder.name))
    status, output = command("evaluate.py", f"run={copy.path}", f"data.root={cifar10_root}", home=tmp_path)
    assert status == 0, output
    found = {f"{entry['split']}/error": entry["error"] for entry in copy.read_evaluations()}
    results = read_json(copy.manifest)["results"]
    assert found == pytest.approx({key: results[key] for key in found}, abs=0.1)


@pytest.mark.parametrize("folder", WITH_WEIGHTS, ids=lambda folder: folder.name)
def test_the_weights_of_a_kept_run_load_by_its_name_and_leave_in_our_names(folder: Path, tmp_path: Path) -> None:
    manifest = read_json(folder / "manifest.json")
    for source in (f"resnet_repro:{folder.name}", export(RunDir(folder), to="ours", out=tmp_path)):
        net = network_of(Run.of_record(manifest["config"]))
        load_weights(net, source)
        assert weights_sha256(net) == manifest["weights_sha256"]
    for library in ("timm", "torchvision"):
        with pytest.raises(UserError, match="have family=imagenet, and this one has family=cifar"):
            export(RunDir(folder), to=library, out=tmp_path / library)


def test_the_first_page_has_the_errors_of_the_kept_runs() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for arch, words in {"plain": "plain", "resnet_v1": "residual (v1)"}.items():
        folders = [ROOT / "results" / "cifar10" / f"{arch}-{depth}-s0" for depth in (20, 56)]
        results = [read_json(folder / "manifest.json")["results"] for folder in folders]
        for split, name in {"train": "training", "test": "test"}.items():
            errors = " | ".join(f"{each[f'{split}/error']:.2f} %" for each in results)
            assert f"| {words}, {name} error | {errors} |" in lines
