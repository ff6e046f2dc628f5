"""Activation checkpointing: each unit keeps only its input, and recomputes the rest in the backward pass."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from resnet_repro.networks.unit import ResidualUnit


def recompute_units(net: nn.Module) -> None:
    """Have every residual unit of `net` drop its activations in training and recompute them to the same bits.

    Parameters keep their names. Memory for activations falls to the units' inputs and one unit's insides. Every
    convolution except the stem's is computed once more per step.
    """
    for unit in [module for module in net.modules() if isinstance(module, ResidualUnit)]:
        unit.forward = partial(_recomputed, unit, unit.forward)  # type: ignore[method-assign]


def _recomputed(unit: ResidualUnit, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not unit.training:
        return forward(x)
    # keep the generator's state only if it is needed: a CUDA graph cannot record that
    drops = any(isinstance(module, nn.Dropout) for module in unit.modules())
    output = checkpoint(forward, x, use_reentrant=False, context_fn=partial(_contexts, unit), preserve_rng_state=drops)
    assert isinstance(output, Tensor)
    return output


def _contexts(unit: ResidualUnit) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(unit)


@contextmanager
def _statistics_kept(unit: ResidualUnit) -> Iterator[None]:
    """Keep the running statistics: they have this batch already, so the second pass updates copies."""
    norms = [(module, dict(module._buffers)) for module in unit.modules() if isinstance(module, _BatchNorm)]
    for norm, buffers in norms:
        norm._buffers.update({name: buffer if buffer is None else buffer.clone() for name, buffer in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in norms:
            norm._buffers.update(buffers)
