"""How far it is from the command to a training step: what a reader who follows a step has to pass."""

import json
import subprocess
import sys
from pathlib import Path

from tests.helpers.commands import ROOT, environment
from tests.helpers.runs import prepared

OURS = """
import json, sys, traceback
from pathlib import Path

def ours():
    frames = [f for f in traceback.extract_stack()[:-2] if "/src/" in f.filename and "site-packages" not in f.filename]
    print("STACK", json.dumps([f"{Path(f.filename).stem}.{f.name}" for f in frames]), flush=True)
"""
COMMAND = """
from multiprocessing.process import BaseProcess

def start(self):
    ours()
    sys.exit(0)

BaseProcess.start = start
sys.argv = ["train.py", "data=digits", "depth=8", "logger=csv", "schedule.steps=4"]
from resnet_repro.cli import train
train()
"""
JOB = """
from resnet_repro.launch.worker import work
from resnet_repro.training.classifier import LitClassifier

def training_step(self, batch, batch_idx):
    ours()
    raise KeyboardInterrupt

LitClassifier.training_step = training_step
work(Path(sys.argv[1]))
"""


def stack(code: str, *arguments: str, home: Path) -> list[str]:
    """Return our functions on the stack where `code` calls `ours`."""
    command = [sys.executable, "-c", OURS + code, *arguments]
    done = subprocess.run(command, cwd=home, env=environment(home), capture_output=True, text=True, check=False)
    logs = "".join(path.read_text() for path in home.rglob("train.log"))
    (line,) = [line for line in (done.stdout + logs).splitlines() if line.startswith("STACK")]
    found: list[str] = json.loads(line.removeprefix("STACK"))
    return found


def test_seven_functions_lie_between_command_and_training_step(tmp_path: Path) -> None:
    """Two processes: the command's, which starts the job's."""
    assert (ROOT / "train.py").exists()
    command = stack(COMMAND, home=tmp_path)
    job = stack(JOB, str(prepared(tmp_path / "other")), home=tmp_path)
    assert command[0] == "cli.train"
    assert job[0] == "worker.work"
    assert len(command + job) <= 7, (command, job)
