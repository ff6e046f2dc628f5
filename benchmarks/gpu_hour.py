"""A GPU's first hour in one unattended command: `make gpu`.

    python benchmarks/gpu_hour.py [--minutes 25] [--cifar data] [--photos FOLDER] [--outputs outputs]
        [--into benchmarks/gpu] [--parts tests steps ...]
    python benchmarks/gpu_hour.py --device cpu --quick --into FOLDER    rehearse every part without a GPU

Each part has its share of the minutes, and each measurement its own limit. What fails or takes too long is recorded,
and the next begins. RESULTS.json and RESULTS.md are written after every measurement; log.txt has what was printed.
Parts that an earlier call has measured stay there, so the parts can share several short loans of a GPU. The steps also
go to benchmarks/results/, of which `make readme` writes the tables of docs/speed.md.

- tests: `pytest -m gpu`.
- steps: our four ways beside the usual loop compiled (gpu_steps.py), each deterministic and not.
- several: 1, 2, 4, 8 runs on the GPU at a time, eager and as graphs, without and with MPS.
- photographs: `python train.py data=imagenet depth=50` at batch 256, on FOLDER or on random photographs.
- cells: full runs of v1 Table 6, the cheapest first, in the fastest way that was measured. They go on at the next call.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from queue import Empty, Queue
from statistics import median
from threading import Thread
from typing import Any

import figures
import numpy as np
from PIL import Image

from resnet_repro import machine

ROOT = Path(__file__).parents[1]
WAYS = ["eager", "graph", "compiled", "graph, compiled"]
PASSES: list[tuple[bool, list[str]]] = [
    (True, ["eager", "graph", "graph, compiled", "usual, compiled, one batch"]),
    (False, ["eager", "graph", "graph, compiled"]),
    (True, ["compiled", "graph, whole-batch norm", "usual, compiled", "usual, compiled, reduce-overhead, one batch"]),
    (False, ["compiled", "usual, compiled, one batch"]),
]
"""Whether deterministic, and the sides of gpu_steps.py: what tells most comes first."""
SWITCHES = {
    "eager": ["hardware.graph=false"],
    "graph": ["hardware.graph=true"],
    "compiled": ["hardware.graph=false", "hardware.compile=true"],
    "graph, compiled": ["hardware.graph=true", "hardware.compile=true"],
}
SHOWN = {
    "graph": figures.OURS,
    "eager": figures.WITHOUT_GRAPHS,
    "compiled": "ours, `hardware.graph=false hardware.compile=true`",
    "graph, compiled": "ours, `hardware.compile=true`",
    "usual, compiled": figures.COMPILED,
    "usual, compiled, one batch": f"{figures.COMPILED}, one batch on the GPU",
}
"""The sides that docs/speed.md shows, as rows."""
NETS = {
    "resnet_v1-20": (1_000, 128),
    "resnet_v1-56": (500, 128),
    "resnet_v1-110": (300, 128),
    "resnet_v1-50": (60, 256),
    "resnet_v2-164": (200, 128),
}
"""Network: steps and images of a step, the most telling first. ResNet-50 is ImageNet's."""
QUICK_NETS = {"resnet_v1-8": (6, 72), "resnet_v2-11": (6, 16), "resnet_v1-18": (6, 2)}
CROWDS = [("graph", 1, False), ("graph", 4, True), ("graph", 4, False), ("graph", 8, True), ("graph", 8, False)]
CROWDS += [("eager", 1, False), ("eager", 4, True), ("eager", 4, False), ("graph", 2, True), ("graph", 2, False)]
"""Way, runs at a time, and whether MPS shares the GPU among them, the most telling first."""
QUICK_CROWDS = [("eager", 1, False), ("eager", 2, False), ("eager", 2, True)]
DEPTHS = (20, 32, 44, 56, 110, 1202)
"""The networks of v1 Table 6, the cheapest first."""
SEEDS = range(5)
MOST_S = 150
"""Seconds that a side may take, compiling included."""
GRACE_S = 30
"""Seconds that a command gets to save its state before it is killed."""

Row = dict[str, Any]


class OutOfTime(Exception):
    """A part's share of the minutes is over."""


class Hour:
    """The results so far, and the time that is left."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked, self.into = asked, asked.into
        self.on_gpu, self.quick = asked.device == "cuda", asked.quick
        self.end = self.until = time.monotonic() + 60 * asked.minutes
        self.into.mkdir(parents=True, exist_ok=True)
        self.log = (self.into / "log.txt").open("a")
        self.record: dict[str, Any] = {"about": about(asked), "parts": self._parts_before()}
        self.write()

    def _parts_before(self) -> dict[str, Row]:
        """Return the parts of an earlier call that this call does not measure, each with what that call was about."""
        try:
            before = json.loads((self.into / "RESULTS.json").read_text())
        except FileNotFoundError:
            return {}
        kept = {name: part for name, part in before["parts"].items() if name not in self.asked.parts}
        return {name: {"about": before["about"], **part} for name, part in kept.items()}

    @property
    def left_s(self) -> float:
        return self.until - time.monotonic()

    def run_part(self, name: str, part: Callable[["Hour"], Iterator[Row]], share: float) -> None:
        """Do a part and record its rows as they come, and how it ends."""
        begin = time.monotonic()
        self.until = min(self.end, begin + share * 60 * self.asked.minutes)
        entry: dict[str, Any] = {"state": "running", "rows": []}
        self.record["parts"][name] = entry
        try:
            if self.left_s <= 0:
                raise OutOfTime
            for row in part(self):
                entry["rows"].append(row)
                print(f"{name}: {_told(row)}", flush=True)
                self.write()
            entry["state"] = "done"
        except OutOfTime:
            entry["state"] = "out of time"
        except Exception as error:
            entry["state"] = f"failed: {type(error).__name__}: {error}"
        entry["seconds"] = round(time.monotonic() - begin, 1)
        print(f"{name}: {entry['state']}, {entry['seconds']} s", flush=True)
        self.write()

    def rows(self, part: str) -> list[Row]:
        return list(self.record["parts"].get(part, {}).get("rows", []))

    def write(self) -> None:
        for name, text in (("RESULTS.json", json.dumps(self.record, indent=1)), ("RESULTS.md", markdown(self.record))):
            scratch = self.into / f".{name}"
            scratch.write_text(text + "\n")
            scratch.replace(self.into / name)

    def call(self, command: list[Any], *, at_most_s: float) -> str:
        """Run a command; return what is wrong, else an empty text. What has no more time is asked to stop, then killed.

        Raises:
            OutOfTime: if the part has no time left to begin the command.
        """
        if self.left_s < 5:
            raise OutOfTime
        self.log.write(f"\n$ {shlex.join(map(str, command))}\n")
        self.log.flush()
        process = self.start(command, stdout=self.log)
        limit = min(at_most_s, self.left_s)
        try:
            status = process.wait(limit)
            return "" if status == 0 else f"ended with status {status}"
        except subprocess.TimeoutExpired:
            return f"took more than {limit:.0f} s"
        finally:
            end(process)

    def start(self, command: list[Any], **words: Any) -> "subprocess.Popen[str]":
        paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        where = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=where, stderr=self.log, text=True, start_new_session=True, **words
        )


def end(process: "subprocess.Popen[str]", *, patience_s: float = 0) -> None:
    """Stop a command that does not end by itself, as Ctrl-C does, which saves its runs; then kill what is left."""
    for ask, seconds in ((lambda: None, patience_s), (lambda: process.send_signal(signal.SIGINT), GRACE_S)):
        try:
            ask()
            process.wait(seconds)
            break
        except subprocess.TimeoutExpired:
            continue
    with suppress(ProcessLookupError):  # what it has started may outlive it
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def about(asked: argparse.Namespace) -> Row:
    """Return what a reader needs to know of machine, software and command; no CUDA context is made for that."""
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit,mig.mode.current"
    gpus = _said("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader") if asked.device == "cuda" else ""
    packages = ("torch", "torchvision", "pytorch-lightning", "numpy")
    return {
        "machine": machine.describe(),
        "gpu": gpus or "none: a rehearsal, whose figures say nothing about a GPU",
        "mps": shutil.which("nvidia-cuda-mps-control") is not None,
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in packages},
        "commit": _said("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "command": shlex.join(["python", *sys.argv]),
        "begun": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


# --- the parts --------------------------------------------------------------------------------------------------------


def tests(hour: Hour) -> Iterator[Row]:
    """`pytest -m gpu`; without a GPU its tests are skipped."""
    with tempfile.NamedTemporaryFile("r", suffix=".xml") as report:
        files = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in path.read_text()]
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", *files, f"--junitxml={report.name}"]
        wrong = hour.call(command, at_most_s=600)
        head = report.read(2_000).partition("<testsuite ")[2].partition(">")[0]
    counts = dict(word.split("=") for word in head.split() if word.count('"') == 2 and "=" in word)
    yield {"failed": wrong} | {
        key: counts.get(key, "").strip('"') for key in ("tests", "failures", "errors", "skipped")
    }


def steps(hour: Hour) -> Iterator[Row]:
    """Our four ways and the usual loop: pass by pass over all networks, each in a process of its own."""
    nets = QUICK_NETS if hour.quick else NETS
    for number, (deterministic, sides) in enumerate(PASSES):
        for net, (num_steps, batch) in nets.items():
            if hour.quick and number and net != next(iter(nets)):
                continue  # compiles the same code for minutes
            command = [net, hour.asked.device, num_steps, batch, str(deterministic).lower()]
            for row in sides_of(hour, command, list(sides)):
                yield {"net": net, "batch": batch, "deterministic": deterministic, **row}


def sides_of(hour: Hour, command: list[Any], sides: list[str]) -> Iterator[Row]:
    """Yield a row for each side. A side that dies or hangs costs its process, and another goes on with those behind.

    Raises:
        OutOfTime: if the part has no time left for the next side.
    """
    while sides:
        if hour.left_s < 5:
            raise OutOfTime
        process = hour.start([sys.executable, "benchmarks/gpu_steps.py", *command, *sides], stdout=subprocess.PIPE)
        lines: Queue[str] = Queue()
        Thread(target=_read, args=(process, lines), daemon=True).start()
        has_begun = is_new = True
        try:
            while sides:
                limit = max(1.0, min(MOST_S, hour.left_s))
                line = lines.get(timeout=limit)
                if not line:
                    if has_begun or is_new:  # else it ended because CUDA had failed, which is on record
                        yield {"side": sides.pop(0), "failed": f"its process ended with status {process.wait()}"}
                    break
                row, is_new = json.loads(line), False
                has_begun = "begins" in row
                if not has_begun:
                    sides.remove(row["side"])
                    yield row
        except Empty:
            yield {"side": sides.pop(0), "failed": f"took more than {limit:.0f} s"}
        finally:
            end(process, patience_s=0 if sides else GRACE_S)


def _read(process: "subprocess.Popen[str]", lines: "Queue[str]") -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            lines.put(line)
    lines.put("")


def several(hour: Hour) -> Iterator[Row]:
    """Several runs at a time on one GPU; a row's speed is the sum over its runs."""
    num_steps, data = (22, ["data=digits", "depth=8"]) if hour.quick else (3_000, cifar(hour))
    for way, num, mps in QUICK_CROWDS if hour.quick else CROWDS:
        if mps and hour.on_gpu and not hour.record["about"]["mps"]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            seeds = ",".join(map(str, range(num)))
            options = [*data, f"seed={seeds}", f"jobs={num}", f"mps={str(mps).lower()}", *switches(hour, way)]
            options += [f"schedule.steps={num_steps}", f"schedule.eval_every={num_steps}"]
            wrong = train(hour, options, Path(folder), at_most_s=180)
            speeds = [manifest["images_per_s"] for manifest in manifests(Path(folder))]
        row = {"way": way, "runs": num, "mps": mps}
        yield row | ({"failed": wrong} if wrong else {"images_per_s": round(sum(speeds), 1)})


def photographs(hour: Hour) -> Iterator[Row]:
    """ResNet-50 at batch 256 from files to weights, decoding included."""
    with tempfile.TemporaryDirectory() as scratch:
        root = few_to_validate(hour.asked.photos, Path(scratch)) if hour.asked.photos else None
        root = root or random_photos(Path(scratch), num=12 if hour.quick else 1_024)
        batch, num_steps, depth = (4, 5, 18) if hour.quick else (256, 40, 50)
        shape = [f"depth={depth}", f"schedule.batch_size={batch}", f"schedule.steps={num_steps}"]
        shape += [f"schedule.eval_every={num_steps}", "data.augment=scale_aspect", "schedule.shape=steps"]
        shape += ["data.crop=64", "data.num_mean_images=4"] if hour.quick else []
        for way in ["eager"] if hour.quick else ["eager", "compiled"]:
            for deterministic in ("true", "false"):
                options = ["data=imagenet", f"data.root={root}", *shape, *switches(hour, way)]
                with tempfile.TemporaryDirectory() as folder:
                    wrong = train(hour, [*options, f"hardware.deterministic={deterministic}"], Path(folder), 240)
                    speeds = [manifest["images_per_s"] for manifest in manifests(Path(folder))]
                row = {
                    "way": way,
                    "deterministic": deterministic == "true",
                    "batch": batch,
                    "cores": machine.num_cores(),
                }
                yield row | ({"failed": wrong} if wrong else {"images_per_s": speeds[0]})


def cells(hour: Hour) -> Iterator[Row]:
    """Full runs of v1 Table 6, one depth a command with as many seeds at a time as was fastest."""
    way, (num, mps) = fastest_way(hour), fastest_crowd(hour)
    length = ["data=digits", "schedule.steps=22"] if hour.quick else cifar(hour)
    for depth in (8,) if hour.quick else DEPTHS:
        seeds = SEEDS[:2] if hour.quick else SEEDS
        options = [*length, f"depth={depth}", f"seed={','.join(map(str, seeds))}", *switches(hour, way)]
        options += [f"jobs={num}", f"mps={str(mps).lower()}"]
        wrong = train(hour, options, hour.asked.outputs, at_most_s=hour.left_s)
        for manifest in manifests(hour.asked.outputs):
            config = manifest["config"]
            if config["depth"] == depth and config["seed"] in seeds and config["arch"]["name"] == "resnet_v1":
                error, seconds = manifest["results"].get("test/error"), manifest["wall_time_s"]
                yield {"cell": manifest["name"], "way": way, "at a time": num, "test error": error, "seconds": seconds}
        if wrong:
            yield {"cell": f"depth {depth}", "way": way, "failed": f"{wrong}; the same command goes on"}


PARTS: dict[str, tuple[Callable[[Hour], Iterator[Row]], float]] = {
    "tests": (tests, 0.1),
    "steps": (steps, 0.5),
    "several": (several, 0.15),
    "photographs": (photographs, 0.1),
    "cells": (cells, 0.15),
}
"""Each part, and its weight in sharing out the minutes; the last part gets what the others leave, too."""


# --- what the parts share ---------------------------------------------------------------------------------------------


def cifar(hour: Hour) -> list[str]:
    return [f"data.root={hour.asked.cifar.resolve()}"]


def switches(hour: Hour, way: str) -> list[str]:
    return [f"hardware={'gpu' if hour.on_gpu else 'cpu'}", "logger=csv", *(SWITCHES[way] if hour.on_gpu else [])]


def train(hour: Hour, options: list[str], outputs: Path, at_most_s: float) -> str:
    command = [sys.executable, "train.py", "-m", *options, f"outputs={outputs.resolve()}"]
    return hour.call(command, at_most_s=at_most_s)


def manifests(outputs: Path) -> list[Row]:
    return [json.loads(path.read_text()) for path in sorted(outputs.glob("*/*/manifest.json"))]


def fastest_way(hour: Hour) -> str:
    """Return the fastest of our deterministic ways at the first network; eager if none was measured."""
    rows = [row for row in hour.rows("steps") if row["deterministic"] and row["side"] in WAYS and "images_per_s" in row]
    first = [row for row in rows if row["net"] == rows[0]["net"]]
    return str(max(first, key=lambda row: row["images_per_s"], default={"side": "eager"})["side"])


def fastest_crowd(hour: Hour) -> tuple[int, bool]:
    """Return how many runs at a time had the highest speed in sum, and whether through MPS; 1 if none was measured."""
    rows = [row for row in hour.rows("several") if "images_per_s" in row]
    best = max(rows, key=lambda row: row["images_per_s"], default={"runs": 1, "mps": False})
    return best["runs"], best["mps"]


def few_to_validate(folder: Path, place: Path) -> Path:
    """Return a tree of the same training images, and of one validation image a class, which is not measured."""
    for split, num in (("train", None), ("val", 1)):
        for of_class in sorted((folder / split).glob("*/")):
            (place / split / of_class.name).mkdir(parents=True)
            for image in sorted(of_class.iterdir())[:num]:
                (place / split / of_class.name / image.name).symlink_to(image.resolve())
    return place


def random_photos(place: Path, *, num: int) -> Path:
    """Write JPEGs of 500 x 375 pixels and about 100 kB, as ImageNet's are, of smooth noise."""
    random = np.random.default_rng(0)
    for number in range(num + 2):
        split = "train" if number < num else "val"
        coarse = Image.fromarray(random.integers(0, 256, (94, 125, 3), dtype=np.uint8)).resize((500, 375))
        path = place / split / f"class{number % 2}" / f"{number}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.save(path, quality=96)
    return place


# --- for people -------------------------------------------------------------------------------------------------------


def _told(row: Row) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.items() if value not in ("", None))


def markdown(record: dict[str, Any]) -> str:
    """Return the tables of a record in Markdown."""
    lines = ["# A GPU's first hour", ""]
    lines += [
        f"- {key}: {_told(value) if isinstance(value, dict) else value}" for key, value in record["about"].items()
    ]
    for name, entry in record["parts"].items():
        lines += ["", f"## {name}: {entry['state']}", ""]
        if "about" in entry:
            lines += [f"By an earlier call, `{entry['about']['command']}`, at commit {entry['about']['commit']}.", ""]
        rows = entry["rows"]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        if rows:
            lines += [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
            lines += [f"| {' | '.join(_cell(row.get(key)) for key in columns)} |" for row in rows]
    lines += ["", *_ratios(record)]
    return "\n".join(lines).rstrip()


def _cell(value: Any) -> str:
    if value is None or value is False:
        return "" if value is None else "no"
    return "yes" if value is True else f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _ratios(record: dict[str, Any]) -> list[str]:
    """Return a table of our fastest way over the fastest usual loop, and of what determinism costs."""
    rows = [row for row in record["parts"].get("steps", {}).get("rows", []) if "images_per_s" in row]
    lines = []
    for net in dict.fromkeys(row["net"] for row in rows):
        ours = [row for row in rows if row["net"] == net and row["side"] in WAYS]
        usual = [row for row in rows if row["net"] == net and row["side"].startswith("usual")]
        pairs = [
            [
                row["images_per_s"]
                for row in rows
                if (row["net"], row["side"], row["deterministic"]) == (net, side, kind)
            ]
            for side in WAYS
            for kind in (True, False)
        ]
        costs = [free[0] / bound[0] for bound, free in zip(pairs[::2], pairs[1::2], strict=True) if bound and free]
        best = [max(side, key=lambda row: row["images_per_s"], default=None) for side in (ours, usual)]
        ratio = f"{best[0]['images_per_s'] / best[1]['images_per_s']:.2f}" if best[0] and best[1] else ""
        cost = f"{median(costs):.2f}" if costs else ""
        lines.append(f"| {net} | {best[0]['side'] if best[0] else ''} | {ratio} | {cost} |")
    head = ["## In short", "", "| network | our fastest way | over the fastest usual loop | what determinism costs |"]
    return [*head, "|---|---|---:|---:|", *lines] if lines else []


def shown(record: dict[str, Any]) -> figures.Record:
    """Return what docs/speed.md shows of a record: the deterministic steps of 128 images."""
    about, (gpu, driver, *_) = record["about"], record["about"]["gpu"].split(", ")
    facts = {"beside": about["machine"], "driver": driver, "Python": about["python"], "commit": about["commit"]}
    table: dict[str, dict[str, list[float]]] = {}
    for row in record["parts"].get("steps", {}).get("rows", []):
        if row["deterministic"] and row["batch"] == 128 and row["side"] in SHOWN and "images_per_s" in row:
            table.setdefault(row["net"], {})[SHOWN[row["side"]]] = [row["images_per_s"]]
    crowds: dict[str, dict[str, list[float]]] = {}
    for row in record["parts"].get("several", {}).get("rows", []):
        if row["way"] == "graph" and "images_per_s" in row:
            shares = figures.THROUGH_MPS if row["mps"] else figures.IN_TURNS
            crowds.setdefault(f"{row['runs']} at a time", {})[shares] = [row["images_per_s"]]
    return figures.Record(
        family=gpu.lower().replace(" ", "-"),
        cpu=gpu,
        date=about["begun"].partition("T")[0],
        command=about["command"],
        about=facts | about["versions"],
        tables={"gpu": table} | ({"several": crowds} if crowds else {}),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few steps: a rehearsal")
    parser.add_argument("--cifar", type=Path, default=Path("data"), help="folder of CIFAR-10")
    parser.add_argument("--photos", type=Path, help="folder with train/CLASS/* and val/CLASS/*; else random ones")
    parser.add_argument("--into", type=Path, default=ROOT / "benchmarks" / "gpu")
    parser.add_argument("--outputs", type=Path, help="where full runs go; outputs/, of a rehearsal INTO/outputs")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    asked = parser.parse_args()
    if asked.device == "cuda" and not machine.gpus():
        parser.error("no CUDA device is visible; --device cpu --quick rehearses without one")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    asked.outputs = asked.outputs or (asked.into / "outputs" if asked.quick else ROOT / "outputs")
    hour = Hour(asked)
    *others, last = (name for name in PARTS if name in asked.parts)
    weights = sum(PARTS[name][1] for name in (*others, last))
    for name in (*others, last):
        part, weight = PARTS[name]
        hour.run_part(name, part, 1.0 if name == last else weight / weights)
    if asked.device == "cuda" and {"steps", "several"} & {*asked.parts}:
        shown(hour.record).save()
        figures.write_results(figures.records())
    print(f"{hour.into / 'RESULTS.md'}", flush=True)


if __name__ == "__main__":
    main()
