"""Run directories as training writes them, with made-up curves that end at given errors."""

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

from resnet_repro.runs.job import resolve
from tests.helpers.runs import composed

SHA = "ab" * 32
NUM_IMAGES = {
    "digits": {"num_train_images": 1_408, "num_val_images": 5_000, "num_test_images": 297},
    "cifar10": {"num_train_images": 50_000, "num_val_images": 5_000, "num_test_images": 10_000},
    "cifar100": {"num_train_images": 50_000, "num_val_images": 5_000, "num_test_images": 10_000},
    "imagenet": {"num_train_images": 1_281_167, "num_val_images": 50_000},
}


def config(arch: str = "plain", depth: int = 20, seed: int = 0, **overrides: Any) -> dict[str, Any]:
    """The config that a manifest holds; overrides are dotted as on the command line, with `__` for the dot."""
    data = overrides.get("data__name", "digits")
    asked = composed(f"arch={arch}", f"data={data}", "logger=csv", "hardware=cpu") | {"depth": depth, "seed": seed}
    nested = resolve(asked).record()
    nested["hardware"] |= {"precision": "32-true", "channels_last": False, "fused": False, "devices": 2}
    if data == "digits":
        nested["schedule"]["protocol_steps"] = 275
    if data == "imagenet":
        nested["schedule"] |= {"steps": 600_000, "protocol_steps": 600_000, "shape": "plateau"}
    for key, value in overrides.items():
        group, _, name = key.partition("__")
        nested[group][name] = value
    return nested


def departures(overrides: dict[str, Any]) -> dict[str, Any]:
    """As a manifest has them."""
    return {key.replace("__", "."): value for key, value in overrides.items() if key != "data__name"}


def write_run(
    outputs: Path, arch: str = "plain", depth: int = 20, seed: int = 0, *,
    train: float = 2.0, test: float | None = 5.0, val: float | None = None,
    name: str | None = None, manifest: dict[str, Any] | None = None, results: dict[str, Any] | None = None,
    tests: list[dict[str, Any]] = (),  # type: ignore[assignment]
    **overrides: Any,
) -> Path:  # fmt: skip
    """A finished run with these final errors in %; `manifest` and `results` overwrite keys of the manifest, `tests` are
    what `python evaluate.py` has found of it.
    """
    made = config(arch, depth, seed, **overrides)
    name = name or f"{arch}-{depth}-s{seed}"
    folder = outputs / made["data"]["name"] / name
    folder.mkdir(parents=True)
    steps, every = made["schedule"]["steps"], max(1, made["schedule"]["steps"] // 100)
    finals = {"train": train, "test": test, "val": val}
    noise = random.Random(f"{arch} {depth} {seed}")
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(
            file, ["step", "epoch", "lr", *(f"{s}/error" for s, e in finals.items() if e is not None)]
        )
        writer.writeheader()
        for step in [*range(every, steps, every), steps]:  # a run logs its last step, too
            row: dict[str, Any] = {"step": step, "epoch": step // 390, "lr": 0.1}
            for split, final in finals.items():
                if final is None or (split != "train" and step % (5 * every) and step < steps):
                    continue
                t = step / steps
                drop = sum(t > milestone for milestone in (0.5, 0.75))
                level = final + (90 - final) * math.exp(-14 * t) + min(4, final) * (1, 0.25, 0)[drop]
                last = step == steps
                row[f"{split}/error"] = final if last else round(max(0, level * noise.uniform(0.93, 1.07)), 3)
            writer.writerow(row)
    errors = {f"{split}/error": error for split, error in finals.items() if error is not None}
    content = {
        "name": name,
        "state": "done",
        "config": made,
        "departures": departures(overrides),
        "results": {"step": steps, "train/loss": 0.1, **errors, "diverged_at": None}
        | NUM_IMAGES[made["data"]["name"]]
        | (results or {}),
        "num_parameters": {20: 269_722, 56: 853_018, 110: 1_727_962}.get(depth, 1_000_000),
        "data_checksum": "5f3c",
        "git_commit": "0123abc",
        "packages": {"torch": "2.14.1", "numpy": "2.4.0"},
        "machine": {"cpu": "Example 3000", "gpu": None, "os": "Linux", "python": "3.11.2"},
        "command": f"python train.py arch={arch} depth={depth} seed={seed} data={made['data']['name']}",
        "started": "2026-01-01T10:00:00",
        "finished": f"2026-01-01T10:00:{10 + seed:02d}",
        "wall_time_s": 12.3,
        "images_per_s": 1234.5,
        "peak_memory_mb": 512.0,
        "weights_sha256": SHA,
    }
    (folder / "manifest.json").write_text(json.dumps(content | (manifest or {})))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / f"step-{steps:09d}.ckpt").touch()
    if tests:
        (folder / "evaluations.json").write_text(json.dumps({"evaluations": list(tests)}))
    return folder


def entry(test: str, error: float, top5: float = 7.9, **changes: Any) -> dict[str, Any]:
    """What `python evaluate.py` records of the validation images; `changes` overwrite keys."""
    return {
        **{"test": test, "split": "val", "runs": ["alone"], "num_bn_images": 0, "num_images": 50_000},
        **{"error": error, "error_top5": top5, "paper_error": None, "paper_error_top5": None, "precision": "32-true"},
        **{"weights_sha256": [SHA], "data_checksum": "5f3c", "tested": "2026-01-02T10:00:00+00:00"},
    } | changes


def write_constructed(outputs: Path, arch: str, depth: int, *, begun: float = 1.0, **kwargs: Any) -> Path:
    """A run that began as one of 20 layers, with this error in % on the training images."""
    name = f"{arch}-{depth}-s0__init_from=20"
    folder = write_run(outputs, arch, depth, name=name, **kwargs)
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["config"]["init_from"] = manifest["departures"]["init_from"] = 20
    manifest["begun_with_weights"] = {
        "name": f"{arch}-20-s0",
        "num_predictions_that_differ": 0,
        "train_error": begun,
        "train_error_of_shallower": 1.0,
    }
    file.write_text(json.dumps(manifest))
    return folder


def write_comparator(outputs: Path, name: str = "alexnet", *, source: str = "torchvision", **kwargs: Any) -> Path:
    """A run of another library's network; alexnet, squeezenet and vgg16 begin at their own rate."""
    folder = write_run(outputs, "plain", 20, name=f"{source}-{name}-s{kwargs.get('seed', 0)}", **kwargs)
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    size = 64 if name == "alexnet" else None
    arch = {"source": source, "name": name, "image_size": size, "protocol": "paper_v1"}
    manifest["config"] |= {"depth": None, "arch": arch | {"multiply_adds": 94_000_000}}
    manifest["departures"] |= {"arch.image_size": size} if size else {}
    if "schedule.lr" not in manifest["departures"] and name in ("alexnet", "squeezenet1_1", "vgg16"):
        manifest["config"]["schedule"]["lr"] = 0.01
    file.write_text(json.dumps(manifest))
    return folder


def write_layers(folder: Path, *, stds: list[float] = (), gradients: dict[int, list[float]] | None = None) -> None:  # type: ignore[assignment]
    """What a run has measured of its layers: deviations by layer, and gradient norms by step and layer."""
    if stds:
        rows = [f"{layer},a,{std}" for layer, std in enumerate(stds, start=1)]
        (folder / "responses.csv").write_text("\n".join(["layer,name,std", *rows]))
    steps = (gradients or {}).items()
    rows = [f"{step},{layer},a,{norm},1.0" for step, norms in steps for layer, norm in enumerate(norms, start=1)]
    if rows:
        (folder / "gradients.csv").write_text("\n".join(["step,layer,name,norm,weight_norm", *rows]))


def write_example(outputs: Path) -> Path:
    """Six runs on digits, in which depth degrades the plain networks only, and three seeds of one full CIFAR-10 run."""
    for depth, train in ((20, 2.0), (56, 30.0), (110, 88.0)):
        write_run(outputs, "plain", depth, train=train, test=train + 1)
        write_run(outputs, "resnet_v2", depth, train=1.0, test=2.0)
    for seed, test in enumerate((6.4, 6.6, 6.9)):
        write_run(outputs, "resnet_v1", 110, seed, train=0.1, test=test, data__name="cifar10")
    return outputs


def write_every_state(outputs: Path) -> Path:
    """Runs in every state that a row of the papers may be in, and on every data set but ImageNet."""
    write_example(outputs)
    write_run(outputs, "resnet_v1", 20, test=8.75, data__name="cifar10")
    write_run(outputs, "resnet_v1", 56, test=30.0, data__name="cifar10")
    write_run(outputs, "resnet_v1", 1202, test=8.5, data__name="cifar10")
    write_run(outputs, "resnet_v1", 44, test=50.0, data__name="cifar10", schedule__steps=400)
    write_run(outputs, "resnet_v1", 20, 7, name="[a] b", test=9.0, data__name="cifar10")
    write_run(outputs, "resnet_v2", 110, test=6.4, data__name="cifar10")
    write_run(outputs, "plain", 20, test=9.0, data__name="cifar10")
    both = entry("1crop", 22.9, split="test", num_bn_images=400, runs=["resnet_v2-164-s0", "resnet_v2-164-s1"])
    write_run(outputs, "resnet_v2", 164, test=24.4, data__name="cifar100", tests=[both])
    return outputs
