"""Activation checkpointing changes no bit of a run and keeps only a fraction of the activations."""

import copy
from pathlib import Path

import pytest
import torch

from resnet_repro.networks.fused import fuse
from resnet_repro.networks.recompute import recompute_units
from resnet_repro.networks.resnet import ResNet
from resnet_repro.training.run import run
from tests.helpers.compilers import needs_compiler
from tests.helpers.networks import training_step
from tests.helpers.runs import change_job, prepared

WORDS = [
    {"shortcut": "none"},
    {"shortcut": "A"},
    {"shortcut": "B", "order": "full_preact"},
    {"shortcut": "dropout"},  # the second pass must drop what the first pass dropped
    {"mix": "exclusive_gate", "order": "relu_only_preact"},
]


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_compiler)])
@pytest.mark.parametrize("words", WORDS, ids=lambda words: " ".join(words.values()))
def test_a_step_has_the_same_bits_and_keeps_less(words: dict[str, str], fused: bool) -> None:
    net = ResNet(depth=20, family="cifar", num_classes=10, **words).to(memory_format=torch.channels_last)
    if fused:
        fuse(net)
    again = copy.deepcopy(net)
    recompute_units(again)
    for _ in range(2):
        (loss, num_bytes), (other, other_bytes) = training_step(net, bf16=fused), training_step(again, bf16=fused)
        assert torch.equal(loss, other)
    for (name, p), (_, q) in zip(net.named_parameters(), again.named_parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.equal(p.grad, q.grad), name
    state, other_state = net.state_dict(), again.state_dict()
    assert state.keys() == other_state.keys()
    for name, tensor in state.items():  # includes the running statistics
        assert torch.equal(tensor, other_state[name]), name
    assert other_bytes < 0.4 * num_bytes


def test_a_recomputing_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    options = ("depth=8", "arch=resnet_v2", "schedule.steps=12")
    usual, recomputed = prepared(tmp_path / "a", *options), prepared(tmp_path / "b", *options)
    change_job(recomputed, recompute=True)
    assert run(recomputed)["weights_sha256"] == run(usual)["weights_sha256"]
