"""Time of a training step, memory and start against depth: one short run of `python train.py` each, on this machine.

    python benchmarks/step_time.py [FOLDER OF CIFAR-10] [--depths 20 32 44 56] [--arch resnet_v2] [OPTION=VALUE ...]

The options go to the command: hardware.recompute=true, schedule.batch_size=64. A step's time is the batch over the
run's median images/s; the line through the depths has the cost of a layer as its slope and what every step costs
whatever the depth as its intercept. The start is from the command to the end of the first step.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from short_run import command, manifest_of

from resnet_repro.training.manifest import machine


def trained(depth: int, *options: str) -> tuple[dict[str, Any], float]:
    """The manifest of a run, and the seconds from its command to the end of its first step."""
    with tempfile.TemporaryDirectory() as outputs:
        start, first = time.perf_counter(), float("nan")
        with subprocess.Popen(command(outputs, f"depth={depth}", *options), stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and first != first:
                time.sleep(0.02)
                logs = (path.read_text() for path in Path(outputs).glob("*/*/train.log"))
                if any("compiling included" in log for log in logs):
                    first = time.perf_counter() - start
        if process.returncode:
            sys.exit(process.returncode)
        return manifest_of(outputs), first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path, default=Path("data"))
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 32, 44, 56])
    parser.add_argument("--arch", default="resnet_v2")
    parser.add_argument("--steps", type=int, default=40)
    options, overrides = parser.parse_known_args()
    overrides += [f"arch={options.arch}", f"data.root={options.root}", "data.val_size=500"]
    overrides += [f"schedule.steps={options.steps}", f"schedule.eval_every={options.steps}"]
    print(f"torch {torch.__version__}, Python {platform.python_version()}; {date.today()}")
    print(f"`python benchmarks/step_time.py FOLDER {' '.join(sys.argv[2:])}`\n")
    print("| depth | ms a step | images/s | peak memory, MiB | first step, s | command to first step, s |")
    print("|---:|---:|---:|---:|---:|---:|", flush=True)
    steps = []
    for depth in options.depths:
        manifest, first = trained(depth, *overrides)
        batch = manifest["config"]["schedule"]["batch_size"]
        steps.append(1000 * batch / manifest["images_per_s"])
        numbers = (steps[-1], manifest["images_per_s"], manifest["peak_memory_mb"])
        row = [f"{numbers[0]:,.1f}", *(f"{number:,.0f}" for number in numbers[1:]), f"{manifest['first_step_s']:.1f}"]
        print(f"| {depth} | {' | '.join(row)} | {first:.1f} |", flush=True)
    slope, intercept = np.polyfit(options.depths, steps, 1)
    about = machine(on_gpu=manifest["config"]["hardware"]["accelerator"] == "gpu")
    print(f"\n{slope:.2f} ms a layer and {intercept:.1f} ms a step. {about['gpu'] or about['cpu']}")


if __name__ == "__main__":
    main()
