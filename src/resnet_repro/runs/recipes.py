"""What a protocol says where conf/ has `auto`, as that depends on the data, too. Imports no torch."""

from typing import Literal, NamedTuple

from resnet_repro.errors import UserError
from resnet_repro.options import Family, Number
from resnet_repro.runs.options import ProtocolName, Shape, Warmup

LR, LR_WITHOUT_BATCH_NORM = 0.1, 0.01
"""Rate for the recipe's batch. [v1 Sec. 4.2] [deviates: comparators without batch norm get a tenth, at which AlexNet
and VGG were trained; 0.1 may make such networks diverge]"""


class Recipe(NamedTuple):
    """A protocol on one of the papers' two families of data."""

    devices: int
    """GPUs over which a batch was divided. [v1 Sec. 3.4, 4.2]"""
    warmup: Warmup | None = None
    shape: Shape = "steps"
    protocol_steps: int = 450_360
    """On ImageNet, at 256 images: 90 epochs of 5,004. [v2 Appendix; open: where v2's runs end]"""
    augment: Literal["scale", "scale_aspect"] = "scale"
    jitter: Number = 0
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


RECIPES: dict[tuple[ProtocolName, Family], Recipe] = {
    # until the training error is below 80 %, for 110 layers and more [v1 Sec. 4.2]
    ("paper_v1", "cifar"): Recipe(2, warmup=Warmup(lr=0.01, until_error=80.0, min_depth=110)),
    # "divided by 10 when the error plateaus", "up to 60 x 10^4 iterations" [v1 Sec. 3.4]
    ("paper_v1", "imagenet"): Recipe(8, shape="plateau", protocol_steps=600_000),
    # every run, whatever its depth [v2 Appendix]
    ("paper_v2", "cifar"): Recipe(2, warmup=Warmup(lr=0.01, steps=400)),
    # no warm-up; the rate falls after 30 and 60 epochs, of 90 [v2 Appendix]
    ("paper_v2", "imagenet"): Recipe(8),
    ("official_lua", "cifar"): Recipe(2),
    ("fb_resnet", "cifar"): Recipe(2),
    ("fb_resnet", "imagenet"): Recipe(8, augment="scale_aspect", jitter=0.4, interpolation="bicubic"),
    ("modern", "cifar"): Recipe(1),
    ("modern", "imagenet"): Recipe(1, augment="scale_aspect"),
}


def recipe(protocol: ProtocolName, family: Family) -> Recipe:
    """Return what a protocol says on this family of data.

    Raises:
        UserError: where the protocol says nothing of it.
    """
    if (protocol, family) in RECIPES:
        return RECIPES[protocol, family]
    others = [name for name, each in RECIPES if each == family]
    where = {"cifar": "CIFAR", "imagenet": "ImageNet"}
    (known,) = {each for name, each in RECIPES if name == protocol}
    choices = f"{', '.join(others[:-1])} or {others[-1]}"
    raise UserError(f"protocol={protocol} is a recipe for {where[known]}; on {where[family]} use {choices}")
