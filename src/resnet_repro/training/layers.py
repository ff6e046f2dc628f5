"""How strong each layer's responses [v1 Sec. 4.2] and gradients [v1 Sec. 4.1] are."""

import csv
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from resnet_repro.networks.resnet import ResNet
from resnet_repro.networks.unit import ResidualUnit
from resnet_repro.runs.folder import replacing
from resnet_repro.training.classifier import LitClassifier


class Layer(NamedTuple):
    """A convolution of the stem or of a residual branch. As in the depth, shortcuts and gates do not count.

    Every convolution of a comparator is a layer, in the order of its library's names.
    """

    number: int
    """Counted from the image on, as the depth counts layers: the stem is 1."""
    name: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    """The batch norm that reads the convolution's output before any ReLU and before the addition. None if there is none
    or, as in a comparator, it is not known."""


def layers(net: nn.Module) -> list[Layer]:
    """Return all layers, from the image to the output."""
    names = {module: name for name, module in net.named_modules()}
    if not isinstance(net, ResNet):
        convs = [module for module in names if isinstance(module, nn.Conv2d)]
        return [Layer(number, names[conv], conv, None) for number, conv in enumerate(convs, start=1)]
    branches = [net.stem, *(module.residual for module in net.modules() if isinstance(module, ResidualUnit))]
    pairs = [pair for branch in branches for pair in pairwise([*branch, None]) if isinstance(pair[0], nn.Conv2d)]
    return [
        Layer(number, names[conv], conv, after if isinstance(after, nn.BatchNorm2d) else None)
        for number, (conv, after) in enumerate(pairs, start=1)
    ]


# --- responses --------------------------------------------------------------------------------------------------------


CHUNK = 50
"""Images that are measured at a time: few enough for a CPU's cache to hold a layer's responses to them."""


class ChannelMoments:
    """Mean and variance of every channel of a module's outputs, over all images and pixels so far.

    The sums over an image are taken in the format of the outputs, the sums over images in double precision: as exact as
    double precision throughout to more digits than are written, and 20 times as fast as `torch.var_mean`, which is slow
    in channels_last.
    """

    def __init__(self) -> None:
        self.num, self.sum, self.square_sum = 0, torch.zeros(()), torch.zeros(())
        self.shift: Tensor | None = None
        """About the mean of each channel [1, c, 1, 1]. Sums are of departures from that, so that no digits cancel."""

    def add(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Add a module's output; the signature is that of a forward hook."""
        if self.shift is None:
            self.shift = output.mean((0, 2, 3), keepdim=True)
        departures = output - self.shift
        self.num += output.numel() // output.shape[1]
        self.sum = self.sum + departures.sum((2, 3)).double().sum(0).cpu()
        self.square_sum = self.square_sum + departures.square_().sum((2, 3)).double().sum(0).cpu()

    @property
    def mean(self) -> Tensor:
        assert self.shift is not None
        return self.shift.flatten().double().cpu() + self.sum / self.num

    @property
    def var(self) -> Tensor:
        return (self.square_sum / self.num - (self.sum / self.num) ** 2).clamp(min=0)

    def std_after(self, norm: nn.BatchNorm2d | None) -> float:
        """Return the standard deviation over the whole layer after the batch norm, which scales and shifts channels."""
        mean, var = self.mean, self.var
        if norm is not None:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            gamma, beta, running_mean, running_var = (
                t.detach().double().cpu() for t in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            )
            scale = gamma / (running_var + norm.eps).sqrt()
            mean, var = scale * (mean - running_mean) + beta, scale**2 * var
        return float((var.mean() + mean.var(correction=0)).sqrt())


@torch.no_grad()
def response_stds(net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Layer, float]]:
    """Return the standard deviation of each 3x3 layer's response, after batch norm, before ReLU or addition [v1 Fig. 7]

    The network is evaluated in the number format of its weights and left as it was. The hooks sit at the convolutions,
    so a fused batch norm that also does ReLU and addition gives the same numbers.

    [open: v1 does not say whether the deviation is over a layer or a mean over its channels: here over the layer]
    [open: in v2, as in all orders whose F does not end in batch norm, no batch norm follows the last convolution of a
    unit: there the response is the convolution's own output, which is what is added]
    [open: the papers measure none of the comparators: their responses are the outputs of all 3x3 convolutions]
    [open: v1's networks of basic units have only 3x3 layers; the 1x1 layers of a bottleneck are left out]

    Args:
        batches: images as the network reads them, and their labels, which are not used.
    """
    measured = [layer for layer in layers(net) if layer.conv.kernel_size == (3, 3)]
    moments = [ChannelMoments() for _ in measured]
    was_training = net.training
    net.eval()
    try:
        with ExitStack() as hooks:
            for layer, each in zip(measured, moments, strict=True):
                hooks.callback(layer.conv.register_forward_hook(each.add).remove)
            for images, _ in batches:
                for chunk in images.split(CHUNK):
                    net(chunk)
    finally:
        net.train(was_training)
    return [(layer, each.std_after(layer.norm)) for layer, each in zip(measured, moments, strict=True) if each.num]


def write_responses(path: Path, net: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Write responses.csv: a row for each 3x3 layer."""
    rows = [(layer.number, layer.name, f"{std:.6g}") for layer, std in response_stds(net, batches)]
    _write(path, ["layer", "name", "std"], rows)


# --- gradients --------------------------------------------------------------------------------------------------------


class GradientNorms(pl.Callback):
    """Record the L2 norm of every layer's gradient and weight at five steps, from the first to the last.

    The gradients are those of the backward pass, without weight decay. No weight and no generator changes.
    """

    def __init__(self, *, steps: int) -> None:
        self.moments = {max(1, round(steps * part)) for part in (0, 0.25, 0.5, 0.75, 1)}
        self.rows: list[tuple[int, int, str, float, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        step = trainer.global_step + 1
        if step not in self.moments:
            return
        assert isinstance(module, LitClassifier)
        for layer in layers(module.net):
            if layer.conv.weight.grad is None:  # a comparator may have unused layers
                continue
            norm, weight_norm = float(layer.conv.weight.grad.norm()), float(layer.conv.weight.detach().norm())
            self.rows.append((step, layer.number, layer.name, norm, weight_norm))

    def write(self, path: Path) -> None:
        """Write gradients.csv: a row for each step and layer."""
        rows = [(*layer, f"{norm:.6g}", f"{weight:.6g}") for *layer, norm, weight in self.rows]
        _write(path, ["step", "layer", "name", "norm", "weight_norm"], rows)


def _write(path: Path, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
    with replacing(path) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
