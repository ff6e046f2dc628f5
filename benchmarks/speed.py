"""Everything about speed in one command: `make benchmark`, twenty minutes on a machine with nothing else to do.

    python benchmarks/speed.py [--cifar data] [--photos FOLDER] [--minutes 20] [--parts train ... [--keep]] [--quick]

Sides that are compared take turns, and each one's figure is its best turn. Each part has its share of the minutes; a
part without its data, or that fails, is left out with a line. Writes benchmarks/results/FAMILY.json, part by part, and
RESULTS.md from the records of all families; `make readme` writes docs/speed.md from the same records. With
`--quick`, or only some parts, prints the figures and writes nothing; `--keep` puts those parts into the record.

- train, pages: `python train.py` on CIFAR-10 beside the usual loop (usual_loop.py), and the floor (roofline.py).
- resnet50: the same on photographs in any folder, beside timm's ResNet-50.
- threads: one run on two cores, and two runs.
- start: the waits around training.
- decode, lightning: decode_throughput.py and lightning_share.py.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path

import figures
import psutil
import torch
from figures import Record
from processor import brand, cpu_facts, family
from roofline import cost, rates
from sides import ROOT, Failure, Start, in_turns, ours, usual
from usual_loop import network

from resnet_repro.data import cifar
from resnet_repro.data.photos import EXTENSIONS
from resnet_repro.errors import UserError
from resnet_repro.training.hardware import has_native_bf16
from resnet_repro.training.manifest import git_commit

PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
NETS = {"resnet_v1-20": 1.0, "resnet_v1-56": 1.2, "resnet_v1-110": 1.8, "resnet_v2-164": 3.0}
"""The networks on CIFAR-10, and their parts of the time."""
PAGES_NETS = {"resnet_v1-20": 1.0, "resnet_v1-56": 1.2}
"""Those on pages of 2 MB."""
SHARES = {
    "train": 0.56,
    "pages": 0.09,
    "resnet50": 0.21,
    "threads": 0.05,
    "start": 0.05,
    "decode": 0.02,
    "lightning": 0.02,
}
"""The parts, and their shares of the minutes."""


@dataclass(frozen=True)
class Task:
    """What a part works with."""

    record: Record
    cifar: str
    photos: Path | None
    seconds: float
    quick: bool

    def add(self, table: str, column: str, rows: dict[str, list[float]]) -> None:
        self.record.tables.setdefault(table, {}).setdefault(column, {}).update(rows)

    def take_turns(self, table: str, column: str, starts: dict[str, Start], seconds: float) -> None:
        """Measure sides and add their figures, or why there are none."""
        print(f" {column}", file=sys.stderr)
        if self.quick:
            starts = {name: starts[name] for name in (next(iter(starts)), next(reversed(starts)))}
        turns = in_turns(starts, seconds=seconds, turn=0.2 if self.quick else 2)
        self.add(table, column, turns.rates)
        self.record.missing |= {f"{table}, {column}, {name}": why for name, why in turns.missing.items()}
        if turns.saves and table == "train":
            self.add("checkpoints", column, {figures.CHECKPOINT: turns.saves})

    @property
    def compiler(self) -> str:
        return "--compile=eager" if self.quick else "--compile"  # a rehearsal needs no fast code


def in_shares(shares: dict[str, float], seconds: float) -> Iterator[tuple[str, float]]:
    """Yield names and their parts of the seconds; what one takes too long for is missing from all that follow."""
    end, left = time.monotonic() + seconds, sum(shares.values())
    for name, share in shares.items():
        yield name, max(0, end - time.monotonic()) * share / left
        left -= share


def train(task: Task, *, pages: bool = False) -> None:
    """CIFAR networks beside the usual loop."""
    if pages and not sys.platform.startswith("linux"):
        raise Failure("only Linux has these pages")
    nets = {"resnet_v1-8": 1.0} if task.quick else PAGES_NETS if pages else NETS
    env = PAGES if pages else {}
    for net, seconds in in_shares(nets, task.seconds):
        arch, depth = net.split("-")
        options = [f"arch={arch}", f"depth={depth}", f"data.root={task.cifar}", "data.val_size=500", "hardware=cpu"]
        usually = partial(usual, task.cifar, net, env=env)
        sides = {figures.OURS: ours(*options, env=env)}
        if not pages:
            sides |= {figures.FLOAT32: usually()}
        sides |= fast_peers(task, usually)
        task.take_turns("pages" if pages else "train", net, sides, seconds)
        add_cost(task, net, partial(network, net, 10), (3, 32, 32))


def fast_peers(task: Task, usually: Callable[..., Start]) -> dict[str, Start]:
    """Return what others may do for speed, in the format in which the processor is fastest."""
    if dtype() == torch.bfloat16:
        names, options = (figures.BF16, figures.COMPILED), ["--bf16", "--channels-last"]
    else:
        names, options = (figures.FLOAT32_CHANNELS_LAST, figures.FLOAT32_COMPILED), ["--channels-last"]
    return {names[0]: usually(*options), names[1]: usually(*options, task.compiler)}


def dtype() -> torch.dtype:
    """Return the format of activations in which this processor trains fastest."""
    return torch.bfloat16 if has_native_bf16("cpu") else torch.float32


def add_cost(task: Task, net: str, make_net: Callable[[], torch.nn.Module], image: tuple[int, ...]) -> None:
    """Add what a network costs, and what this machine does a second: once more, as other programs may slow it down."""
    names = figures.MULTIPLY_ADDS, figures.BYTES
    costs = cost(make_net, image, dtype())
    task.add("cost", net, {name: [1e-6 * each] for name, each in zip(names, costs, strict=True)})
    known = task.record.tables.get("rate", {}).get("one thread", {})
    now = {name: [*known.get(name, []), 1e-9 * each] for name, each in zip(names, rates(dtype()), strict=True)}
    task.add("rate", "one thread", now)


def resnet50(task: Task) -> None:
    """ResNet-50 on photographs, in two classes that say nothing."""
    depth, crop, batch = (18, 64, 8) if task.quick else (50, 224, 32)
    name = f"ResNet-{depth}"
    with tree_of(task.photos) as root:
        options = ["data=imagenet", f"data.root={root}", f"depth={depth}", "data.augment=scale_aspect", "data.colour=0"]
        options += [f"data.crop={crop}", f"schedule.batch_size={batch}", "hardware=cpu"]
        options += ["arch.stride_on=3x3"] if depth == 50 else []
        usually = partial(usual, str(root / "train"), f"resnet{depth}", f"--batch={batch}", f"--crop={crop}")
        sides = {
            **{figures.OURS: ours(*options), figures.FLOAT32: usually()},
            **fast_peers(task, usually),
        }
        task.take_turns("resnet50", name, sides, task.seconds)
    add_cost(task, name, partial(network, f"resnet{depth}", 2), (3, crop, crop))


@contextmanager
def tree_of(folder: Path | None) -> Iterator[Path]:
    """Yield a tree train/CLASS, val/CLASS of links to all photographs in a folder."""
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS) if folder else []
    if len(photos) < 64:
        raise Failure(f"{len(photos)} photographs in {folder}: give a folder of at least 64 by --photos FOLDER")
    with tempfile.TemporaryDirectory() as place:
        for split, some in (("train", photos), ("val", photos[:2])):
            for number, photo in enumerate(some):
                link = Path(place) / split / f"class{number % 2}" / f"{number:05}{photo.suffix}"
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(photo.resolve())
        yield Path(place)


def threads(task: Task) -> None:
    """One run on two cores."""
    if (psutil.cpu_count(logical=False) or 1) < 2:
        raise Failure("this machine has one core")
    net = "resnet_v1-8" if task.quick else "resnet_v1-20"
    options = ["arch=resnet_v1", f"depth={net[10:]}", f"data.root={task.cifar}", "data.val_size=500"]
    sides = {
        figures.ONE_THREAD: ours(*options, "hardware=cpu"),
        figures.TWO_THREADS: ours(*options, "hardware=cpu", "hardware.num_threads=2"),
        "one run, two ranks": ours(*options, "hardware=ddp_2cpu"),
        "two runs of one thread": ours("-m", *options, "hardware=cpu", "seed=0,1", "jobs=2", num_runs=2),
    }
    task.take_turns("threads", net, sides, task.seconds)


def start(task: Task) -> None:
    """The waits around training."""
    train, report = [sys.executable, str(ROOT / "train.py")], [sys.executable, str(ROOT / "report.py")]
    rows: dict[str, list[float]] = {}
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # most users let Python keep its bytecode
    with tempfile.TemporaryDirectory() as place:
        begin = time.monotonic()
        while not rows or (not task.quick and time.monotonic() < begin + 0.4 * task.seconds):
            outputs = Path(place) / str(time.monotonic())
            options = ["depth=20", "arch=resnet_v1", f"data.root={task.cifar}", "data.val_size=500", "hardware=cpu"]
            for name, seconds in waits([*train, *options, "schedule.steps=2", "logger=csv"], outputs).items():
                rows.setdefault(name, []).append(seconds)
        outputs = Path(place) / "ten"
        few = ["schedule.steps=2", "data=digits", "logger=csv", f"outputs={outputs}"]
        ten = [*train, "-m", "depth=8", "seed=0,1,2,3,4", "arch=plain,resnet_v2", *few]
        subprocess.run(ten, check=True, stdout=subprocess.DEVNULL)
        for name, command in {
            figures.REFUSAL: [*train, "depth=21"],
            figures.REPORT: [*report, f"outputs={outputs}", f"results={place}/none"],
        }.items():
            end = time.monotonic() + 0.2 * task.seconds
            while len(rows.setdefault(name, [])) < (1 if task.quick else 3) or time.monotonic() < end:
                begin = time.monotonic()
                subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                rows[name].append(time.monotonic() - begin)
    task.add("start", "s", rows)


def waits(command: list[str], outputs: Path) -> dict[str, float]:
    """Run a command of two steps and return its waits in seconds."""
    begin = time.monotonic()
    seen: dict[str, float] = {}
    with subprocess.Popen([*command, f"outputs={outputs}"], stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            time.sleep(0.02)
            log = "".join(path.read_text() for path in outputs.rglob("train.log"))
            for name, sign in {"first": "compiling included", "evaluated": "step 2: epoch"}.items():
                if sign in log:
                    seen.setdefault(name, time.monotonic())
            if list(outputs.rglob("manifest.json")):
                seen.setdefault("done", time.monotonic())
    if len(seen) < 3:
        raise Failure(f"`{' '.join(command)}` ended with status {process.returncode}, {len(seen)} of 3 signs seen")
    return {
        figures.FIRST_STEP: seen["first"] - begin,
        figures.MANIFEST: seen["done"] - seen["evaluated"],
        "manifest to the command's end": time.monotonic() - seen["done"],
    }


def script(task: Task, table: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
    """Add what a script of this folder prints as JSON, by column and row."""
    command = [sys.executable, str(ROOT / "benchmarks" / arguments[0]), *arguments[1:], "--seconds"]
    words = {"stdout": subprocess.PIPE, "text": True, "check": True}
    done = subprocess.run([*command, str(task.seconds)], env=os.environ | (env or {}), **words)
    for column, rows in json.loads(done.stdout).items():
        task.add(table, column, rows)


def decode(task: Task) -> None:
    with tree_of(task.photos) as root:
        script(task, "decode", "decode_throughput.py", str(root / "train"))


PARTS: dict[str, Callable[[Task], None]] = {
    "train": train,
    "pages": partial(train, pages=True),
    "resnet50": resnet50,
    "threads": threads,
    "start": start,
    "decode": decode,
    "lightning": lambda task: script(task, "lightning", "lightning_share.py", env=PAGES),  # as `train.py` starts runs
}
NEED_CIFAR = {"train", "pages", "threads", "start"}


def why_no_cifar(root: Path) -> str:
    """Download CIFAR-10 if it is missing, as `train.py` does. Return why it cannot be had, or nothing."""
    try:
        cifar.load(cifar.locate("cifar10", root, val_size=500, download=True))
    except UserError as error:
        return str(error)
    return ""


def about() -> dict[str, str]:
    """Return what a reader needs to judge the figures."""
    names = ("torch", "torchvision", "timm", "pytorch-lightning")
    commit, pages = git_commit().name or "unknown", "none"
    with suppress(OSError):
        pages = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text().split("[")[1].split("]")[0]
    return {
        "cores": str(psutil.cpu_count(logical=False)),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "load before": f"{psutil.getloadavg()[0]:.1f}",
        "huge pages": pages,
        "Python": platform.python_version(),
        **{name: version(name) for name in names},
        "commit": commit[:8] + "+" * commit.endswith("+"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, default=ROOT / "data")
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--keep", action="store_true", help="put these parts into the record of this processor family")
    parser.add_argument("--quick", action="store_true", help="rehearse every part in two minutes")
    asked = parser.parse_args()
    if asked.keep and asked.quick:
        parser.error("--keep keeps figures, and those of --quick say nothing: leave one of the two out")
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else suspended sides would stay behind
    cpu = cpu_facts()
    if psutil.getloadavg()[0] > 0.5:
        print("Other programs are busy: ratios may hold, figures will not.", file=sys.stderr)
    shown = " ".join(f"--{key} {key.upper()}" for key in ("cifar", "photos") if getattr(asked, key))
    record = Record(family(cpu), brand(cpu), str(date.today()), f"python benchmarks/speed.py {shown}", about())
    absent = why_no_cifar(asked.cifar)
    is_whole = asked.parts == list(PARTS) and not asked.quick
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # the second side that compiles the same finds it here
        for name, seconds in in_shares({name: SHARES[name] for name in asked.parts}, 60 * asked.minutes):
            task = Task(record, str(asked.cifar.resolve()), asked.photos, 1 if asked.quick else seconds, asked.quick)
            print(f"{name}, {seconds:.0f} s", file=sys.stderr)
            try:
                if absent and name in NEED_CIFAR:
                    raise Failure(absent)
                PARTS[name](task)
            except (Failure, subprocess.SubprocessError) as failure:
                record.missing[name] = str(failure)
                print(f"{name} is left out: {failure}", file=sys.stderr)
            if is_whole:
                record.save()
    if not is_whole and not asked.keep:
        print(figures.results_page([record]))
    else:
        if not is_whole:
            for known in (each for each in figures.records() if each.family == record.family):
                record = known.renewed(record, asked.parts)
            record.save()
        figures.write_results(figures.records())
        against = figures.not_borne_out(record) or ["none"]
        print("Claims that these figures do not bear out:", *against, sep="\n")


if __name__ == "__main__":
    main()
