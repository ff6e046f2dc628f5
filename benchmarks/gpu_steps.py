"""Speeds of one network in one process, side by side, for `gpu_hour.py`: a line of JSON for each side, as they come.

    python benchmarks/gpu_steps.py NET DEVICE STEPS BATCH DETERMINISTIC SIDE ...

Ours is a whole run (`resnet_repro.training.run.run`) on noise, with its median images/s. On a CPU, which records no
graph, `graph` takes the same whole steps operation by operation, and compiling stops before code is generated.

The usual loop has the same network, loss and SGD, in bf16 and channels_last, compiled as a whole: fed by a DataLoader
with torchvision's augmentation, or, for the network's own speed, with one batch that stays on the device. Its batch
norm takes the whole batch, ours the papers' groups, except where a side says otherwise.
"""

import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count, islice, pairwise, repeat
from pathlib import Path
from typing import Any
from unittest import mock

import hydra
import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10

from resnet_repro.conf_dir import config_dir
from resnet_repro.data.options import InMemory
from resnet_repro.errors import Stopped
from resnet_repro.machine import num_cores
from resnet_repro.networks.build import build
from resnet_repro.runs.job import Job, resolve
from resnet_repro.runs.options import Hardware, Run, SettledHardware
from resnet_repro.training import hardware
from resnet_repro.training.run import run as train

OURS: dict[str, dict[str, Any]] = {
    "eager": {"graph": False},
    "graph": {"graph": True},
    "compiled": {"graph": False, "compile": True},
    "graph, compiled": {"graph": True, "compile": True},
    "graph, whole-batch norm": {"graph": True, "ghost_batch_size": None},
}
USUAL: dict[str, dict[str, Any]] = {
    "usual, compiled": {"loads": True},
    "usual, compiled, one batch": {},
    "usual, compiled, reduce-overhead, one batch": {"mode": "reduce-overhead"},
}
IMAGENET = (18, 34, 50, 101, 152, 200)
NUM_WARM_UPS = 10
"""Steps of the usual loop that are not counted."""


def run_of(net: str, device: str, steps: int, *, batch: int, deterministic: bool, **switches: Any) -> Run:
    """Return a run on noise that takes these steps; the switches are options of hardware and schedule."""
    arch, depth = net.split("-")
    is_imagenet = int(depth) in IMAGENET
    overrides = [f"arch={arch}", f"depth={depth}", f"data={'imagenet' if is_imagenet else 'cifar10'}", "logger=csv"]
    overrides += [f"hardware={'cpu' if device == 'cpu' else 'gpu'}", f"hardware.deterministic={deterministic}"]
    overrides += ["arch.unit=bottleneck"] if depth == "11" else []  # ResNet-164 in a rehearsal
    overrides += [f"schedule.steps={steps}", f"schedule.batch_size={batch}", "schedule.shape=steps"]
    overrides += ["schedule.warmup=null", "hardware.checkpoint_minutes=1000", f"schedule.eval_every={steps}"]
    with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
        config: Any = OmegaConf.to_container(hydra.compose("config", overrides), resolve=True)
    run = resolve(config)
    size = 32 if not is_imagenet else 224 if device != "cpu" else 64
    noise = InMemory(
        name="noise",
        num_train=4 * batch,
        num_classes=run.data.num_classes,
        image=(3, size, size),
        flip=True,
        normalise="channel",
        val_size=0,
        pad=0 if is_imagenet else 4,
        loader="device",
        num_workers=0,
    )
    groups = {
        name: {key: value for key, value in switches.items() if key in getattr(run, name).record()}
        for name in ("hardware", "schedule")
    }
    return run.but(data=noise, **{name: getattr(run, name).but(**values) for name, values in groups.items()})


# --- ours -------------------------------------------------------------------------------------------------------------


def ours(run: Run) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if run.hardware.accelerator == "cpu":
            stack.enter_context(mock.patch("resnet_repro.training.run.settle", _graph_on_any_device))
            stack.enter_context(mock.patch.object(nn.Module, "compile", _traced))
        stack.enter_context(_silence())
        manifest = train(Path(folder), Job(run, "gpu_steps", Path(folder), {}))
    return {key: manifest[key] for key in ("images_per_s", "first_step_s", "peak_memory_mb")}


def _graph_on_any_device(asked: Hardware, **may: bool) -> SettledHardware:
    return hardware.settle(asked.but(graph=False), **may).but(graph=asked.graph)


compile_module = nn.Module.compile


def _traced(net: nn.Module, **options: Any) -> None:
    compile_module(net, **{key: value for key, value in options.items() if key != "mode"}, backend="aot_eager")


@contextmanager
def _silence() -> Iterator[None]:
    """Send what is printed to stderr, where the caller keeps it; stdout is for results."""
    kept = os.dup(1)
    sys.stdout.flush()
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


# --- the usual loop ---------------------------------------------------------------------------------------------------


def usual(run: Run, device: str, *, loads: bool = False, mode: str | None = None) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(run.hardware.deterministic)
    torch.backends.cudnn.benchmark = not run.hardware.deterministic
    net = build(run.network, run.images).to(device, memory_format=torch.channels_last)
    (_traced if device == "cpu" else compile_module)(net, **({"mode": mode} if mode else {}))
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    batches = _loaded(run, device) if loads else repeat(_one_batch(run, device))
    steps, begin, seconds = run.schedule.steps, time.perf_counter(), []
    for step, (images, labels) in enumerate(islice(batches, steps + NUM_WARM_UPS)):
        if step >= NUM_WARM_UPS and (step - NUM_WARM_UPS) % max(1, steps // 10) == 0:
            synchronize()
            seconds.append(time.perf_counter())
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = F.cross_entropy(net(images.to(memory_format=torch.channels_last)), labels)
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        if step == 0:
            synchronize()
            first_s = time.perf_counter() - begin
    synchronize()
    seconds.append(time.perf_counter())
    windows = [after - before for before, after in pairwise(seconds)]
    rate = run.schedule.batch_size * max(1, steps // 10) / statistics.median(windows[: steps // max(1, steps // 10)])
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None
    return {"images_per_s": round(rate, 1), "first_step_s": round(first_s, 2), "peak_memory_mb": peak}


def _one_batch(run: Run, device: str) -> tuple[Tensor, Tensor]:
    shape = (run.schedule.batch_size, *run.data.image)
    return torch.randn(shape, device=device), torch.randint(0, run.data.num_classes, shape[:1], device=device)


def _loaded(run: Run, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of a DataLoader over torchvision's data set of random images, with its usual augmentation."""
    random, num, (_, size, _) = np.random.default_rng(0), max(5_000, run.schedule.batch_size), run.data.image
    dataset = CIFAR10.__new__(CIFAR10)
    dataset.data = random.integers(0, 256, (num, size, size, 3), dtype=np.uint8)
    dataset.targets = random.integers(0, run.data.num_classes, num).tolist()
    dataset.target_transform = None
    normalize = transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    augment = [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()]
    dataset.transform = transforms.Compose([*augment, transforms.ToTensor(), normalize])
    words: dict[str, Any] = {"num_workers": max(2, num_cores() - 1), "persistent_workers": True}
    loader = DataLoader(
        dataset, run.schedule.batch_size, shuffle=True, drop_last=True, pin_memory=device == "cuda", **words
    )
    for images, labels in (batch for _ in count() for batch in loader):
        yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def main() -> None:
    net, device, steps, batch, deterministic, *sides = sys.argv[1:]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    for side in sides:
        print(json.dumps({"begins": side}), flush=True)
        if device == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        make = partial(run_of, net, device, int(steps), batch=int(batch), deterministic=deterministic == "true")
        try:
            row = ours(make(**OURS[side])) if side in OURS else usual(make(), device, **USUAL[side])
        except Stopped:  # by a signal, which is meant for all sides
            sys.exit(1)
        except Exception as error:
            row = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
            poisoned = "CUDA error" in str(error)
        else:
            poisoned = False
        torch.compiler.reset()
        print(json.dumps({"side": side, **row}), flush=True)
        if poisoned:
            sys.exit(1)  # a process in which CUDA has failed measures nothing more


if __name__ == "__main__":
    main()
