"""`python -m resnet_repro export run=FOLDER`: export a finished run's network for torchvision and timm."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from resnet_repro.errors import UserError
from resnet_repro.networks.resnet import ResNet
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.training.checkpoints import trained
from resnet_repro.weights.load import named_as
from resnet_repro.weights.names import TIMM_V2, TORCHVISION, State

USAGE = "python -m resnet_repro export run=outputs/imagenet/resnet_v1-50-s0 [to=torchvision|timm|ours] [out=FOLDER]"
TARGETS = ("torchvision", "timm", "ours")


def export(run: RunDir, *, to: str, out: Path) -> Path:
    """Write `model.safetensors` and `config.json` into `out`.

    timm builds the network from the two files (`timm.create_model("local-dir:OUT", pretrained=True)`). torchvision's
    network of the same depth takes the weights under the same names. `to="ours"` keeps our names, for any network.

    Returns:
        The file of the weights.

    Raises:
        UserError: if the run is not finished, its weights are gone, or the library has no such network.
    """
    if to not in TARGETS:
        raise UserError(f"to={to} is not known; use one of {', '.join(TARGETS)}")
    net, manifest = trained(run), read_json(run.manifest)
    if not isinstance(net, ResNet):
        source = manifest["config"]["arch"]["source"]
        raise UserError(
            f"{run.path} holds {source}'s own network, whose weights have those names already; take its checkpoint"
        )
    is_v2 = net.words["order"] == "full_preact"
    layout = None if to == "ours" else TIMM_V2 if to == "timm" and is_v2 else TORCHVISION
    state = named_as(net, layout)  # refuses before anything is written
    ours = {key: manifest[key] for key in ("name", "config", "results", "weights_sha256")}
    about = ours if layout is None else {**_for_timm(net, is_v2=is_v2), "resnet_repro": ours}
    out.mkdir(parents=True, exist_ok=True)
    weights = out / "model.safetensors"
    if layout:
        _write(state, weights, {})
    else:
        save(net, weights)
    write_json(out / "config.json", about)
    return weights


def save(net: nn.Module, file: Path) -> None:
    """Write a network's weights in our names as safetensors, with the words that build a plain or residual network."""
    words = {"words": json.dumps(net.words)} if isinstance(net, ResNet) else {}
    _write(named_as(net, None), file, words)


def _write(state: State, file: Path, metadata: dict[str, str]) -> None:
    part = file.with_suffix(".part")
    save_file(state, part, metadata={"format": "pt", **metadata})
    part.replace(file)


def _for_timm(net: ResNet, *, is_v2: bool) -> dict[str, Any]:
    """Return what timm needs to build a network: its name, its classes, and the names of its first and last layers."""
    linear = list(net.head)[-1]
    assert isinstance(linear, nn.Linear)
    first, last = ("stem.conv", "head.fc") if is_v2 else ("conv1", "fc")
    names = {"first_conv": first, "classifier": last}
    return {
        "architecture": f"resnet{'v2_' if is_v2 else ''}{net.words['depth']}",
        "num_classes": linear.out_features,
        "num_features": linear.in_features,
        "pretrained_cfg": {"num_classes": linear.out_features, "input_size": [3, 224, 224], **names},
    }


def main(arguments: list[str]) -> None:
    """Export the run that the command line names."""
    given = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if len(given) != len(arguments) or "run" not in given or not given.keys() <= {"run", "to", "out"}:
        raise UserError(f"give the folder of a finished run: {USAGE}")
    run, to = Path(given["run"]), given.get("to", "timm")
    print(export(RunDir(run), to=to, out=Path(given.get("out", f"exported/{run.name}-{to}"))))
