"""The networks of torchvision and timm by name, and what they tell before a run starts."""

import difflib
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_repro.errors import UserError, first_words

if TYPE_CHECKING:  # the libraries and torch are slow to import, so each function imports what it needs
    from torch import nn

SIZES = (16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 320, 384, 448)
"""Image sizes in pixels that are tried to find one which a network takes."""


class Library(NamedTuple):
    """A library of networks."""

    names: Callable[[], list[str]]
    make: Callable[[str, int, int], "nn.Module"]
    """Makes a network from its name, the image size in pixels and the number of classes."""
    examples: tuple[str, ...]


def _torchvision_names() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))


def _torchvision(name: str, image_size: int, num_classes: int) -> "nn.Module":
    from torchvision import models

    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        # [deviates: GoogLeNet was trained with two auxiliary classifiers; here every network has one loss]
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": image_size}
    net: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **options)
    return net


def _timm_names() -> list[str]:
    import timm

    return list(timm.list_models())


def _timm(name: str, image_size: int, num_classes: int) -> "nn.Module":
    import timm

    published = timm.models.get_pretrained_cfg(name)
    is_fixed = published is not None and published.fixed_input_size
    options: dict[str, Any] = {"img_size": image_size} if is_fixed else {}
    net: nn.Module = timm.create_model(name, pretrained=False, num_classes=num_classes, **options)
    return net


LIBRARIES = {
    "torchvision": Library(
        _torchvision_names, _torchvision, examples=("alexnet", "squeezenet1_1", "vgg16", "googlenet")
    ),
    "timm": Library(_timm_names, _timm, examples=("resnet18", "mobilenetv3_small_050", "vit_tiny_patch16_224")),
}


class Facts(NamedTuple):
    """Facts about a network that need no training."""

    multiply_adds: int
    """Multiply-adds of one image's forward pass: convolutions, linear layers and attention."""
    has_batch_norm: bool


def inspect(source: str, name: str, *, image_size: int, num_classes: int) -> Facts:
    """Return the facts of a comparator. It runs in both modes on PyTorch's meta device, without computing anything.

    Args:
        image_size: width and height in pixels of the images that the network sees.

    Raises:
        UserError: if the library has no such network, or the network does not take images of that size.
    """
    _check_name(source, name)
    facts = partial(_facts, source, name, num_classes=num_classes)
    try:
        return facts(image_size)
    except Exception as error:  # every network fails in its own way
        reason = first_words(error)
    works = next((larger for larger in SIZES if larger > image_size and _works(facts, larger)), None)
    if works is None:
        raise UserError(f"arch.name={name} does not work as an image classifier ({reason}); use another network")
    raise UserError(f"{name} does not take images of {image_size} pixels; give arch.image_size={works}")


def _check_name(source: str, name: str) -> None:
    names = LIBRARIES[source].names()
    if name not in names:
        matches = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {_or(matches)}?" if matches else f"use for example {_or(LIBRARIES[source].examples)}"
        raise UserError(f"arch.name={name} is not a classification network of {source}; {hint}")


def _or(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


@cache
def _facts(source: str, name: str, image_size: int, *, num_classes: int) -> Facts:
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        net = LIBRARIES[source].make(name, image_size, num_classes)
    images = torch.empty(2, 3, image_size, image_size, device="meta")
    for training in (True, False):
        net.train(training)
        with FlopCounterMode(display=False) as counter:
            logits = net(images)
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        raise TypeError("its output is not one number per class")
    norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    return Facts(
        multiply_adds=counter.get_total_flops() // 2 // len(images),
        has_batch_norm=any(isinstance(module, norms) for module in net.modules()),
    )


def _works(facts: Callable[[int], Facts], image_size: int) -> bool:
    try:
        facts(image_size)
    except Exception:  # as in `inspect`
        return False
    return True
