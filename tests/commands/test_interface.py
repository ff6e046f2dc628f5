"""The Python interface: `from resnet_repro import ResNet, train, load_run`."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import resnet_repro
from resnet_repro import load_run, train
from resnet_repro.errors import NotDone, UserError
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.training.manifest import weights_sha256
from tests.helpers.commands import environment, wait_for_step

SMALL = ("data=digits", "arch=plain", "schedule.steps=3", "logger=csv", "hardware.fused=false")
NAME = "plain-{depth}-s0__steps=3__fused=False"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_names_are_there_and_import_torch_when_used() -> None:
    code = (
        "import sys, resnet_repro; from resnet_repro import train, load_run; assert 'torch' not in sys.modules; "
        "net = resnet_repro.ResNet(depth=20, family='cifar', num_classes=10); print(len(net.stages))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"
    assert all(callable(getattr(resnet_repro, name)) for name in resnet_repro.__all__)
    with pytest.raises(AttributeError, match="module 'resnet_repro' has no attribute 'trian'"):
        _ = resnet_repro.trian


def test_train_returns_the_commands_runs_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    runs = train("depth=14,8", *SMALL)
    assert "2 jobs" in capfd.readouterr().out
    assert [run.directory.name for run in runs] == [NAME.format(depth=depth) for depth in (14, 8)]
    for run, depth in zip(runs, (14, 8), strict=True):
        manifest = read_json(RunDir(run.directory).manifest)
        assert (run.arch, run.options.depth) == ("plain", depth)
        assert run.errors == {split: manifest["results"][f"{split}/error"] for split in ("train", "test")}
        steps, errors = run.curve("test/error")
        assert (steps[-1], errors[-1]) == (3, run.errors["test"])
        assert len(run.responses["std"]) == depth - 1  # all layers but the last
        assert set(run.gradients["step"]) == {1, 2, 3}
        assert not run.network.training
        assert weights_sha256(run.network) == manifest["weights_sha256"]
    again = load_run(f"outputs/digits/{NAME.format(depth=8)}")
    assert again.manifest == runs[1].manifest
    with pytest.raises(UserError, match="has no curve val/error; use one of epoch, lr, train/loss, train/error, test/"):
        again.curve("val/error")
    assert train("depth=8", *SMALL, "plan=true") == []


def test_mistakes_are_one_line_and_failures_name_the_run(home: Path) -> None:
    with pytest.raises(UserError, match=r"^depth=9 is not 6n\+2 \(basic units\); nearest are 8 and 14$"):
        train("depth=9", *SMALL)
    with pytest.raises(UserError, match=r"^nowhere holds no finished run: python train\.py makes one$"):
        load_run("nowhere")
    broken = Path("outputs/digits") / NAME.format(depth=8)
    (broken / "metrics.csv").mkdir(parents=True)  # a folder in place of a file
    with pytest.raises(NotDone, match=f"^{broken}: IsADirectoryError: "):
        train("depth=8", *SMALL)
    with pytest.raises(UserError, match="holds no finished run"):
        load_run(broken)


@pytest.mark.slow
def test_ctrl_c_in_a_script_saves_its_runs(home: Path) -> None:
    script = home / "script.py"
    options = ("depth=8", *SMALL[:2], "schedule.steps=20000", "logger=csv", "hardware.compile=false")
    script.write_text(f"import resnet_repro\nresnet_repro.train(*{options!r})\n")  # unguarded, as people write it
    env = environment(home) | {"PYTHONPATH": str(Path(resnet_repro.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, script],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for_step(home / "outputs", 5, num_runs=1)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert "stopped at step" in said
    assert said.splitlines()[-1] == "KeyboardInterrupt"
    assert list(home.glob("outputs/digits/*/checkpoints/step-*.ckpt"))
