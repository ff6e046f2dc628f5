"""The protocols' values for `auto` in conf/, which depend on the family of data too."""

from typing import Literal, NamedTuple

from resnet_repro.errors import UserError
from resnet_repro.options import Family, Number
from resnet_repro.runs.options import ProtocolName, Shape, Warmup

LR, LR_WITHOUT_BATCH_NORM = 0.1, 0.01
"""Rate for the recipe's batch. [v1 Sec. 4.2] [deviates: comparators without batch norm get a tenth, the rate at which
AlexNet and VGG were trained; 0.1 may make such networks diverge]"""


class Recipe(NamedTuple):
    """The values of a protocol for one of the papers' two families of data."""

    devices: int
    """Number of GPUs over which a batch was divided. [v1 Sec. 3.4, 4.2]"""
    warmup: Warmup | None = None
    shape: Shape = "steps"
    protocol_steps: int = 450_360
    """On ImageNet: 90 epochs of 5,004 steps at 256 images. [v2 Appendix; open: where v2's runs end]"""
    augment: Literal["scale", "scale_aspect"] = "scale"
    jitter: Number = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


RECIPES: dict[tuple[ProtocolName, Family], Recipe] = {
    # until the training error is below 80 %, for 110 layers and more [v1 Sec. 4.2]
    ("paper_v1", "cifar"): Recipe(2, warmup=Warmup(lr=0.01, until_error=80.0, min_depth=110)),
    # "divided by 10 when the error plateaus", "up to 60 x 10^4 iterations" [v1 Sec. 3.4]
    ("paper_v1", "imagenet"): Recipe(8, shape="plateau", protocol_steps=600_000),
    # at every depth [v2 Appendix]
    ("paper_v2", "cifar"): Recipe(2, warmup=Warmup(lr=0.01, steps=400)),
    # no warm-up; the rate falls after 30 and 60 of 90 epochs [v2 Appendix]
    ("paper_v2", "imagenet"): Recipe(8),
    ("official_lua", "cifar"): Recipe(2),
    ("fb_resnet", "cifar"): Recipe(2),
    ("fb_resnet", "imagenet"): Recipe(8, augment="scale_aspect", jitter=0.4, interpolation="bicubic"),
    ("modern", "cifar"): Recipe(1),
    ("modern", "imagenet"): Recipe(1, augment="scale_aspect"),
}


def recipe(protocol: ProtocolName, family: Family) -> Recipe:
    """Return the recipe of a protocol for a family of data.

    Raises:
        UserError: if the protocol has no recipe for the family.
    """
    if (protocol, family) in RECIPES:
        return RECIPES[protocol, family]
    titles: dict[Family, str] = {"cifar": "CIFAR", "imagenet": "ImageNet"}
    (own_family,) = {each for name, each in RECIPES if name == protocol}
    *others, last = [name for name, each in RECIPES if each == family]
    choices = f"{', '.join(others)} or {last}"
    raise UserError(f"protocol={protocol} is a recipe for {titles[own_family]}; on {titles[family]} use {choices}")
