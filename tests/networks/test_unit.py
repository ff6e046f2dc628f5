import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resnet_repro.errors import UserError
from resnet_repro.networks.unit import MIXES, ORDERS, SHORTCUTS, PadShortcut, ResidualUnit

BASIC, BOTTLENECK, ONE_LAYER = [(3, 8), (3, 8)], [(1, 2), (3, 2), (1, 8)], [(3, 8)]
RESIDUAL = [kind for kind in SHORTCUTS if kind != "none"]


def make(c_in=8, convs=BASIC, stride=1, *, seed=0, **words):
    """Return a unit with random weights, also in batch norms, so that no two layers are alike."""
    torch.manual_seed(seed)
    unit = ResidualUnit(c_in, convs, stride, **{"order": "original", "shortcut": "A"} | words)
    for module in unit.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return unit


def image(channels=8, size=6):
    return torch.randn(3, channels, size, size, generator=torch.Generator().manual_seed(1))


# the drawings of v2 Fig. 4 written out; c: convolutions, b: batch norms, each in order
DRAWINGS = {
    "original": lambda x, c, b: F.relu(x + b[1](c[1](F.relu(b[0](c[0](x)))))),
    "bn_after_add": lambda x, c, b: F.relu(b[1](x + c[1](F.relu(b[0](c[0](x)))))),
    "relu_before_add": lambda x, c, b: x + F.relu(b[1](c[1](F.relu(b[0](c[0](x)))))),
    "relu_only_preact": lambda x, c, b: x + b[1](c[1](F.relu(b[0](c[0](F.relu(x)))))),
    "full_preact": lambda x, c, b: x + c[1](F.relu(b[1](c[0](F.relu(b[0](x)))))),
}


@pytest.mark.parametrize("order", ORDERS)
def test_each_order_computes_its_drawing_in_v2_figure_4(order):
    unit, x = make(order=order), image()
    convs = [module for module in unit.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in unit.modules() if isinstance(module, nn.BatchNorm2d)]
    assert torch.equal(unit(x), DRAWINGS[order](x, convs, norms))


def test_all_orders_have_the_same_components():
    parameters = {order: sorted(p.shape for p in make(order=order).parameters()) for order in ORDERS}
    assert all(shapes == parameters["original"] for shapes in parameters.values())


@pytest.mark.parametrize("convs", [BASIC, BOTTLENECK, ONE_LAYER])
def test_full_preact_unit_with_zero_residual_is_identity(convs):
    unit, x = make(convs=convs, order="full_preact"), image()
    nn.init.zeros_(unit.residual[-1].weight)
    assert torch.equal(unit(x), x)


@pytest.mark.parametrize("order", ORDERS)
def test_a_unit_does_not_change_its_input(order):
    for shortcut in SHORTCUTS:
        for convs, stride in ((BASIC, 1), ([(3, 16), (3, 16)], 2)):
            x = image()
            make(convs=convs, stride=stride, order=order, shortcut=shortcut)(x).sum().backward()
            assert torch.equal(x, image())


@pytest.mark.parametrize("order", ["relu_only_preact", "full_preact"])
def test_only_resizing_shortcuts_read_the_activated_x(order):
    # [v2 Appendix]; the residual function is zero, so that the output is the shortcut's
    def silenced(unit):
        last = [module for module in unit.residual if isinstance(module, nn.Conv2d | nn.BatchNorm2d)][-1]
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)
        return unit

    x = image()
    assert torch.equal(silenced(make(order=order))(x), x)
    for shortcut in ("A", "B", "C"):
        unit = silenced(make(convs=[(3, 16), (3, 16)], stride=2, order=order, shortcut=shortcut))
        assert torch.equal(unit(x), unit.shortcut(unit.pre(x)))
        assert not torch.equal(unit(x), unit.shortcut(x))


def test_the_first_unit_leaves_its_activation_to_the_stem():
    assert len(make(order="full_preact").pre) == 2
    assert len(make(order="full_preact", is_first=True).pre) == 0


def test_a_plain_unit_owns_no_projection_and_adds_nothing():
    unit, x = make(convs=[(3, 16), (3, 16)], stride=2, shortcut="none"), image()
    assert unit.shortcut is None
    assert torch.equal(unit(x), F.relu(unit.residual(x)))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_option_a_slices_pixels_and_adds_zero_channels(stride, memory_format):
    for size in (6, 7):
        x = image(size=size).contiguous(memory_format=memory_format)
        y = PadShortcut(5, stride)(x)
        assert y.shape == (3, 13, math.ceil(size / stride), math.ceil(size / stride))
        assert size % stride or y.is_contiguous(memory_format=memory_format)
        for n, c, i, j in itertools.product(*map(range, y.shape)):
            assert y[n, c, i, j] == (x[n, c, i * stride, j * stride] if c < 8 else 0)


def test_option_b_projects_if_the_size_changes_and_c_always():
    def num_projections(shortcut, convs, stride):
        unit = make(convs=convs, stride=stride, shortcut=shortcut)
        return sum(isinstance(module, nn.Conv2d) for module in unit.shortcut.modules())

    wide = [(3, 16), (3, 16)]
    cases = {kind: [num_projections(kind, *case) for case in ((BASIC, 1), (BASIC, 2), (wide, 1))] for kind in RESIDUAL}
    assert cases == {"A": [0, 0, 0], "B": [0, 1, 1], "C": [1, 1, 1], "dropout": [0, 0, 0]}


def test_dropout_drops_half_of_the_identity_in_training_only():
    unit, x = make(order="full_preact", shortcut="dropout"), torch.ones(64, 8, 6, 6)
    nn.init.zeros_(unit.residual[-1].weight)
    y = unit(x)
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert abs((y == 0).float().mean() - 0.5) < 0.02  # over 5 standard deviations of 18,432 draws
    assert torch.equal(unit.eval()(x), x)


def with_weights_of(unit, **words):
    other = make(**words)
    other.load_state_dict(unit.state_dict(), strict=False)
    return other


def test_half_both_is_half_of_add():
    add, x = make(order="full_preact"), image()
    assert torch.equal(2 * with_weights_of(add, order="full_preact", mix="half_both")(x), add(x))


def test_half_shortcut_is_add_less_half_of_x():
    add, x = make(order="full_preact"), image()
    half = with_weights_of(add, order="full_preact", mix="half_shortcut")
    torch.testing.assert_close(add(x) - half(x), 0.5 * x)


@pytest.mark.parametrize("mix", ["exclusive_gate", "shortcut_gate"])
def test_gates_are_the_equations_of_v2_section_3(mix):
    unit, x = make(order="full_preact", mix=mix, gate_bias=-1.0), image()
    weight = unit.gate.weight[:, :, 0, 0]
    g = 1 / (1 + torch.exp(-(torch.einsum("oc,nchw->nohw", weight, x) - 1.0)))
    f = unit.residual(unit.pre(x))
    expected = x * (1 - g) + (f * g if mix == "exclusive_gate" else f)
    torch.testing.assert_close(unit(x), expected)


def test_closed_gates_pass_the_input_and_open_gates_f():
    add, x = make(), image()
    plain = with_weights_of(add, shortcut="none")(x)
    gated = {
        (mix, bias): with_weights_of(add, mix=mix, gate_bias=bias)(x)
        for mix in ("exclusive_gate", "shortcut_gate")
        for bias in (-200.0, 200.0)
    }
    assert torch.equal(gated["exclusive_gate", -200.0], F.relu(x))
    assert torch.equal(gated["exclusive_gate", 200.0], plain)
    assert torch.equal(gated["shortcut_gate", -200.0], add(x))
    assert torch.equal(gated["shortcut_gate", 200.0], plain)


def test_a_bottleneck_strides_on_its_first_or_3x3_convolution():
    def strides(convs, stride_on):
        unit = make(convs=convs, stride=2, stride_on=stride_on)
        return [module.stride[0] for module in unit.residual if isinstance(module, nn.Conv2d)]

    assert strides(BOTTLENECK, "first") == [2, 1, 1]
    assert strides(BOTTLENECK, "3x3") == [1, 2, 1]
    assert strides(BASIC, "first") == strides(BASIC, "3x3") == [2, 1]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            {"order": "x"},
            "arch.order=x is not known; "
            "use one of original, bn_after_add, relu_before_add, relu_only_preact, full_preact",
        ),
        ({"shortcut": "D"}, "arch.shortcut=D is not known; use one of none, A, B, C, dropout"),
        ({"mix": "sum"}, f"arch.mix=sum is not known; use one of {', '.join(MIXES)}"),
        ({"stride_on": "last"}, "arch.stride_on=last is not known; use one of first, 3x3"),
        (
            {"shortcut": "none", "mix": "half_both"},
            "arch.mix=half_both needs a shortcut and arch.shortcut=none has none; use arch.mix=add",
        ),
    ],
)
def test_an_unknown_word_is_refused_with_the_known_ones(words, text):
    with pytest.raises(UserError) as error:
        make(**words)
    assert str(error.value) == text
