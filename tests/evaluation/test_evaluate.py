"""`python evaluate.py`: finished runs tested again, alone and as ensembles, on one process and on two."""

import shutil
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn

from resnet_repro.cli import config_dir, quoted
from resnet_repro.errors import UserError
from resnet_repro.evaluation.evaluate import main
from resnet_repro.evaluation.measure import recompute_bn
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.training import hardware
from resnet_repro.training.checkpoints import trained
from tests.helpers.commands import assert_gone, imported_modules, run, start
from tests.helpers.runs import in_memory, recorded

PLAIN, RESNET = (f"digits/{name}-8-s0__val_size=300__steps=33" for name in ("plain", "resnet_v2"))


@pytest.fixture(scope="module")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two finished runs below outputs/."""
    home = tmp_path_factory.mktemp("evaluate")
    options = ("-m", "depth=8", "arch=plain,resnet_v2", "data=digits", "data.val_size=300", "schedule.steps=33")
    status, output = run("train.py", *options, "logger=csv", home=home)
    assert status == 0, output
    return home


@pytest.fixture
def home(trained_home: Path, tmp_path: Path) -> Path:
    """Return a copy of the folder for one test."""
    return Path(shutil.copytree(trained_home, tmp_path / "home"))


def evaluated(home: Path, *options: str, runs: tuple[str, ...] = (PLAIN,)) -> dict[str, dict[str, Any]]:
    """Return the newest entry for each split in the first run. Several ranks are started by the command."""
    folders = "run=" + ",".join(str(home / "outputs" / name) for name in runs)
    if any("ddp" in option for option in options):
        status, output = run("evaluate.py", folders, *options, home=home)
        assert status == 0, output
    else:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            composed = compose("evaluate", [quoted(folders), *options])
        main({str(key): value for key, value in OmegaConf.to_container(composed, resolve=True).items()})
    entries = read_json(RunDir(home / "outputs" / runs[0]).evaluations)["evaluations"]
    return {entry["split"]: entry for entry in entries[-2:]}


def numbers(entries: dict[str, dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    keys = ("num_images", "error", "error_top5")
    return {split: tuple(entry[key] for key in keys) for split, entry in entries.items()}


def networks(home: Path, *names: str) -> list[nn.Module]:
    runs = [RunDir(home / "outputs" / name) for name in names]
    return [trained(run).eval() for run in runs]


def images(home: Path, *, split: str) -> tuple[Tensor, Tensor]:
    data = in_memory(recorded(home / "outputs" / PLAIN))
    ((x, labels),) = data.evaluation(torch.device("cpu"))[data.splits.index(split)]
    return x, labels


@pytest.mark.parametrize("name", [PLAIN, RESNET])
def test_one_view_gives_the_last_errors_of_the_training(home: Path, name: str) -> None:
    entries, results = evaluated(home, runs=(name,)), read_json(RunDir(home / "outputs" / name).manifest)["results"]
    for split, num_images in (("val", 300), ("test", 297)):
        assert (entries[split]["error"], entries[split]["num_images"]) == (results[f"{split}/error"], num_images)
    assert 0 < entries["val"]["error_top5"] < entries["val"]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [64, 100_000])
def test_two_ranks_find_the_errors_of_one(home: Path, batch_size: int) -> None:
    """With more batches than ranks and with fewer."""
    options = (f"batch_size={batch_size}", "recompute_bn=true")
    alone = evaluated(home, *options, runs=(PLAIN, RESNET))
    together = evaluated(home, *options, "hardware=ddp_2cpu", runs=(PLAIN, RESNET))
    assert together["val"].pop("tested") >= alone["val"].pop("tested")
    assert together["val"] == alone["val"]
    assert numbers(together) == numbers(alone)


def test_an_ensemble_of_the_same_run_twice_is_that_run(home: Path) -> None:
    alone = numbers(evaluated(home))
    assert numbers(evaluated(home, runs=(PLAIN, PLAIN))) == alone
    assert numbers(evaluated(home, runs=(RESNET,))) != alone


def test_an_ensemble_is_the_average_of_its_networks_softmax(home: Path) -> None:
    """Compared with a plain average, in which each class of each image is ranked by counting."""
    entry = evaluated(home, "hardware.precision=32-true", runs=(PLAIN, RESNET))["val"]
    x, labels = images(home, split="val")
    with torch.no_grad():
        average = sum(net(x).double().softmax(1) for net in networks(home, PLAIN, RESNET)) / 2
    place = [sum(float(p) > float(of[label]) for p in of) for of, label in zip(average, labels.tolist(), strict=True)]
    assert entry["error"] == 100 * sum(p >= 1 for p in place) / 300
    assert entry["error_top5"] == 100 * sum(p >= 5 for p in place) / 300
    assert entry["runs"] == [Path(PLAIN).name, Path(RESNET).name]
    assert entry["precision"] == "32-true"
    other = read_json(RunDir(home / "outputs" / RESNET).evaluations)["evaluations"]
    assert entry in other  # every run of the ensemble has the entry


@pytest.mark.parametrize(("is_native", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_run_in_bf16_is_tested_in_bf16_where_the_device_has_it(
    is_native: bool, precision: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = read_json(file := RunDir(home / "outputs" / PLAIN).manifest)
    manifest["config"]["hardware"]["precision"] = "bf16-mixed"
    write_json(file, manifest)
    monkeypatch.setattr(hardware, "has_native_bf16", lambda accelerator: is_native)
    assert evaluated(home)["val"]["precision"] == precision
    told = "tested in 32-true, trained in bf16-mixed: the errors may differ by rounding" in capsys.readouterr().out
    assert told is not is_native
    assert evaluated(home, "hardware.precision=bf16-mixed")["val"]["precision"] == "bf16-mixed"


def test_recomputed_statistics_are_those_of_the_final_weights(home: Path) -> None:
    """For every batch norm if one batch has all images; for the first batch norm if several batches have them."""
    (net,), (x, _) = networks(home, RESNET), images(home, split="test")
    seen: dict[nn.Module, Tensor] = {}
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.register_forward_hook(lambda module, inputs, _: seen.update({module: inputs[0].detach()}))
    before = [norm.running_mean.clone() for norm in norms]
    recompute_bn(net, [(x, torch.zeros(len(x)))])
    for norm, old in zip(norms, before, strict=True):
        torch.testing.assert_close(norm.running_mean, seen[norm].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm.running_var, seen[norm].var((0, 2, 3)), rtol=1e-4, atol=1e-5)
        assert not torch.allclose(norm.running_mean, old, rtol=1e-2)
    of_all = norms[0].running_mean.clone()
    recompute_bn(net, [(part, torch.zeros(99)) for part in x.split(99)])
    torch.testing.assert_close(norms[0].running_mean, of_all, rtol=1e-4, atol=1e-5)
    assert not net.training


def test_an_entry_has_the_number_of_recompute_bns_images(home: Path) -> None:
    before, after = evaluated(home), evaluated(home, "recompute_bn=true", "bn_images=400")
    assert numbers(after) != numbers(before)
    assert (before["val"]["num_bn_images"], after["val"]["num_bn_images"]) == (0, 400)


def test_a_repeated_test_replaces_its_entry(home: Path) -> None:
    """Another test adds an entry."""
    evaluated(home), evaluated(home), evaluated(home, "recompute_bn=true")
    entries = read_json(RunDir(home / "outputs" / PLAIN).evaluations)["evaluations"]
    tests = [(entry["split"], entry["num_bn_images"] > 0) for entry in entries]
    assert tests == [("val", False), ("test", False), ("val", True), ("test", True)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no run was given; give run=outputs/"),
        (["run="], "no run was given; give run=outputs/"),
        (["run=nowhere"], "nowhere holds no run, and only finished runs can be tested"),
        (["run=RUN,nowhere"], "nowhere holds no run, and only finished runs can be tested"),
        (["run=RUN", "test=5crop"], "test=5crop is not known; use one of 1crop, 10crop, multiscale, 320"),
        (
            ["run=RUN", "test=10crop"],
            "needs images larger than the network's 8 pixels, as data=imagenet has; digits is",
        ),
        (["run=RUN", "data.root=x"], "data.root is not an option of data=digits; leave it out"),
        (["run=RUN", "batch_size=0"], "batch_size=0 is not a whole number of images, at least 1"),
        (["run=RUN", "recompute_bn=7"], "recompute_bn=7 is not true or false"),
        (["run=RUN", "bn_images=1.5"], "bn_images=1.5 is not a whole number of images, at least 1"),
        (["run=RUN", "hardware.devices=0"], "hardware.devices=0 is not a whole number of devices"),
        (["run=RUN", "hardware=slurm_1gpu"], "hardware=slurm_1gpu: a test is not submitted to SLURM; use hardware=gpu"),
        (["rnu=x"], "rnu is not an option; did you mean run?"),
        (["run=RUN", "depth=20"], "depth is not an option; python train.py has it"),
        (["--run=RUN"], "options are written without dashes, run=VALUE"),
    ],
)
def test_mistakes_are_refused_before_torch_is_imported(trained_home: Path, options: list[str], message: str) -> None:
    options = [option.replace("RUN", f"outputs/{PLAIN}") for option in options]
    status, output, modules = imported_modules(*options, home=trained_home, script="evaluate.py")
    assert (status, output.strip().count("\n")) == (2, 0), output
    assert output.strip().startswith("error: ")
    assert message in output
    assert "torch" not in modules


@pytest.mark.parametrize("hardware", ["cpu", pytest.param("ddp_2cpu", marks=pytest.mark.slow)])
def test_weights_that_do_not_match_their_manifest_are_refused(home: Path, hardware: str) -> None:
    folder = RunDir(home / "outputs" / PLAIN)
    for path in folder.checkpoint_files():
        content = torch.load(path, weights_only=True)
        content["state_dict"]["net.head.2.bias"] += 1
        torch.save(content, path)
    status, output = run("evaluate.py", f"run={folder.path}", f"hardware={hardware}", home=home)
    assert (status, output.count("\n")) == (2, 1), output
    assert "does not hold the weights of the finished run" in output


def test_a_run_without_checkpoint_or_manifest_is_refused(home: Path) -> None:
    folder = RunDir(home / "outputs" / PLAIN)
    shutil.rmtree(folder.checkpoints)
    with pytest.raises(UserError, match="holds no checkpoint, so there are no weights to test"):
        evaluated(home)
    folder.manifest.unlink()
    with pytest.raises(UserError, match="is not finished, and only finished runs can be tested"):
        evaluated(home)


def test_damaged_entries_are_refused_before_the_test(home: Path) -> None:
    RunDir(home / "outputs" / RESNET).evaluations.write_text('{"evaluations": [')
    with pytest.raises(UserError, match=r"evaluations\.json is damaged; move it away, and repeat the tests that it"):
        evaluated(home, runs=(PLAIN, RESNET))
    assert not RunDir(home / "outputs" / PLAIN).evaluations.exists()


def test_an_ensemble_of_runs_on_different_data_is_refused(home: Path) -> None:
    other = RunDir(home / "outputs" / RESNET)
    manifest = read_json(other.manifest)
    manifest["config"]["data"]["val_size"] = 0
    write_json(other.manifest, manifest)
    with pytest.raises(UserError, match=r"trained on the same data: data\.val_size is 300 and 0"):
        evaluated(home, runs=(PLAIN, RESNET))


def test_ctrl_c_ends_both_ranks_without_output(home: Path) -> None:
    process = start("evaluate.py", f"run=outputs/{PLAIN}", "hardware=ddp_2cpu", "batch_size=1", home=home)
    deadline = time.monotonic() + 60
    while len(ranks := psutil.Process(process.pid).children(recursive=True)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)  # the children are two ranks and multiprocessing's resource tracker
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    assert_gone(ranks)
    assert not RunDir(home / "outputs" / PLAIN).evaluations.exists()
