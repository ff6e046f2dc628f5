"""A short run of `python train.py` for a benchmark, and what is left of it: evidence of what was run, and how fast."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from resnet_repro.runs.folder import RunDir, read_json

ROOT = Path(__file__).parents[1]
LEFT = ROOT / "results" / "benchmarks"
"""Where manifests and curves stay; the report leaves these runs out, which are too short to tell of errors."""


def command(outputs: str, *options: str) -> list[str | Path]:
    return [sys.executable, ROOT / "train.py", *options, "logger=csv", f"outputs={outputs}"]


def trained(*options: str, leaves: bool = True) -> dict[str, Any]:
    """The command's manifest: its images/s, and the config with the settings that it took on this machine."""
    with tempfile.TemporaryDirectory() as outputs:
        subprocess.run(command(outputs, *options), check=True, stdout=subprocess.DEVNULL)
        return manifest_of(outputs, leaves=leaves)


def manifest_of(outputs: str, *, leaves: bool = True) -> dict[str, Any]:
    """Of the only run below a folder."""
    (path,) = Path(outputs).glob("*/*/manifest.json")
    manifest: dict[str, Any] = read_json(path)
    if leaves:
        run = RunDir(path.parent)
        place = LEFT / f"{manifest['started'][:19].replace(':', '-')}_{manifest['name']}"
        place.mkdir(parents=True)
        (place / run.manifest.name).write_text(without_places(run.manifest.read_text(), outputs, manifest))
        shutil.copyfile(run.metrics, place / run.metrics.name)
    return manifest


def without_places(text: str, outputs: str, manifest: dict[str, Any]) -> str:
    """A manifest that does not tell where on this machine checkout, data and outputs lay."""
    root = str(manifest["config"]["data"].get("root", ""))
    text = text.replace(outputs, "OUTPUTS").replace(f"{ROOT}/", "")
    return text.replace(root, "FOLDER") if Path(root).is_absolute() else text
