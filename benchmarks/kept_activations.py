"""What a training step keeps for its backward pass, with hardware.recompute and without: MiB an image, on a CPU.

python benchmarks/kept_activations.py
"""

import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_repro.networks.recompute import recompute_units
from resnet_repro.networks.resnet import ResNet

NUM_IMAGES = {20: 32, 110: 32, 164: 32, 1001: 16}


def kept_mib(net: nn.Module, num_images: int) -> float:
    """MiB an image that autograd keeps of a forward pass in bf16 autocast and channels_last; weights left out."""
    x = torch.randn(num_images, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    weights = {tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype=torch.bfloat16):
        F.cross_entropy(net(x), torch.arange(num_images) % 10)
    return sum(kept.values()) / num_images / 2**20


def main() -> None:
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}")
    print("| depth | kept | kept with recompute | share |\n|---|---:|---:|---:|")
    for depth, num_images in NUM_IMAGES.items():
        kept = []
        for recompute in (False, True):
            torch.manual_seed(0)
            net = ResNet(
                depth=depth, family="cifar", num_classes=10, order="full_preact", shortcut="B" if depth > 110 else "A"
            ).to(memory_format=torch.channels_last)
            if recompute:
                recompute_units(net)
            kept.append(kept_mib(net, num_images))
        print(f"| {depth} | {kept[0]:.2f} | {kept[1]:.2f} | {kept[1] / kept[0]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
