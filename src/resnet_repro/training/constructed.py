"""The constructed solution: a deep network that computes the function of a trained shallower network. [v1 Sec. 1]

"The added layers are identity mapping, and the other layers are copied from the learned shallower model": a deeper
network can therefore do no worse, if the solver finds this solution.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from resnet_repro.errors import UserError
from resnet_repro.networks.resnet import ResNet
from resnet_repro.networks.unit import ResidualUnit
from resnet_repro.runs.folder import RunDir, read_json
from resnet_repro.training.checkpoints import trained
from resnet_repro.training.layers import ChannelMoments

Batches = Iterable[tuple[Tensor, Tensor]]


def copy_function_from(deep: nn.Module, run: RunDir, images: Batches) -> dict[str, Any]:
    """Give a deep network the function of a finished run's shallower network, and compare the two networks.

    Args:
        run: the folder of the shallower network's run; its last checkpoint holds the weights.
        images: training images without augmentation, and their labels, on the device to compute on.

    Returns:
        The record for the manifest: the name of the run, the SHA-256 of its weights, and how far the networks agree.

    Raises:
        UserError: if the run is not finished, or its weights do not match the SHA-256 in its manifest.
    """
    assert isinstance(deep, ResNet)
    if not run.is_done:
        raise UserError(f"this run begins with the weights of {run.path}, which is not finished: make that run first")
    manifest = read_json(run.manifest)
    shallow = trained(run)
    assert isinstance(shallow, ResNet)
    device = next(iter(images))[0].device
    construct(deep.to(device), shallow.to(device), images)
    origin = {key: manifest[key] for key in ("name", "weights_sha256")}
    return origin | agreement(deep, shallow, images)


@torch.no_grad()
def construct(deep: ResNet, shallow: ResNet, images: Batches) -> None:
    """Copy the shallow network's units into the deep network, and make the remaining units identities.

    [open: v1 does not say where the layers are added; here at the end of each stage, where widths are equal]
    """
    ends = _stage_outputs(shallow, images)
    for copy, original in ((deep.stem, shallow.stem), (deep.head, shallow.head)):
        copy.load_state_dict(original.state_dict())
    for deep_stage, shallow_stage, end in zip(deep.stages, shallow.stages, ends, strict=True):
        assert isinstance(deep_stage, nn.Sequential)
        assert isinstance(shallow_stage, nn.Sequential)
        for number, unit in enumerate(deep_stage):
            assert isinstance(unit, ResidualUnit)
            if number < len(shallow_stage):
                unit.load_state_dict(shallow_stage[number].state_dict())
            else:
                make_identity(unit, end)


def make_identity(unit: ResidualUnit, inputs: ChannelMoments) -> None:
    """Make a unit return its input.

    A unit with a shortcut: its last layer becomes zero, so F is zero and the identity is exact. A unit without a
    shortcut: its inputs come from a ReLU, so they are not negative. Each convolution passes them on by the middle of
    its kernels, and each batch norm has their standard deviation as its weight and their mean as its bias. In
    evaluation this is the identity up to rounding, because the running statistics are those of the inputs. In training
    it is the identity as far as a batch's statistics are those of all images.
    """
    if unit.shortcut is not None:
        last = [layer for layer in unit.residual if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)][-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        return
    for layer in unit.residual:
        if isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.copy_(inputs.mean)
            layer.running_var.copy_(inputs.var)
            layer.weight.copy_((layer.running_var + layer.eps).sqrt())
            layer.bias.copy_(layer.running_mean)


def _stage_outputs(net: ResNet, images: Batches) -> list[ChannelMoments]:
    """Return the moments of each stage's outputs over all images, in evaluation mode."""
    moments = [ChannelMoments() for _ in net.stages]
    hooks = [stage.register_forward_hook(each.add) for stage, each in zip(net.stages, moments, strict=True)]
    net.eval()
    for x, _ in images:
        net(x)
    for hook in hooks:
        hook.remove()
    return moments


@torch.no_grad()
def agreement(deep: ResNet, shallow: ResNet, images: Batches) -> dict[str, Any]:
    """Return how far two networks agree in evaluation mode: outputs, predictions and errors in %."""
    training = deep.training
    deep.eval(), shallow.eval()
    num_images = num_differ = 0
    wrong, largest, difference = [0, 0], 0.0, 0.0
    for x, labels in images:
        ours, theirs = deep(x), shallow(x)
        largest = max(largest, float(theirs.abs().max()))
        difference = max(difference, float((ours - theirs).abs().max()))
        num_images += len(labels)
        num_differ += int((ours.argmax(1) != theirs.argmax(1)).sum())
        wrong = [n + int((y.argmax(1) != labels).sum()) for n, y in zip(wrong, (ours, theirs), strict=True)]
    deep.train(training)
    return {
        "num_images": num_images,
        "largest_output": largest,
        "largest_difference": difference,
        "num_predictions_that_differ": num_differ,
        "train_error": 100 * wrong[0] / num_images,
        "train_error_of_shallower": 100 * wrong[1] / num_images,
    }
