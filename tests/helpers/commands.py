"""Running `python train.py` as a person does: real processes, nobody logged in to W&B, no network needed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from resnet_repro.launch.speed import SWITCH
from resnet_repro.runs.folder import RunDir, read_json

ROOT = Path(__file__).parents[2]
DIGITS = ("data=digits", "schedule.steps=22")


def environment(home: Path) -> dict[str, str]:
    """This one without anybody's W&B login, and not the one of a terminal; plans measure nothing, to save time."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "HYDRA_"))}
    return kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "COLUMNS": "120", SWITCH: "0"}


def start(
    script: str, *options: str, home: Path, variables: Mapping[str, str] | None = None, **kwargs: Any
) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / script), *options]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True} | kwargs
    env = environment(home) | dict(variables or {})
    return subprocess.Popen(command, cwd=home, env=env, start_new_session=True, preexec_fn=_heed_ctrl_c, **output)


def _heed_ctrl_c() -> None:
    """As on a terminal: what a script has started in the background ignores SIGINT, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(
    script: str, *options: str, home: Path, variables: Mapping[str, str] | None = None, limit: float = 240
) -> tuple[int, str]:
    """Exit status and everything printed, of a command that takes at most `limit` seconds."""
    process = start(script, *options, home=home, variables=variables)
    output, _ = process.communicate(timeout=limit)
    return process.returncode, output


def manifests(outputs: Path) -> dict[str, dict[str, Any]]:
    """Of every finished run, by name."""
    return {path.parent.name: read_json(path) for path in outputs.glob("*/*/manifest.json")}


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def imported_modules(*options: str, home: Path, script: str = "train.py") -> tuple[int, str, set[str]]:
    """Exit status, printed lines and every module that the command imported."""
    command = [sys.executable, "-X", "importtime", str(ROOT / script), *options]
    result = subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, check=False)
    lines = result.stderr.splitlines()
    modules = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    said = [line for line in lines if not line.startswith("import time:")]
    return result.returncode, result.stdout + "\n".join(said), modules


def wait_for_step(outputs: Path, step: int, *, num_runs: int) -> None:
    """Wait until that many runs have come that far."""
    for _ in range(6_000):  # five minutes: other work may be running
        steps = [RunDir(path.parent).read_status().get("step", 0) for path in outputs.glob("*/*/status.json")]
        if sum(s >= step for s in steps) >= num_runs:
            return
        time.sleep(0.05)
    raise AssertionError(f"no {num_runs} runs at step {step}: {steps}")


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
