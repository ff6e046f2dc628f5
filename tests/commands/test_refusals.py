"""A run continues only with the code, the torch and the data that it began with."""

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from resnet_repro.data import cifar
from resnet_repro.data.cifar import Form
from resnet_repro.errors import UserError
from resnet_repro.launch.checks import check_folders, claim
from resnet_repro.runs import resume
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.job import make_job
from resnet_repro.training.run import run as train
from tests.helpers.cifar_files import BATCHES, binary_file, md5_of
from tests.helpers.commands import ROOT, imported_modules, run
from tests.helpers.runs import composed, resolved

SHORT = ("data=digits", "depth=8", "logger=csv", "schedule.steps=4")
NAME = "resnet_v1-8-s0__steps=4"


def git(checkout: Path, *args: str) -> str:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    command = ["git", "-C", str(checkout), *identity, *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a checkout of this package to change; its scripts run its own code, not the installed one."""
    path = tmp_path / "checkout"
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in ("train.py", "README.md", ".gitignore"):
        shutil.copy(ROOT / file, path)
    git(path, "init", "--quiet")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "--message", "Begin")
    return path


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.mark.slow
def test_a_second_checkout_runs_and_records_its_own_code(checkout: Path, tmp_path: Path) -> None:
    append(checkout / "src" / "resnet_repro" / "training" / "classifier.py", "\nprint('of the second checkout')\n")
    git(checkout, "commit", "--quiet", "--all", "--message", "Say it")
    status, output = run(str(checkout / "train.py"), *SHORT, "hardware.fused=false", home=tmp_path)
    assert status == 0, output
    (path,) = tmp_path.glob("outputs/digits/*/manifest.json")
    manifest = read_json(path)
    assert manifest["code_sha256"] == resume.source_sha256(checkout / "src" / "resnet_repro")
    assert manifest["git_commit"] == git(checkout, "rev-parse", "HEAD")
    assert manifest["code_sha256"] != resume.CODE["code_sha256"]


@pytest.mark.slow
def test_only_a_change_of_training_code_prevents_resuming(checkout: Path, tmp_path: Path) -> None:
    script, folder = str(checkout / "train.py"), RunDir(tmp_path / "outputs" / "digits" / NAME)
    status, output = run(script, *SHORT, home=tmp_path)
    assert status == 0, output
    manifest = read_json(folder.manifest)
    assert manifest["code_sha256"] == resume.source_sha256(checkout / "src" / "resnet_repro")
    folder.manifest.unlink()  # as if killed before it wrote the manifest

    append(checkout / "README.md", "\nOne more sentence.\n")
    append(checkout / "src" / "resnet_repro" / "report" / "figures.py", "\n# one more line\n")
    git(checkout, "commit", "--quiet", "--all", "--message", "Say more")
    status, output = run(script, *SHORT, home=tmp_path)
    assert status == 0, output
    assert read_json(folder.manifest)["weights_sha256"] == manifest["weights_sha256"]
    folder.manifest.unlink()

    append(checkout / "src" / "resnet_repro" / "training" / "classifier.py", "\n# one more line\n")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    status, output, modules = imported_modules(*SHORT, home=tmp_path, script=script)
    assert status == 2
    now = resume.source_sha256(checkout / "src" / "resnet_repro")
    assert output.strip() == (
        f"error: outputs/digits/{NAME} was begun with something else: "
        f"code_sha256 was {manifest['code_sha256'][:12]} and is now {now[:12]}; "
        f"go back to commit {git(checkout, 'rev-parse', 'HEAD~')[:12]} to go on, or resume=false to start over"
    )
    assert "torch" not in modules  # known before anything starts
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_the_codes_checksum_covers_the_batch_norm_in_c(tmp_path: Path) -> None:
    package = shutil.copytree(Path(resume.__file__).parents[1], tmp_path / "package")
    append(package / "networks" / "fused.c", "\n/* one more line */\n")
    assert resume.source_sha256(package) != resume.CODE["code_sha256"]


@pytest.mark.slow
def test_no_job_imports_what_only_shows_runs() -> None:
    code = "import sys, resnet_repro.training.run, resnet_repro.launch.worker; print(*(m for m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.removeprefix("resnet_repro.") + ".py" for name in result.stdout.split()}
    package = Path(resume.__file__).parents[1]
    assert all((package / name).exists() for name in (*resume.TRAINING, *resume.NOT_TRAINING))
    assert {"training.classifier.py", "networks.resnet.py", "data.in_memory.py"} <= imported
    assert not imported & {name.replace("/", ".") for name in resume.NOT_TRAINING}
    rooms = {path.name for path in package.iterdir() if path.is_dir()}
    assert {name.split(".")[0] for name in imported} & rooms == {"networks", "data", "training", "runs", "launch"}


def test_what_is_auto_now_is_not_compared_with_the_value_of_an_earlier_release(tmp_path: Path) -> None:
    usual = composed()
    now = make_job(composed("depth=8", f"outputs={tmp_path}"), usual=usual)
    earlier = resolved("depth=8", "hardware.graph=false", "hardware.compile=false")
    assert now.run.hardware.graph == now.run.hardware.compile == "auto"
    resume.refuse_other_options(now, earlier)
    with pytest.raises(UserError, match=r"another run: schedule\.lr was 0\.2 and is now 0\.1; give the old values"):
        resume.refuse_other_options(now, resolved("depth=8", "hardware.graph=false", "schedule.lr=0.2"))
    explicit = make_job(composed("depth=8", "hardware.graph=false", f"outputs={tmp_path}"), usual=usual)
    with pytest.raises(UserError, match=r"another run: hardware\.graph was auto and is now False; give the old values"):
        resume.refuse_other_options(explicit, now.run)


def begun(folder: Path) -> RunDir:
    """Return a run with a checkpoint and without a manifest."""
    run = RunDir(folder)
    run.checkpoints.mkdir(parents=True)
    resume.record(run, resolved(), data_checksum="d1", git_commit="0123456789abcdef+")
    (run.checkpoints / "step-00000001.ckpt").touch()
    return run


def refusal(run: RunDir) -> str:
    with pytest.raises(UserError) as error:
        resume.refuse_another(run, {**resume.CODE, "data_checksum": "d1"})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_key_that_differs_is_named_with_its_way_back(tmp_path: Path) -> None:
    run = begun(tmp_path)
    write_json(run.begun, {**read_json(run.begun), "torch": "2.11.0", "data_checksum": "d0"})
    assert f"torch was 2.11.0 and is now {resume.CODE['torch']}, data_checksum was d0 and is now d1" in refusal(run)
    assert "install torch 2.11.0, restore the data to go on, or resume=false to start over" in refusal(run)
    write_json(run.begun, {**read_json(run.begun), "code_sha256": "c0"})
    assert "go back to commit 0123456789ab and what was changed after it, install torch" in refusal(run)


def test_a_run_that_did_not_record_its_code_is_not_continued(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.begun.unlink()
    assert "code_sha256 was not recorded and is now" in refusal(run)
    assert "restore the old code, install the old torch, restore the data to go on, or resume=false" in refusal(run)


def test_a_run_without_a_checkpoint_begins_with_todays_code(tmp_path: Path) -> None:
    job = make_job(composed(*SHORT, f"outputs={tmp_path}"), usual=composed("data=digits"))
    claim(job, group="test", command="python train.py")
    folder = RunDir(job.dir)
    write_json(folder.begun, {"code_sha256": "c0", "torch": "2.11.0", "data_checksum": "d0", "git_commit": None})
    check_folders([job])
    train(job.dir)
    assert read_json(folder.begun)["code_sha256"] == resume.CODE["code_sha256"]
    folder.manifest.unlink()
    write_json(folder.begun, {**read_json(folder.begun), "code_sha256": "c0"})
    for call in (lambda: check_folders([job]), lambda: train(job.dir)):  # a job may wait for days after the first
        with pytest.raises(UserError, match="code_sha256 was c0"):
            call()
    anew = make_job({**composed(*SHORT, f"outputs={tmp_path}"), "resume": False}, usual=composed("data=digits"))
    check_folders([anew])
    claim(anew, group="test", command="python train.py")
    assert train(anew.dir)["code_sha256"] == resume.CODE["code_sha256"]


@pytest.fixture
def small_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of `cifar100` with 40 training images and no test file yet."""
    *train_files, test = (md5_of(name, binary_file(b, 2)) for name, b in zip(("b1", "b2", "t"), BATCHES, strict=True))
    form = Form("bin", md5_of("a.tar.gz", b""), tuple(train_files), test, partial(cifar.decode_binary, label_bytes=2))
    monkeypatch.setitem(cifar.DATA_SETS, "cifar100", (form,))
    folder = tmp_path / "bin"
    folder.mkdir()
    for file, batch in zip(train_files, BATCHES[:2], strict=True):
        (folder / file.name).write_bytes(binary_file(batch, 2))
    return folder


def test_a_test_file_that_appears_between_two_runs_is_refused(small_cifar100: Path, tmp_path: Path) -> None:
    options = (
        "data=cifar100",
        "depth=8",
        "logger=csv",
        "data.num_train=40",
        "data.val_size=8",
        "schedule.batch_size=16",
    )
    config = composed(*options, "schedule.steps=2", f"data.root={tmp_path}", f"outputs={tmp_path / 'outputs'}")
    job = make_job(config, usual=composed("data=cifar100"))
    claim(job, group="test", command="python train.py")
    train(job.dir)
    folder = RunDir(job.dir)
    folder.manifest.unlink()
    (small_cifar100 / "t").write_bytes(binary_file(BATCHES[2], 2))
    metrics = folder.metrics.read_bytes()
    with pytest.raises(UserError, match=r"data_checksum was .* and is now .*; restore the data to go on, or"):
        train(job.dir)
    assert folder.metrics.read_bytes() == metrics


@pytest.mark.slow
def test_a_changed_data_file_is_named_and_nothing_is_lost(cifar10_root: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cifar10_root / "cifar-10-batches-bin", tmp_path / "cifar-10-batches-bin")
    steps = ("data.val_size=5000", "schedule.steps=4", f"data.root={tmp_path}")
    command = ("train.py", "depth=8", "logger=csv", *steps)
    status, output = run(*command, home=tmp_path)
    assert status == 0, output
    (run_folder,) = (RunDir(path.parent) for path in tmp_path.glob("outputs/*/*/manifest.json"))
    manifest = read_json(run_folder.manifest)
    run_folder.manifest.unlink()
    changed = folder / "data_batch_3.bin"
    content = changed.read_bytes()
    changed.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    status, output = run(*command, home=tmp_path)
    assert status == 1
    assert f"✗ {run_folder.path.name}: {changed} has the checksum md5:" in output
    changed.write_bytes(content)
    status, output = run(*command, home=tmp_path)
    assert status == 0, output
    assert read_json(run_folder.manifest)["weights_sha256"] == manifest["weights_sha256"]
