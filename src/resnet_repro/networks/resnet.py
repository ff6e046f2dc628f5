"""ResNet: stem, stages of residual units, head. Plain networks, v1, v2 and the ablations differ only in their words."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from resnet_repro.networks.depths import STEMS, stages, unit_for
from resnet_repro.networks.options import Images, Residual
from resnet_repro.networks.unit import ORDERS, KeepLayout, ResidualUnit, acts, conv


class ResNet(nn.Module):
    """A network of `depth` weighted layers; `family` is "cifar" [v1 Sec. 4.2] or "imagenet" [v1 Table 1].

    Plain is order "original", shortcut "none"; v1 is "original"; v2 is "full_preact".
    Raises UserError if the depth or a word does not exist.
    """

    def __init__(
        self,
        *,
        depth: int,
        family: str,
        num_classes: int,
        in_channels: int = 3,
        order: str = "original",
        shortcut: str = "A",
        mix: str = "add",
        unit: str = "auto",
        gate_bias: float = -6.0,
        stride_on: str = "first",
    ) -> None:
        super().__init__()
        words = {"order": order, "shortcut": shortcut, "mix": mix, "stride_on": stride_on}
        settled = unit_for(depth, family) if unit == "auto" else unit
        self.words: dict[str, Any] = {"depth": depth, "family": family, "unit": settled, **words}
        """The words that tell the network from others, whatever the number of classes."""
        stem = STEMS[family]
        # [open: the authors' models use Caffe's pooling, which has no padding and rounds the size up, so its windows
        # lie a pixel further; the padding here is fb.resnet.torch's, and gives the same size]
        pool = [nn.MaxPool2d(3, stem.pool, padding=1)] if stem.pool > 1 else []
        c = stem.width
        self.stem = nn.Sequential(conv(in_channels, c, stem.kernel, stem.stride), *acts("BR", c), *pool)
        self.stages = nn.Sequential()
        for num_units, convs, stride in stages(depth, family=family, unit=unit):
            units = nn.Sequential()
            for i in range(num_units):
                is_first = len(self.stages) == i == 0
                units.append(
                    ResidualUnit(c, convs, 1 if i else stride, gate_bias=gate_bias, is_first=is_first, **words)
                )
                c = convs[-1][1]
            self.stages.append(units)
        self.head = nn.Sequential(
            *acts(ORDERS[order].pre, c), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, num_classes)
        )
        self._init_weights()

    def forward(self, x: Float[Tensor, "n in_channels h w"]) -> Float[Tensor, "n num_classes"]:
        return self.head(KeepLayout.apply(self.stages(self.stem(x))))

    def _init_weights(self) -> None:
        """Initialise as He et al.; batch norm starts as the identity, biases except the gates' as 0.  [v1 Sec. 3.4]"""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # [open: v1's reference 13 allows fan-in and fan-out; the authors' Torch code has fan-out]
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                # [open: the papers start "the weights" as v1's reference 13, and do not say whether that includes the
                # last layer's. As fb.resnet.torch: uniform within 1/sqrt(fan-in), PyTorch's default too, and zero bias]
                nn.init.zeros_(module.bias)


def build(network: Residual, images: Images) -> ResNet:
    """Return the network for these images, with random weights."""
    channels, *_ = images.image
    words = network.words
    return ResNet(**words, num_classes=images.num_classes, in_channels=channels, gate_bias=network.gate_bias)
