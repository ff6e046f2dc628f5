"""A training step with batch norm over groups of 64 images beside one over the whole batch of 128, on one CPU thread.

    python benchmarks/ghost_batch_norm.py [--nets resnet_v1-20 resnet_v2-56] [--steps 40] [--separate]

The two sides take turns in one process, the network alone, the same batch again and again, bf16 autocast and
channels_last; `--separate` leaves batch norm, addition and ReLU to PyTorch. Prints a table in Markdown.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from resnet_repro.networks.fused import fuse
from resnet_repro.networks.ghost import group_batch_norms
from resnet_repro.networks.resnet import ResNet
from resnet_repro.training.hardware import keep_freed_memory

BATCH_SIZE, GROUP = 128, 64
NUM_WARM_UPS = 2
"""Steps of each side that are not counted."""
ORDERS = {"resnet_v1": "original", "resnet_v2": "full_preact"}


def milliseconds(net: str, *, steps: int, fused: bool) -> dict[str, list[float]]:
    """The time of every step of either side, by the side's name."""
    arch, depth = net.split("-")
    sides = {}
    for name, at_most in (("whole", None), ("groups", GROUP)):
        torch.manual_seed(0)
        model = ResNet(depth=int(depth), family="cifar", num_classes=10, order=ORDERS[arch])
        model.to(memory_format=torch.channels_last)
        if fused:
            fuse(model)
        if at_most is not None:
            group_batch_norms(model, at_most=at_most)
        sides[name] = model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    images = torch.randn(BATCH_SIZE, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH_SIZE,))
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(NUM_WARM_UPS + steps):
        for name, (model, sgd) in sides.items():
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(images), labels)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            took[name].append(1e3 * (time.perf_counter() - start))
    return {name: times[NUM_WARM_UPS:] for name, times in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=["resnet_v1-20", "resnet_v2-56"])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--separate", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| | whole batch, ms | groups of 64, ms | medians | minima |\n|---|---:|---:|---:|---:|")
    for net in options.nets:
        whole, groups = milliseconds(net, steps=options.steps, fused=not options.separate).values()
        medians = [statistics.median(side) for side in (whole, groups)]
        ratios = medians[1] / medians[0], min(groups) / min(whole)
        print(f"| {net} | {medians[0]:.1f} | {medians[1]:.1f} | {ratios[0]:.3f} | {ratios[1]:.3f} |")


if __name__ == "__main__":
    main()
