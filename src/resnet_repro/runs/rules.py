"""Rules about options that do not go together."""

from resnet_repro.data.options import InMemory
from resnet_repro.errors import UserError
from resnet_repro.networks import depths
from resnet_repro.networks.options import Network, Residual
from resnet_repro.runs.options import Hardware, Run


def check(run: Run) -> None:
    """Refuse options that do not go together.

    Raises:
        UserError: at the first rule that is broken.
    """
    data, schedule, hardware = run.data, run.schedule, run.hardware
    batch_size, world_size = schedule.batch_size, hardware.world_size
    left = max(data.num_train - data.num_held_out, 0)
    if not left:
        raise UserError(
            f"data.val_size={data.num_held_out} leaves 0 of {data.num_train} images to train on; v1 takes 5000 of 50000"
        )
    if batch_size > left:
        raise UserError(f"schedule.batch_size={batch_size} is more than the {left} training images")
    if batch_size % world_size:
        below = batch_size // world_size * world_size
        near = " and ".join(str(size) for size in (below, below + world_size) if size)
        raise UserError(f"schedule.batch_size={batch_size} does not divide by {world_size} devices; nearest are {near}")
    if hardware.graph is True and (why_not := why_no_graph(run)):
        raise UserError(f"hardware.graph=true {why_not}")
    if hardware.compile is True and hardware.recompute:
        raise UserError("hardware.compile=true and hardware.recompute=true exclude each other; use one of them")
    if schedule.shape == "plateau":
        _check_plateau(run)
    if isinstance(run.network, Residual) and run.network.is_plain and run.network.mix != "add":
        raise UserError(f"arch.mix={run.network.mix} needs a shortcut; with arch.shortcut=none use arch.mix=add")


def why_no_graph(run: Run) -> str:
    """Return why the steps of a run cannot be recorded as a CUDA graph, and what to do; an empty text if they can."""
    on_device = isinstance(run.data, InMemory) and run.data.loader == "device"
    if run.hardware.world_size > 1 or not on_device:
        return (
            "is for one GPU with all images on it: use it with hardware.devices=1 and data.loader=device, or leave it "
            "out"
        )
    if run.hardware.recompute and getattr(run.network, "shortcut", None) == "dropout":
        return (
            "cannot record hardware.recompute=true with arch.shortcut=dropout, which would have to drop the same "
            "values twice; leave one of them out"
        )
    return ""


def _check_plateau(run: Run) -> None:
    if run.schedule.plateau is None:
        raise UserError(
            "schedule.shape=plateau needs its rule: add '+schedule.plateau={patience: 5, threshold: 0.001}'"
        )
    if isinstance(run.data, InMemory) and not run.data.val_size:
        raise UserError(
            "schedule.shape=plateau is judged by validation images, and none are held out; use data.val_size=5000"
        )
    if run.init_from is not None:
        raise UserError(f"init_from={run.init_from} trains on at a rate that is known; use schedule.shape=steps")


def check_without_units(network: Network, *, init_from: int | None, hardware: Hardware) -> None:
    """Refuse options that only networks of residual units have.

    Raises:
        UserError: at the first rule that is broken.
    """
    if init_from is not None:
        raise UserError(
            f"init_from={init_from} inserts layers into plain and residual networks; "
            f"with arch={network.kind} leave it out"
        )
    for key, usual in (("fused", "auto"), ("recompute", "false")):
        if getattr(hardware, key) is True:
            raise UserError(
                f"hardware.{key}=true is for plain and residual networks; with arch={network.kind} use {usual}"
            )


def check_construction(init_from: int, network: Residual, *, asked_unit: str) -> None:
    """Refuse a network whose units cannot be identities, or that has no shallower network of the same units.

    Args:
        asked_unit: the option `arch.unit`, which may be `auto`.

    Raises:
        UserError: at the first rule that is broken.
    """
    depth, family = network.depth, network.family
    if init_from > depth:
        raise UserError(f"init_from={init_from} is deeper than depth={depth}; give the depth of a shallower run")
    if asked_unit == "auto" and depths.unit_for(init_from, family) != network.unit:
        raise UserError(f"init_from={init_from} and depth={depth} have different units; give arch.unit for both")
    depths.stages(init_from, family=family, unit=network.unit)
    if network.is_plain:
        if network.order != "original" or network.unit == "bottleneck":
            needed = "arch.order=original" if network.order != "original" else "arch.unit=basic"
            raise UserError(f"init_from={init_from}: plain units are identities with {needed} only; use that")
    elif network.shortcut not in "AB" or network.mix != "add" or network.order == "bn_after_add":
        raise UserError(
            f"init_from={init_from} needs units that are identities where F is zero; use arch.shortcut=A or B, "
            "arch.mix=add and an arch.order other than bn_after_add"
        )
