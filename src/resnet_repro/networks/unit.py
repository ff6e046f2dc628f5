"""One residual unit for plain networks, v1, v2 and every ablation, chosen by three words: order, shortcut and mix."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from resnet_repro.errors import UserError
from resnet_repro.networks.depths import check_choice, strides


class Order(NamedTuple):
    """The places of batch norm (B) and ReLU (R). Between two convolutions it is always BR.  [v2 Fig. 4]"""

    pre: str  # before the first convolution
    post: str  # after the last convolution, before the addition
    after: str  # after the addition: f


ORDERS = {  # [v2 Fig. 4, Table 2]
    "original": Order(pre="", post="B", after="R"),  # (a) v1 and plain
    "bn_after_add": Order(pre="", post="", after="BR"),  # (b)
    "relu_before_add": Order(pre="", post="BR", after=""),  # (c)
    "relu_only_preact": Order(pre="R", post="B", after=""),  # (d)
    "full_preact": Order(pre="BR", post="", after=""),  # (e) v2
}
MIXES: dict[str, Callable[..., Tensor]] = {  # [v2 Fig. 2, Table 1]; g = sigmoid(W_g h + b_g)
    "add": lambda h, f, g: h + f,
    "half_shortcut": lambda h, f, g: 0.5 * h + f,
    "half_both": lambda h, f, g: 0.5 * h + 0.5 * f,
    "exclusive_gate": lambda h, f, g: (1 - g) * h + g * f,
    "shortcut_gate": lambda h, f, g: (1 - g) * h + f,
}
SHORTCUTS = {
    "none": "no shortcut: the plain network [v1 Sec. 3.3], and v2 Table 1's (shortcut 0, F 1)",
    "A": "identity; zeros for new channels, no parameters [v1 Sec. 3.3]",
    "B": "identity, but a projection if the size changes [v1 Sec. 3.3]",
    "C": "a projection everywhere [v1 Sec. 4.1], v2 Table 1's 1x1 conv shortcut",
    "dropout": "A, then dropout of 0.5 [v2 Table 1]",
}


class ResidualUnit(nn.Module):
    """y = f(mix(h(x), F(x))).  `convs` is the bracket of v1 Table 1: [(3, 16), (3, 16)] or [(1, 16), (3, 16), (1, 64)].

    `is_first`: this unit follows the stem, whose BN and ReLU serve as its `pre`.  [v2 Appendix]
    Raises UserError if the order, shortcut, mix or stride_on is unknown.
    """

    def __init__(
        self,
        c_in: int,
        convs: list[tuple[int, int]],
        stride: int,
        *,
        order: str,
        shortcut: str,
        mix: str = "add",
        gate_bias: float = -6.0,
        stride_on: str = "first",
        is_first: bool = False,
    ) -> None:
        super().__init__()
        check_words(order=order, shortcut=shortcut, mix=mix, stride_on=stride_on)
        o, c_out = ORDERS[order], convs[-1][1]
        layers: list[nn.Module] = []
        c = c_in
        # [open: the papers do not say which convolution of a bottleneck has the stride; the authors' models have it on
        # the first, most copies on the 3x3 ("v1.5")]
        for i, ((kernel, width), s) in enumerate(zip(convs, strides(convs, stride, stride_on), strict=True)):
            layers += [*acts("BR" if i else "", c), conv(c, width, kernel, s)]
            c = width
        self.pre = nn.Sequential(*acts("" if is_first else o.pre, c_in))
        self.residual = nn.Sequential(*layers, *acts(o.post, c_out))  # F
        # Table 1's projections have BN, which is "right after the weight layers for all units". [v2 Fig. 2]
        # [open: v2 does not say whether a projection has BN in orders (b) to (d); here it has BN if F ends in BN]
        self.shortcut = make_shortcut(shortcut, c_in, c_out, stride, norm="B" in o.post)  # h
        self.after = nn.Sequential(*acts(o.after, c_out))  # f
        self.mix = mix
        self.ends_in_one = False  # True after `fused.fuse`, if the last batch norm of F also adds h and applies f
        # [open: v2's Appendix has projections in bottlenecks read the activation; here option A too, as in
        # fb.resnet.torch]
        self.reads_activated = shortcut == "C" or stride != 1 or c_in != c_out
        # [open: v2 does not say what a gate reads if the size changes; here the resized h, which elsewhere is x]
        # [open: v2 does not say how a gate's weights begin: here as all others (`ResNet._init_weights`), with a std of
        # 0.35 for 16 channels. Nor does it say whether the BN that Fig. 2 has after all weight layers also follows
        # gates: here it does not]
        self.gate = nn.Conv2d(c_out, c_out, 1) if "gate" in mix else None
        if self.gate is not None and self.gate.bias is not None:
            nn.init.constant_(self.gate.bias, gate_bias)

    def forward(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n c_out h2 w2"]:
        activated = self.pre(x)
        if self.shortcut is None:
            return self.after(self.residual(activated))
        h = self.shortcut(activated if self.reads_activated else x)  # [v2 Appendix]
        if self.ends_in_one:
            *layers, last = self.residual
            for layer in layers:
                activated = layer(activated)
            return last(activated, h)
        f = self.residual(activated)
        g = None if self.gate is None else torch.sigmoid(self.gate(h))
        return self.after(MIXES[self.mix](h, f, g))


class PadShortcut(nn.Module):
    """Option A for a changing size: every `stride`-th pixel, and zeros for the new channels.  [v1 Sec. 3.3]"""

    def __init__(self, num_new_channels: int, stride: int) -> None:
        super().__init__()
        self.num_new_channels, self.stride = num_new_channels, stride

    def forward(self, x: Float[Tensor, "n c_in h w"]) -> Float[Tensor, "n c_out h2 w2"]:
        # a slice is faster than 1x1 pooling, and keeps channels_last if the stride divides the size
        kept = KeepLayout.apply(x)[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, 0, self.num_new_channels))


class KeepLayout(torch.autograd.Function):
    """The identity; its gradient has the memory format of x.

    Slices and global pooling return contiguous gradients. Shortcuts would pass that layout on to every earlier layer,
    and an operation on tensors in two layouts takes several times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.format = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else None
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        return gradient if ctx.format is None else gradient.contiguous(memory_format=ctx.format)


def make_shortcut(kind: str, c_in: int, c_out: int, stride: int, *, norm: bool) -> nn.Module | None:
    """Return h of the unit; None in a plain network, which must have no unused parameters."""
    resizes = stride != 1 or c_in != c_out
    if kind == "none":
        return None
    if kind == "C" or (kind == "B" and resizes):
        return nn.Sequential(conv(c_in, c_out, 1, stride), *acts("B" if norm else "", c_out))
    identity = PadShortcut(c_out - c_in, stride) if resizes else nn.Identity()
    # [open: v2 Sec. 3.1 says that this imposes a scale "with an expectation of 0.5". As in Caffe, the layer doubles the
    # values that it keeps, so the expectation is 1]
    return nn.Sequential(identity, nn.Dropout(0.5)) if kind == "dropout" else identity


def acts(letters: str, width: int) -> list[nn.Module]:
    """Return the layers that B (batch norm) and R (ReLU) stand for.

    [open: the papers do not say which mean and variance batch norm uses at test on CIFAR; here running averages, of
    momentum 0.1]
    """
    # ReLU is not in place: in `pre` it would overwrite the x that the shortcut reads, and elsewhere it saves no time
    return [nn.BatchNorm2d(width) if letter == "B" else nn.ReLU() for letter in letters]


def conv(c_in: int, c_out: int, kernel: int, stride: int) -> nn.Conv2d:
    """Return a convolution that divides the image's size by `stride`. It needs no bias, because batch norm has one."""
    return nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)


def check_words(*, order: str, shortcut: str, mix: str, stride_on: str) -> None:
    """Raise UserError if a word is unknown, or if a mix needs a shortcut and there is none."""
    check_choice("arch.order", order, ORDERS)
    check_choice("arch.shortcut", shortcut, SHORTCUTS)
    check_choice("arch.mix", mix, MIXES)
    check_choice("arch.stride_on", stride_on, ["first", "3x3"])
    if shortcut == "none" and mix != "add":
        raise UserError(f"arch.mix={mix} needs a shortcut and arch.shortcut=none has none; use arch.mix=add")
