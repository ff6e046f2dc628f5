"""Load other libraries' weights into our networks, and give our weights their names."""

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from resnet_repro.conf_dir import CHECKOUT
from resnet_repro.errors import UserError, first_words, printable
from resnet_repro.networks.options import Residual
from resnet_repro.networks.resnet import ResNet
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.options import Run
from resnet_repro.training.checkpoints import trained
from resnet_repro.weights.names import AKAMASTER, LAYOUTS, TIMM_V2, Layout, State, refuse, their_name, zeros_behind

HUB = {  # networks that compute the same as ours; others, such as resnetblur50, may have the same layer names
    "torchvision": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "timm": (
        *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"),
        *("resnetv2_50", "resnetv2_101", "resnetv2_152"),
    ),
}


# --- in ---------------------------------------------------------------------------------------------------------------


def load(net: ResNet, source: str | Path) -> None:
    """Load weights from a file, a finished run or a library's hub into a network: all of them or none.

    Args:
        source: a file of safetensors or PyTorch (read with `weights_only=True`), in our names or those of torchvision,
            timm or akamaster/pytorch_resnet_cifar10, alone or in a training script's checkpoint (WRAPPINGS, PREFIXES);
            the folder of a finished run, or a folder that `resnet_repro.weights.export` wrote;
            `resnet_repro:resnet_v1-20-s0`, a run in results/ with its weights;
            `torchvision:resnet50` (`...:resnet50.IMAGENET1K_V1`) or `timm:resnet50.a1_in1k`, which are fetched.

    Raises:
        UserError: if there is no such source, or it holds another network; names the weights that are missing, unknown
            or of another shape.
    """
    state, theirs = _read(str(source))
    _refuse_other_words(str(source), net, theirs)
    layout = next((layout for layout in LAYOUTS if all(mark in state for mark in layout.marks)), None)
    if layout:
        refuse(net, layout, what=str(source))
    names = {our: their_name(our, layout) for our in net.state_dict()}
    # files older than PyTorch 0.4.1 have no count of batches, which nothing reads
    state |= {n: torch.tensor(0) for n in names.values() if n.endswith("num_batches_tracked") and n not in state}
    _refuse_other_names(str(source), state, names.values())
    ours = {our: state[name] for our, name in names.items()}
    if layout is TIMM_V2:
        ours["head.4.weight"] = ours["head.4.weight"].flatten(1)  # a convolution of 1x1
        if num := int((ours["stem.1.weight"] < 0).sum()):
            # timm pools before this batch norm, and a negative scale makes the largest number the smallest
            raise UserError(
                f"{source}: {num} scales of stages.0.blocks.0.norm1 are negative, which our network cannot compute; "
                "give other weights"
            )
    for name, tensor in net.state_dict().items():
        if ours[name].shape != tensor.shape:
            given, needed = tuple(ours[name].shape), tuple(tensor.shape)
            raise UserError(f"{source}: {names[name]} has the shape {given}, and this network needs {needed}")
    if layout is AKAMASTER and net.words["shortcut"] == "A":
        ours = zeros_behind(ours)
    net.load_state_dict(ours)


def named_as(net: nn.Module, layout: Layout | None) -> State:
    """Return a network's weights under a layout's names, for a network of that library that computes the same.

    Args:
        layout: None: our own names.

    Raises:
        UserError: if the library has no such network.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    if layout is None:
        return state
    assert isinstance(net, ResNet)
    refuse(net, layout, what="it cannot be exported there")
    if layout is TIMM_V2:
        # timm pools before this batch norm, so no scale may be negative: turn its sign and that of the convolution
        sign = torch.where(state["stem.1.weight"] < 0, -1.0, 1.0)
        for name in ("stem.1.weight", "stem.1.running_mean"):
            state[name] = state[name] * sign
        state["stem.0.weight"] = state["stem.0.weight"] * sign[:, None, None, None]
        state["head.4.weight"] = state["head.4.weight"][..., None, None]
    return {their_name(name, layout): tensor for name, tensor in state.items()}


def _refuse_other_words(source: str, net: ResNet, theirs: dict[str, Any]) -> None:
    differ = [key for key, value in theirs.items() if key in net.words and net.words[key] != value]
    if differ:
        values = ", ".join(f"{key}={theirs[key]} and not {net.words[key]}" for key in differ)
        raise UserError(f"{source} holds a network of {values}; build that network")


def _refuse_other_names(source: str, given: Iterable[str], needed: Iterable[str]) -> None:
    given, needed = set(given), set(needed)
    parts = [
        f"{len(names)} {kind} ({', '.join(sorted(names)[:4])}{', ...' if len(names) > 4 else ''})"
        for kind, names in (("missing", needed - given), ("unknown", given - needed))
        if names
    ]
    if parts:
        raise UserError(
            f"{source} holds another network: weights {' and '.join(parts)}; build a network of its depth and options"
        )


# --- sources ----------------------------------------------------------------------------------------------------------


def _read(source: str) -> tuple[State, dict[str, Any]]:
    """Return the weights by their names, and the words of the network if it is one of ours."""
    library, _, name = source.partition(":")
    if library in HUB:
        return _fetch(library, name), {}
    path = _kept(name) if library == "resnet_repro" else Path(source)
    if RunDir(path).job.exists() or RunDir(path).manifest.exists():
        net = trained(RunDir(path))
        if not isinstance(net, ResNet):
            raise UserError(f"{source} holds another library's network; give a plain or residual network")
        return net.state_dict(), net.words
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        known = " or ".join(f"{library}:{names[2]}" for library, names in HUB.items())
        raise UserError(f"{path} is not there; give a file of weights, the folder of a finished run, or {known}")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                return {key: file.get_tensor(key) for key in file.keys()}, json.loads(metadata.get("words", "{}"))  # noqa: SIM118
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({first_words(error)}); make it readable, or give another file"
        ) from None
    except (
        Exception
    ) as error:  # SafetensorError, pickle.UnpicklingError and others: readers raise anything on damaged files
        raise UserError(_why_not_read(path, error)) from None
    return _tensors(path, content)


def _kept(name: str) -> Path:
    """Return the folder of a run in results/, of the current folder or of this checkout, that has its weights."""
    folders = {
        run.name: run for root in (CHECKOUT, Path()) for run in map(Path, sorted(root.glob("results/*/*/")))
        if RunDir(run).weights.is_file()
    }  # fmt: skip
    if name not in folders:
        there = f"there are {', '.join(sorted(folders))}" if folders else "results/ has none with weights"
        raise UserError(f"resnet_repro:{name} is not a run kept with its weights; {there}")
    return folders[name]


SAVE_ALONE = (
    "python -c \"import sys, torch; c = torch.load(sys.argv[1], 'cpu', weights_only=False); "
    "torch.save(c.state_dict() if hasattr(c, 'state_dict') else "
    "c.get('state_dict') or c.get('model') or c.get('net') or c, 'weights.pth')\""
)


def _why_not_read(path: Path, error: Exception) -> str:
    """Return the refusal of a file that torch or safetensors does not read; their own messages fill pages."""
    try:
        classes = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # written before PyTorch 1.6, or damaged
        classes = set()
    if named := classes | set(re.findall(r"GLOBAL ([\w.]+)", str(error))):
        listed = ", ".join(sorted(named)[:3]) + ", ..." * (len(named) > 3)
        way_out = f"if you trust it, save the weights alone: {SAVE_ALONE} {shlex.quote(str(path))}"
        return f"{path} holds more than weights ({listed}), and reading that may execute code; {way_out}"
    return f"{path} is damaged, or neither torch.save nor safetensors wrote it; fetch it again, or give another file"


WRAPPINGS = ("state_dict", "model_state_dict", "model", "net", "network", "module")
"""Keys under which training scripts save a state dict beside other objects."""
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""Prefixes that DataParallel, torch.compile and modules around a network add to the names of its weights."""


def _tensors(path: Path, content: Any) -> tuple[State, dict[str, Any]]:
    """Do as `_read` with the content of a PyTorch file: a state dict, or a training script's dict around one."""
    network, is_lightnings = _network(content), isinstance(content, dict) and "pytorch-lightning_version" in content
    while key := next((k for k in WRAPPINGS if isinstance(content, dict) and isinstance(content.get(k), dict)), None):
        content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        keys = f" but {', '.join(printable(key) for key in [*content][:5])}" if isinstance(content, dict) else ""
        raise UserError(
            f"{path} holds no state dict{keys}; give a file of one, or of a dict with one as {' or '.join(WRAPPINGS)}"
        )
    state = {str(key): value for key, value in content.items() if key != "n_averaged"}  # torch's AveragedModel
    if is_lightnings and (mine := next((p for p in ("net.", "model.") if any(k.startswith(p) for k in state)), "")):
        state = {key: value for key, value in state.items() if key.startswith(mine)}  # without metrics and losses
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state, network.words if network else {}


def _network(content: Any) -> Residual | None:
    """Return the network of one of our checkpoints; None for any other content."""
    config: Any = content
    for key in ("hyper_parameters", "config"):
        config = config.get(key) if isinstance(config, dict) else None
    if not isinstance(config, dict) or "stride_on" not in config.get("arch", {}):
        return None
    network = Run.of_record(config).network
    return network if isinstance(network, Residual) else None


def _fetch(library: str, name: str) -> State:
    """Return a library's published weights from its cache or its hub, without executing code from there."""
    network, _, version = name.partition(".")
    if network not in HUB[library]:
        raise UserError(f"{library}:{name} is not one of our networks; use one of {', '.join(HUB[library])}")
    try:
        return {"torchvision": _torchvision, "timm": _timm}[library](network, version)
    except UserError:
        raise
    except Exception as error:  # without a connection, urllib, httpx and a hub's own library raise anything
        raise UserError(
            f"{library}:{name} could not be fetched ({first_words(error)}); try again online, or give a file"
        ) from None


def _torchvision(network: str, version: str) -> State:
    from torchvision import models

    known = models.get_model_weights(network).__members__
    _check_version(f"torchvision:{network}", version, known)
    return dict(known[version or "DEFAULT"].get_state_dict(check_hash=True, weights_only=True))


def _timm(network: str, version: str) -> State:
    import timm

    _check_version(
        f"timm:{network}", version, [name.partition(".")[2] for name in timm.list_pretrained(f"{network}.*")]
    )
    published = timm.models.get_pretrained_cfg(f"{network}.{version}" if version else network)
    assert published is not None
    return timm.models.load_state_dict_from_hf(str(published.hf_hub_id), weights_only=True)


def _check_version(name: str, version: str, known: Iterable[str]) -> None:
    if version not in (known := list(known)) and (version or not known):
        hint = f"use one of {', '.join(f'{name}.{v}' for v in known)}" if known else "no weights were published"
        raise UserError(f"{name}{'.' if version else ''}{version} is not known; {hint}")
