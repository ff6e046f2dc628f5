"""Activation checkpointing: units keep their input alone and compute the rest again for their gradients."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnet_repro.ghost import statistics_kept
from resnet_repro.unit import ResidualUnit


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
    return nullcontext(), statistics_kept(unit)  # batch norms have averaged this batch in already
