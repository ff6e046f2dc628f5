"""Networks that several tests build, and a training step of one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_repro.networks.resnet import ResNet

V2 = {"order": "full_preact", "shortcut": "B"}


def cifar(depth, **words):
    return ResNet(depth=depth, family="cifar", num_classes=10, **words)


def randomise(net):
    """Random weights also in batch norms (the scale positive) and in their statistics."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, (low, high) in zip(
                (module.weight, module.bias, module.running_mean, module.running_var),
                ((0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.5, 1.5)),
                strict=True,
            ):
                nn.init.uniform_(tensor, low, high)
    return net


def imagenet(depth, **words):
    return ResNet(depth=depth, family="imagenet", **{"num_classes": 7, "shortcut": "B", "stride_on": "3x3"} | words)


def seeded_cifar(depth: int = 8, **words: str) -> ResNet:
    """The same weights each time, with batch norms that are no identities."""
    torch.manual_seed(0)
    return randomise(cifar(depth, **words))


def image_batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 3, 16, 16, generator=generator), torch.zeros(n, dtype=torch.int64)) for n in sizes]


def training_step(net: nn.Module, *, bf16: bool) -> tuple[torch.Tensor, int]:
    """Loss of a training step with its gradients, and the bytes that the forward pass kept for the backward one."""
    torch.manual_seed(1)
    x = torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(x), torch.arange(16) % 10)
        num_bytes = sum(kept.values())  # before the backward pass keeps anything
    loss.backward()
    return loss, num_bytes
