"""Comparisons of loaders, whose batches are pairs of images and labels."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

Batches = Iterable[tuple[Tensor, Tensor]]


def assert_same(ours: Batches, theirs: Batches, *, atol: float = 0) -> None:
    """Assert that both have the same batches, images up to `atol`."""
    for (x, y), (x2, y2) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, x2, rtol=0, atol=atol)
        assert torch.equal(y, y2)


def assert_goes_on(make: Callable[[], Any], *, stops: Iterable[int]) -> None:
    """Assert that a loader with the state of another one, stopped after some steps, yields the remaining batches."""
    whole = list(make())
    for stop in stops:
        first, second = make(), make()
        iterator = iter(first)
        for _ in range(stop):
            next(iterator)
        second.load_state_dict(first.state_dict())
        assert_same(whole[stop:], second)
