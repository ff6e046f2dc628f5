"""What the host starts in one training step: operations one by one, and kernels that torch.compile makes of them.

    python benchmarks/kernels.py [--depths 8 14 20] [--compile]

Batch 128 of 32 x 32 images, bf16 autocast, channels_last. Counted are the operations that reach a backend, views and
allocations left out: on a GPU each is a kernel or more, so their number is a lower bound. `--compile` (minutes) counts
the network's again with stem, head and residual units compiled as by `hardware.compile=true`, for this machine's CPU,
whose fused loops stand for a GPU's fused kernels. A unit always adds the same number, so the line through the first and
the last depth gives every other depth.
"""

import argparse
import platform
from collections import Counter
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_repro.data.device_batches import DeviceBatches
from resnet_repro.networks.resnet import ResNet
from resnet_repro.training.hardware import compile_network

VIEWS = ("view", "alias", "detach", "t", "transpose", "expand", "as_strided", "slice", "select", "unfold", "permute")
VIEWS += (
    "unsqueeze",
    "squeeze",
    "_unsafe_view",
    "_reshape_alias",
    "unbind",
    "split",
    "empty",
    "empty_like",
    "lift_fresh",
)
VIEWS += ("resize_", "as_strided_", "_record_function_enter_new", "_record_function_exit")
BATCH_SIZE = 128


class Started(TorchDispatchMode):
    """Counts what is not a view, by name; the update of all weights is one operation."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def network(depth: int, arch: str) -> nn.Module:
    words = {"resnet_v1": {}, "plain": {"shortcut": "none"}, "resnet_v2": {"order": "full_preact"}}[arch]
    return ResNet(depth=depth, family="cifar", num_classes=10, **words).to(memory_format=torch.channels_last)


def operations(depth: int, arch: str) -> dict[str, int]:
    """Of one step: what makes the batch, the network's forward and backward pass with the loss, and the update."""
    net = network(depth, arch)
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)
    images, labels = torch.zeros(256, 3, 32, 32, dtype=torch.uint8), torch.zeros(256, dtype=torch.int64)
    like: dict[str, Any] = {"mean": torch.zeros(3, 32, 32), "scale": 255.0, "seed": 0, "num_steps": 2}
    data = DeviceBatches(images, labels, batch_size=BATCH_SIZE, pad=4, flip=True, steps_at_once=1, **like)
    for choices in data:  # the second step is what is returned: the first makes the velocities
        with Started() as batch:
            x, y = data.batch(*choices)
        sgd.zero_grad()
        with Started() as passes:
            forward_and_backward(net, x, y)
        with Started() as update:
            sgd.step()
    parts = {"batch": batch, "passes": passes, "update": update}
    return {name: part.counts.total() for name, part in parts.items()}


def forward_and_backward(net: nn.Module, x: Tensor, y: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(net(x), y)
    loss.backward()


def compiled(depth: int, arch: str) -> int:
    """Of the passes of a compiled network: fused kernels, and the convolutions and products left to libraries."""
    torch._inductor.config.cpp.enable_kernel_profile = True
    net = network(depth, arch)
    compile_network(net)
    x, y = torch.zeros(BATCH_SIZE, 3, 32, 32), torch.zeros(BATCH_SIZE, dtype=torch.int64)
    forward_and_backward(net, x, y)
    net.zero_grad()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        forward_and_backward(net, x, y)
    names = Counter(event.name for event in profiled.events())
    fused = sum(count for name, count in names.items() if "cpp_fused" in name)
    loss = ("_log_softmax", "nll_loss_forward", "nll_loss_backward", "_log_softmax_backward_data")
    kept = ("mkldnn_convolution", "convolution_backward", "addmm", "mm", *loss)
    return fused + sum(names[f"aten::{name}"] for name in kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[8, 14, 20])
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, Python {platform.python_version()}; {date.today()}\n")
    print("| | " + " | ".join(f"depth {depth}" for depth in options.depths) + " | a unit more | at 56 | at 110 |")
    print("|---|" + "---:|" * (len(options.depths) + 3))
    counts: list[tuple[str, Callable[[int], int]]] = [
        (arch, partial(whole_step, arch=arch)) for arch in ("plain", "resnet_v1", "resnet_v2")
    ]
    if options.compile:
        counts += [
            (f"{arch}, compiled", partial(whole_step, arch=arch, compiles=True)) for arch in ("plain", "resnet_v2")
        ]
    first, last = options.depths[0], options.depths[-1]
    for name, count in counts:
        numbers = [count(depth) for depth in options.depths]
        per_layer = (numbers[-1] - numbers[0]) / (last - first)
        row = [*numbers, 2 * per_layer, *(numbers[0] + per_layer * (depth - first) for depth in (56, 110))]
        print(f"| {name} | " + " | ".join(f"{number:,.0f}" for number in row) + " |", flush=True)


def whole_step(depth: int, *, arch: str, compiles: bool = False) -> int:
    parts = operations(depth, arch)
    return parts["batch"] + (compiled(depth, arch) if compiles else parts["passes"]) + parts["update"]


if __name__ == "__main__":
    main()
