"""The floor of a training step on one CPU thread: its multiply-adds and its passes over memory.

- Multiply-adds: three times those of the forward pass, at the rate of a large matrix product.
- Memory: six passes over the outputs of all convolutions, at the bandwidth of a copy. The forward pass writes
  and reads each output. The backward pass reads it for batch norm's gradient and for the next weights' gradient, and
  writes and reads its own gradient.

The floor is the sum of both times, as if no byte moved while the processor multiplies. It is what an engine of its own
convolutions may come near to; one that overlaps both perfectly would pass it. Bytes and multiply-adds are counted on
the network itself. Numbers are of the format in which the machine is fastest: bf16 or float32.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

NUM_PASSES = 6


class Cost(NamedTuple):
    """What an image costs in training, or what a machine does a second."""

    multiply_adds: float
    num_bytes: float
    """Read and written, both counted."""


def cost(make_net: Callable[[], nn.Module], image: tuple[int, ...], dtype: torch.dtype) -> Cost:
    """Return the cost of a training step by running the network on PyTorch's meta device, where nothing is computed."""
    multiply_adds = num_outputs = 0

    def count(layer: nn.Conv2d | nn.Linear, _: Any, output: Tensor) -> None:
        nonlocal multiply_adds, num_outputs
        multiply_adds += output.numel() * layer.weight[0].numel()
        num_outputs += output.numel() if isinstance(layer, nn.Conv2d) else 0

    with torch.device("meta"):
        net = make_net().eval()
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        net(torch.empty(1, *image))
    return Cost(3 * multiply_adds, NUM_PASSES * dtype.itemsize * num_outputs)


def rates(dtype: torch.dtype) -> Cost:
    """Measure for half a second what this machine does a second, on as many threads as torch has."""
    products = []
    for size in (1024, 2048):
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        products.append(size**3 / _fastest(partial(torch.matmul, a, b)))
    source = torch.zeros(2**26, dtype=torch.uint8)  # 64 MiB, more than a core's caches
    target = torch.zeros_like(source)
    return Cost(max(products), 2 * source.nbytes / _fastest(lambda: target.copy_(source)))


def _fastest(act: Callable[[], object]) -> float:
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
