"""What checkpoints every 30 s cost: the time that saving takes beside the time of the whole run, in the same run.

    python benchmarks/checkpoint_overhead.py FOLDER_OF_CIFAR-10 [--runs 20:800,110:120]

Runs `python train.py` on this machine's CPU with one thread and `hardware.checkpoint_minutes=0.5`, DEPTH:STEPS each,
and adds up what its train.log says of every checkpoint. Prints a table in Markdown.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch

from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.training.manifest import machine

TRAIN = Path(__file__).parents[1] / "train.py"


def row(root: Path, depth: int, steps: int) -> str:
    """One run's line of the table."""
    with tempfile.TemporaryDirectory() as outputs:
        options = [f"depth={depth}", f"data.root={root}", "data.val_size=500", f"schedule.steps={steps}"]
        options += ["hardware=cpu", "hardware.checkpoint_minutes=0.5", "logger=csv", f"outputs={outputs}"]
        subprocess.run([sys.executable, TRAIN, *options], check=True, stdout=subprocess.DEVNULL)
        (path,) = Path(outputs).glob("cifar10/*")
        saves = [float(s) for s in re.findall(r"checkpoint saved in ([\d.]+) s", RunDir(path).log.read_text())]
        wall_time = read_json(RunDir(path).manifest)["wall_time_s"]
        size = RunDir(path).checkpoint_files()[0].stat().st_size
    each = 1e3 * sum(saves) / len(saves)
    share = sum(saves) / wall_time
    return f"| {depth} | {size / 1e6:.1f} MB | {len(saves)} in {wall_time:.0f} s | {each:.0f} ms | {share:.2%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--runs", default="20:800,110:120")
    options = parser.parse_args()
    print(f"Checkpoints every 30 s, ResNet v1, batch 128, one thread, {date.today()}")
    print(f"{machine(on_gpu=False)['cpu']}, torch {torch.__version__}\n")
    print("| depth | checkpoint | saves | each | of the run |\n|---:|---:|---:|---:|---:|")
    for pair in options.runs.split(","):
        depth, steps = map(int, pair.split(":"))
        print(row(options.root, depth, steps), flush=True)


if __name__ == "__main__":
    main()
