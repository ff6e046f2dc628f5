"""What fails under a run: full and read-only disks, folders that go away, a killed compiler, clocks that jump."""

import contextlib
import csv
import errno
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from resnet_repro.errors import UserError
from resnet_repro.launch.sockets import make_room
from resnet_repro.runs.folder import InUse, RunDir, read_json, write_json
from resnet_repro.training.run import run as train
from tests.helpers.commands import DIGITS, environment, manifests, run, start, wait_for_step
from tests.helpers.compilers import COMPILER, needs_compiler
from tests.helpers.runs import TINY, prepared

# --- disks ------------------------------------------------------------------------------------------------------------


def names(folder: RunDir) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Return a function that gives `outputs` a small disk of its own, or changes its options: "size=6m", "ro"."""
    outputs = tmp_path / "outputs"
    outputs.mkdir()

    def call(options: str) -> None:
        again = ["-o", f"remount,{options}"] if outputs.is_mount() else ["-t", "tmpfs", "-o", options, "tmpfs"]
        result = subprocess.run(["mount", *again, str(outputs)], capture_output=True, text=True, check=False)
        if result.returncode:
            pytest.skip(f"mounting is not allowed here: {result.stderr.strip()}")

    if shutil.which("mount") is None or not sys.platform.startswith("linux"):
        pytest.skip("mounts a small disk as Linux does")
    yield call
    if outputs.is_mount():
        subprocess.run(["umount", str(outputs)], check=True)


FULL = ("depth=20", "data=digits", "schedule.steps=44", "logger=csv", "hardware.checkpoint_steps=11")


@pytest.mark.slow
def test_a_disk_full_at_a_checkpoint_keeps_the_earlier_ones(mount: Callable[[str], None], tmp_path: Path) -> None:
    mount("size=6m")  # two checkpoints of 2.2 MB and no third one
    status, output = run("train.py", *FULL, home=tmp_path)
    assert status == 1
    reason = "✗ resnet_v1-20-s0__steps=44: the disk is full; free some space and run the same command again to go on"
    assert reason in output
    folder = RunDir(tmp_path / "outputs" / "digits" / "resnet_v1-20-s0__steps=44")
    assert names(folder) == ["step-00000011.ckpt", "step-00000022.ckpt"]
    assert "failed: the disk is full" in folder.log.read_text()
    assert "Traceback" not in folder.log.read_text()
    mount("size=20m")
    status, output = run("train.py", *FULL, home=tmp_path)
    assert status == 0, output
    assert "started again from step 22" in output
    assert names(folder) == ["step-00000033.ckpt", "step-00000044.ckpt"]


@pytest.mark.slow
def test_a_disk_without_room_for_a_line_still_gives_the_reason(mount: Callable[[str], None], tmp_path: Path) -> None:
    mount("size=20m")
    command = ("train.py", "depth=20", "data=digits", "schedule.steps=300", "hardware.checkpoint_steps=5")
    process = start(*command, home=tmp_path)  # with an offline W&B run beside it
    wait_for_step(tmp_path / "outputs", 20, num_runs=1)
    with (tmp_path / "outputs" / "ballast").open("wb", buffering=0) as ballast:
        for size in (2**16, 1):
            with contextlib.suppress(OSError):
                while True:
                    ballast.write(bytes(size))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "✗ resnet_v1-20-s0__steps=300: the disk is full; free some space and run the same command again" in output
    assert "Traceback" not in output
    (tmp_path / "outputs" / "ballast").unlink()
    status, output = run(*command, "logger=csv", home=tmp_path)
    assert status == 0, output
    assert "started again from step" in output
    status, output = run(*command, "logger=csv", "outputs=elsewhere", home=tmp_path)
    assert status == 0, output
    curve = "digits/resnet_v1-20-s0__steps=300/metrics.csv"
    assert (tmp_path / "outputs" / curve).read_bytes() == (tmp_path / "elsewhere" / curve).read_bytes()


def test_a_read_only_folder_is_refused_in_one_line(mount: Callable[[str], None], tmp_path: Path) -> None:
    mount("size=20m")
    path = prepared(tmp_path / "outputs")
    train(path)
    RunDir(path).manifest.unlink()
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    mount("ro")
    options = ("depth=8", *DIGITS, "logger=csv", f"outputs={tmp_path / 'outputs'}")
    for command in (options, (*TINY, f"outputs={tmp_path / 'outputs'}")):  # a new run and a begun one
        status, output = run("train.py", *command, home=tmp_path)
        assert status == 2
        assert output.startswith(f"error: {tmp_path / 'outputs'}/")
        assert "Read-only file system; if the folder is the problem, choose another with outputs=FOLDER" in output
        assert output.count("\n") == 1
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    mount("rw")
    assert train(path)["state"] == "done"


@pytest.mark.slow
def test_a_run_whose_folder_is_taken_away_ends_with_its_reason(tmp_path: Path) -> None:
    command = ("train.py", "depth=8", "data=digits", "schedule.steps=3000", "logger=csv")
    process = start(*command, home=tmp_path)
    wait_for_step(tmp_path / "outputs", 20, num_runs=1)
    (tmp_path / "outputs" / "digits").rename(tmp_path / "elsewhere")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert ": No such file or directory; fix that and run the same command again to go on" in output
    assert "/status.json" in output
    assert "Traceback" not in output


# --- file systems without locks ---------------------------------------------------------------------------------------

SMALL = ("data=digits", "depth=8", "schedule.steps=3", "logger=csv", "hardware.fused=false")


@pytest.fixture
def no_locks(tmp_path: Path) -> Callable[[int], dict[str, str]]:
    """Return a function that maps an error number to the variables of a process whose locks fail with it."""
    if COMPILER is None or not sys.platform.startswith("linux"):
        pytest.skip("puts a library of its own before the system's")
    source, library = tmp_path / "flock.c", tmp_path / "flock.so"
    source.write_text(
        "#include <errno.h>\n#include <stdlib.h>\n"
        'int flock(int f, int how) { errno = atoi(getenv("FLOCK_ERRNO")); return -1; }\n'
    )
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, source], check=True)
    return lambda number: {"LD_PRELOAD": str(library), "FLOCK_ERRNO": str(number)}


def test_a_run_whose_folder_cannot_be_locked_holds_it_by_a_file(
    no_locks: Callable[[int], dict[str, str]], tmp_path: Path
) -> None:
    status, output = run("train.py", *SMALL, home=tmp_path, variables=no_locks(errno.ENOSYS))
    assert status == 0, output
    (folder,) = (RunDir(path.parent) for path in tmp_path.glob("outputs/digits/*/manifest.json"))
    told = ".lock cannot be locked (Function not implemented): .held says that the folder is in use"
    assert told in folder.log.read_text()
    assert not (folder.path / ".held").exists()


def test_a_run_says_why_it_cannot_lock_its_folder(no_locks: Callable[[int], dict[str, str]], tmp_path: Path) -> None:
    status, output = run("train.py", *SMALL, home=tmp_path, variables=no_locks(errno.EIO))
    assert status == 1
    assert ".lock: Input/output error; fix that and run the same command again to go on" in output
    assert "Traceback" not in output


WITHOUT_LOCKS = [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP]


@pytest.fixture
def held(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that says who holds `tmp_path`, on a file system without locks."""
    number = getattr(request, "param", errno.ENOSYS)

    def flock(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    return tmp_path / ".held"


@pytest.mark.parametrize("held", WITHOUT_LOCKS, ids=errno.errorcode.get, indirect=True)
def test_one_process_at_a_time_holds_a_folder_by_a_file(held: Path, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with run.owned() as how:
        assert "cannot be locked" in how
        with pytest.raises(InUse, match=f"in use by process {os.getpid()} on .* remove {held}"), run.owned():
            pass
        assert held.exists()
    assert not held.exists()


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"begun": 0.0}], ids=["no process", "another of its number"])
def test_a_folder_of_a_process_that_is_gone_is_taken(change: dict[str, float], held: Path, tmp_path: Path) -> None:
    with RunDir(tmp_path).owned():
        left = read_json(held)
    write_json(held, left | change)
    with RunDir(tmp_path).owned():
        assert read_json(held) == left
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]


@pytest.mark.parametrize("text", ['{"host": "another", "pid": 1, "begun": 0.0}', ""], ids=["another machine", "empty"])
def test_a_folder_whose_process_cannot_be_asked_is_in_use(text: str, held: Path, tmp_path: Path) -> None:
    held.write_text(text)
    with pytest.raises(InUse, match="where it is gone, remove"), RunDir(tmp_path).owned():
        pass
    assert held.read_text() == text


# --- temporary folders ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_long_path_of_the_temporary_folder_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    loader = ("data.loader=dataloader", "data.num_workers=2")
    status, output = run("train.py", *SMALL, *loader, home=tmp_path, variables={"TMPDIR": str(folder)})
    assert status == 0, output
    assert len(manifests(tmp_path / "outputs")) == 1


def test_without_a_place_for_sockets_the_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("long" * 25)))
    monkeypatch.setattr("os.access", lambda folder, mode: False)
    with pytest.raises(UserError, match=r"TMPDIR=.*long is too long a path for sockets: set TMPDIR to a shorter path"):
        make_room()


@needs_compiler
@pytest.mark.parametrize("options", ["size=20m,noexec", "size=4k,nr_inodes=1"], ids=["no programs", "no room"])
def test_an_unusable_temporary_folder_leaves_batch_norms_fused(
    options: str, mount: Callable[[str], None], tmp_path: Path
) -> None:
    mount(options)
    code = "from resnet_repro.networks.fused import kernels; print(kernels().norm_forward.restype)"
    variables = environment(tmp_path) | {"TMPDIR": str(tmp_path / "outputs")}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("None\n", "")


# --- the compiler -----------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.slow
def test_a_killed_compiler_ends_the_run(tmp_path: Path) -> None:
    """Separate batch norms would give other last digits of the weights: another run."""
    compiler, killer = tmp_path / "cc", tmp_path / "killer"
    compiler.write_text(f'#!/bin/sh\n[ ! -e {killer} ] || kill -9 $$\nexec {COMPILER} "$@"\n')
    compiler.chmod(0o755)
    killer.touch()
    options, variables = ("train.py", "depth=8", *DIGITS, "logger=csv", "hardware=cpu"), {"CC": str(compiler)}
    status, output = run(*options, home=tmp_path, variables=variables)
    assert status == 1
    assert f"{compiler} cannot compile fused.c (killed by SIGKILL)" in output
    assert "run the same command again, or with hardware.fused=false" in output
    killer.unlink()
    status, output = run(*options, home=tmp_path, variables=variables)
    assert status == 0, output
    (manifest,) = manifests(tmp_path / "outputs").values()
    assert manifest["config"]["hardware"]["fused"] is True


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_clock_that_jumps_changes_no_duration_and_no_result(tmp_path: Path) -> None:
    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
    if library is None:
        pytest.skip("libfaketime is not installed (apt-get install faketime)")
    clock = tmp_path / "clock"
    clock.write_text("+0d")
    variables = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # a real monotonic clock does not jump either
    }
    begun = time.monotonic()
    process = start(
        "train.py", "data=digits", "depth=8", "schedule.steps=300", "logger=csv", home=tmp_path, variables=variables
    )
    for step, jump in ((50, "+3d"), (150, "-3d"), (250, "+3d")):
        wait_for_step(tmp_path / "outputs", step, num_runs=1)
        clock.write_text(jump)
    output, _ = process.communicate(timeout=60)
    took = time.monotonic() - begun
    assert process.returncode == 0, output
    (folder,) = (RunDir(path.parent) for path in tmp_path.glob("outputs/digits/*/manifest.json"))
    manifest = read_json(folder.manifest)
    started, finished = (datetime.fromisoformat(manifest[key]) for key in ("started", "finished"))
    assert (finished - started).days == 3  # the jump was seen
    assert 0 < manifest["wall_time_s"] < took
    assert names(folder) == ["step-00000300.ckpt"]  # no five minutes have gone by
    rates = [float(row["time/images_per_s"]) for row in csv.DictReader(folder.timing.open())]
    assert all(0 < rate < 1e6 for rate in rates)
    minutes = re.search(r"last step; (.*) s in all", output)
    assert minutes
    assert 0 < float(minutes[1]) <= took + 0.5
