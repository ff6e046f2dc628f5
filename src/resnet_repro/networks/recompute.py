"""Activation checkpointing: units keep their input alone and compute the rest again for their gradients."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from resnet_repro.networks.unit import ResidualUnit


def recompute_units(net: nn.Module) -> None:
    """Have every residual unit of `net` forget its activations in training and compute them again, to the same bits.

    Names of parameters stay. Memory for activations falls to the units' inputs and one unit's insides; every
    convolution but the stem's is computed once more a step.
    """
    for unit in [module for module in net.modules() if isinstance(module, ResidualUnit)]:
        unit.forward = partial(_recomputed, unit, unit.forward)  # type: ignore[method-assign]


def _recomputed(unit: ResidualUnit, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if not unit.training:
        return forward(x)
    drops = any(isinstance(module, nn.Dropout) for module in unit.modules())  # else a CUDA graph could not record it
    output = checkpoint(forward, x, use_reentrant=False, context_fn=partial(_contexts, unit), preserve_rng_state=drops)
    assert isinstance(output, Tensor)
    return output


def _contexts(unit: ResidualUnit) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(unit)


@contextmanager
def _statistics_kept(unit: ResidualUnit) -> Iterator[None]:
    """Batch norms have averaged this batch in already: the second time it goes into copies, which are dropped."""
    buffers = [(module, dict(module._buffers)) for module in unit.modules() if isinstance(module, _BatchNorm)]
    for norm, kept in buffers:
        norm._buffers.update({name: buffer if buffer is None else buffer.clone() for name, buffer in kept.items()})
    try:
        yield
    finally:
        for norm, kept in buffers:
            norm._buffers.update(kept)
