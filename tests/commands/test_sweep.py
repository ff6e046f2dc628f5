"""`python train.py -m ...` as typed: real processes, real files, real W&B runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_repro.launch.exit_status import DONE, IN_USE
from resnet_repro.runs.folder import RunDir, read_json
from tests.helpers.commands import DIGITS, imported_modules, manifests, run, start
from tests.helpers.runs import prepared

NAMES = {f"{arch}-{depth}-s0__steps=22" for arch in ("plain", "resnet_v2") for depth in (8, 14)}
SWEEP = ("-m", "depth=8,14", "arch=plain,resnet_v2", *DIGITS, "jobs=2")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a home with spaces")


@pytest.fixture(scope="module")
def swept(home: Path) -> tuple[int, str, Path]:
    """Return exit status, output and outputs/ of a sweep of four jobs, two at a time."""
    status, output = run("train.py", *SWEEP, home=home)
    return status, output, home / "outputs"


def test_a_sweep_makes_every_run_in_a_folder_of_its_own(swept: tuple[int, str, Path]) -> None:
    status, output, outputs = swept
    assert status == 0, output
    assert manifests(outputs).keys() == NAMES
    hashes = {manifest["weights_sha256"] for manifest in manifests(outputs).values()}
    assert len(hashes) == 4


def test_a_sweep_begins_with_its_jobs_and_ends_with_a_table(swept: tuple[int, str, Path]) -> None:
    _, output, outputs = swept
    assert output.startswith("4 jobs; 4 to run of 22 steps each, 2 at a time: how long is not known")
    for name, manifest in manifests(outputs).items():
        (row,) = (line for line in output.splitlines() if line.startswith("│") and name in line)
        for split in ("train", "test"):
            assert f"{manifest['results'][f'{split}/error']:.2f}" in row


def test_a_repeated_sweep_skips_finished_runs_without_torch(home: Path, swept: tuple[int, str, Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in swept[2].glob("digits/*/*")}
    status, output, modules = imported_modules(*SWEEP, home=home)
    assert status == 0
    assert output.startswith("4 jobs; 4 done already\n")
    assert "torch" not in modules
    assert {path: path.stat().st_mtime_ns for path in swept[2].glob("digits/*/*")} == before


@pytest.mark.slow
def test_a_job_of_a_sweep_gives_the_bits_of_the_same_job_alone(swept: tuple[int, str, Path], tmp_path: Path) -> None:
    status, output = run("train.py", "depth=14", "arch=plain", *DIGITS, "logger=csv", home=tmp_path)
    assert status == 0, output
    name = "plain-14-s0__steps=22"
    alone, among = (manifests(outputs)[name] for outputs in (tmp_path / "outputs", swept[2]))
    assert alone["weights_sha256"] == among["weights_sha256"]
    csv = f"digits/{name}/metrics.csv"
    assert (tmp_path / "outputs" / csv).read_bytes() == (swept[2] / csv).read_bytes()
    assert not (tmp_path / "outputs" / "wandb").exists()


def test_every_job_is_an_offline_wandb_run_that_can_be_read_back(swept: tuple[int, str, Path]) -> None:
    _, output, outputs = swept
    folders = sorted((outputs / "wandb").glob("offline-run-*"))
    assert len(folders) == 4
    assert f"wandb sync {Path('outputs/wandb')}/offline-run-*" in output
    groups = set()
    for folder in folders:
        wandb = Path(sys.executable).with_name("wandb")
        command = [wandb, "leet", "inspect", "--json", next(folder.glob("run-*.wandb"))]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        records = [json.loads(line) for line in lines]
        (about,) = (record["run"] for record in records if record["type"] == "run")
        manifest = manifests(outputs)[about["display_name"]]
        config = manifest["config"]
        assert set(about["tags"]) == {config["arch"]["name"], f"depth-{config['depth']}", "digits"}
        groups.add(about["run_group"])
        assert about["config"]["update"]["schedule"]["lr"] == 0.1
        assert about["config"]["update"]["hardware"] == config["hardware"]
        history = [record["history"]["item"] for record in records if record["type"] == "history"]
        assert [row["responses/layer"] for row in history if "responses/layer" in row] == [*range(1, config["depth"])]
        history = [row for row in history if "responses/layer" not in row]
        assert history[-1]["_step"] == 22
        assert history[-1]["trainer/global_step"] == 22
        for key in ("train/error", "train/loss", "test/error", "test/loss", "lr", "time/images_per_s"):
            assert key in history[-1]
        assert history[-1]["test/error"] == manifest["results"]["test/error"]
    assert len(groups) == 1


@pytest.mark.slow
def test_a_failed_job_leaves_the_sweep_and_is_made_next_time(tmp_path: Path) -> None:
    sweep = ("-m", "depth=8,14", "arch=plain", *DIGITS, "jobs=1", "logger=csv")
    obstacle = tmp_path / "outputs/digits/plain-14-s0__steps=22/metrics.csv"
    obstacle.mkdir(parents=True)  # a folder in place of a file; the deeper, longer job runs first
    status, output = run("train.py", *sweep, home=tmp_path)
    assert status == 1
    assert "✗ plain-14-s0__steps=22: IsADirectoryError" in output
    assert "see outputs/digits/plain-14-s0__steps=22/train.log" in output
    assert manifests(tmp_path / "outputs").keys() == {"plain-8-s0__steps=22"}
    obstacle.rmdir()
    status, output = run("train.py", *sweep, home=tmp_path)
    assert status == 0, output
    assert "1 done already" in output


def test_a_run_that_another_process_holds_is_left_alone(tmp_path: Path) -> None:
    path = prepared(tmp_path)
    before = sorted(path.iterdir())
    code = (
        "from pathlib import Path; from resnet_repro.launch import worker; worker.PATIENCE_S = 0.1\n"
        f"worker.work(Path({str(path)!r}))"
    )
    with RunDir(path).owned():
        result = subprocess.run([sys.executable, "-c", code], start_new_session=False, check=False)
    assert result.returncode == IN_USE
    assert {*path.iterdir()} - {path / ".lock"} == set(before)


@pytest.mark.slow
@pytest.mark.parametrize("hardware", ["cpu", "ddp_2cpu"])
def test_two_sweeps_started_by_mistake_make_each_run_once(hardware: str, tmp_path: Path) -> None:
    """Only one process begins a run; the other sweep waits a moment, then says that the run is in use."""
    sweep = ("-m", "depth=8", "seed=0,1,2", "data=digits", "schedule.steps=600", f"hardware={hardware}", "logger=csv")
    processes = [start("train.py", *sweep, home=tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert len(manifests(tmp_path / "outputs")) == 3
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == (1 if "another process runs it" in output else 0), output
    for log in tmp_path.glob("outputs/*/*/train.log"):
        assert log.read_text().count("running: starting") == 1
    for path in tmp_path.glob("outputs/*/*/metrics.csv"):
        steps = [int(row.split(",")[0]) for row in path.read_text().splitlines()[1:]]
        assert steps == sorted(set(steps))


def test_a_run_that_another_sweep_has_made_meanwhile_is_kept(swept: tuple[int, str, Path]) -> None:
    path = swept[2] / "digits" / "plain-14-s0__steps=22"
    before = {file: file.stat().st_mtime_ns for file in path.iterdir() if file.name != ".lock"}
    code = f"from pathlib import Path; from resnet_repro.launch.worker import work; work(Path({str(path)!r}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == DONE
    assert {file: file.stat().st_mtime_ns for file in path.iterdir() if file.name != ".lock"} == before


def test_a_damaged_manifest_of_another_run_ends_no_sweep(home: Path, swept: tuple[int, str, Path]) -> None:
    damaged = swept[2] / "digits" / "damaged" / "manifest.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    status, output = run("train.py", *SWEEP, home=home)
    damaged.unlink()
    damaged.parent.rmdir()
    assert (status, output.splitlines()[0]) == (0, "4 jobs; 4 done already")


@pytest.mark.slow
def test_resume_false_puts_the_old_run_aside_and_starts_over(home: Path, swept: tuple[int, str, Path]) -> None:
    name = "plain-8-s0__steps=22"
    before = manifests(swept[2])[name]
    status, output = run("train.py", "depth=8", "arch=plain", *DIGITS, "resume=false", "logger=csv", home=home)
    assert status == 0, output
    after = manifests(swept[2])[name]
    assert after["weights_sha256"] == before["weights_sha256"]
    assert after["started"] != before["started"]
    (aside,) = swept[2].glob(f".replaced/*/digits/{name}/manifest.json")
    assert read_json(aside) == before


def test_a_folder_of_another_run_is_refused_and_left_as_it_is(home: Path, swept: tuple[int, str, Path]) -> None:
    folder = RunDir(swept[2] / "digits" / "plain-14-s0__steps=22")
    job = folder.job.read_text()
    folder.job.write_text(job.replace('"lr": 0.1', '"lr": 0.2'))
    try:
        status, output = run("train.py", "depth=14", "arch=plain", *DIGITS, home=home)
    finally:
        folder.job.write_text(job)
    assert status == 2
    assert (
        "holds another run: schedule.lr was 0.2 and is now 0.1; give the old values to go on, or resume=false" in output
    )
    assert output.count("\n") == 1


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="no groups of sessions here")
def test_the_runs_of_a_nice_command_are_nice() -> None:
    """Each run is a session of its own, whose niceness is that of its processes and not 0."""
    code = (
        "import os; from resnet_repro.launch import worker; os.setsid(); worker._keep_niceness()\n"
        "print(open('/proc/self/autogroup').read())"
    )
    command = ["nice", "-n", "7", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(f"nice {min(os.nice(0) + 7, 19)}")
