"""SGD without PyTorch's compiler is PyTorch's SGD."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from resnet_repro.training.sgd import EagerSGD


def trained(kind: type[torch.optim.SGD], *, nesterov: bool) -> list[Tensor]:
    """Return the weights after each of four steps; after two, another optimiser goes on from the saved state."""
    weight = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_()
    groups = [{"params": [weight], "weight_decay": 0.1}]
    options = {"lr": 0.1, "momentum": 0.9, "nesterov": nesterov}
    sgd, weights = kind(groups, **options), []
    for step in range(4):
        if step == 2:
            state, sgd = sgd.state_dict(), kind(groups, **options)
            sgd.load_state_dict(state)
        sgd.zero_grad()
        (weight**3).sum().backward()
        sgd.step()
        weights.append(weight.detach().clone())
    return weights


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_and_a_resumed_state_are_the_same_to_the_bit(nesterov: bool) -> None:
    ours, theirs = (trained(kind, nesterov=nesterov) for kind in (EagerSGD, torch.optim.SGD))
    assert all(map(torch.equal, ours, theirs))
    assert not any(torch.equal(before, after) for before, after in pairwise(ours))
