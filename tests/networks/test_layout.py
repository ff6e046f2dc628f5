"""channels_last is kept throughout the network, forwards and backwards."""

import pytest
import torch

from resnet_repro.networks.resnet import ResNet
from resnet_repro.networks.unit import SHORTCUTS
from tests.helpers.networks import cifar


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("order", ["original", "full_preact"])
@pytest.mark.parametrize(("family", "depth"), [("cifar", 11), ("imagenet", 18)])
def test_channels_last_is_kept_and_changes_no_output(family, depth, order, shortcut):
    unit = "bottleneck" if family == "cifar" else "auto"
    net = ResNet(depth=depth, family=family, num_classes=10, order=order, shortcut=shortcut, unit=unit).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = net(x)
    net = net.to(memory_format=torch.channels_last)
    for stage in net.stages:
        for part in stage:
            part.register_forward_hook(lambda _, inputs, output: formats.append((inputs[0], output)))
    formats = []
    torch.testing.assert_close(net(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-4)
    assert len(formats) >= 3
    assert all(t.is_contiguous(memory_format=torch.channels_last) for pair in formats for t in pair)


@pytest.mark.parametrize("words", [{}, {"shortcut": "none"}, {"shortcut": "B"}, {"order": "full_preact"}])
def test_gradients_have_the_memory_format_of_activations(words):
    net = cifar(14, **words).to(memory_format=torch.channels_last)
    formats = []

    def look(module, inputs, gradients):
        formats.append(gradients[0].is_contiguous(memory_format=torch.channels_last))

    for module in net.stages.modules():
        if not list(module.children()):
            module.register_full_backward_hook(look)
    net(torch.randn(4, 3, 32, 32).to(memory_format=torch.channels_last)).sum().backward()
    assert len(formats) > 20
    assert all(formats)
