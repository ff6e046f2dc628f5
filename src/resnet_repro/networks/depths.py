"""The legal depths, and the stages of a network of each depth."""

from collections.abc import Iterable
from typing import NamedTuple

from resnet_repro.errors import UserError

UNITS = {  # the brackets of v1 Table 1: (kernel, width as a multiple of the stage's width)
    "basic": [(3, 1), (3, 1)],
    "bottleneck": [(1, 1), (3, 1), (1, 4)],
    "one_layer": [(3, 1)],  # ResNet-110(1layer) of v2 Table 3
}
IMAGENET = {  # depth: (unit, number of units in each stage)  [v1 Table 1]
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),  # 16 more units on 28 x 28 pixels than 152 has. [v2 Sec. 5, note 3]
}


class Stem(NamedTuple):
    """The first convolution; `pool` is the stride of the max pooling after it (1: no pooling)."""

    kernel: int
    width: int
    stride: int
    pool: int


STEMS = {
    "cifar": Stem(kernel=3, width=16, stride=1, pool=1),  # [v1 Sec. 4.2]
    "imagenet": Stem(kernel=7, width=64, stride=2, pool=2),  # [v1 Table 1]
}


class Stage(NamedTuple):
    """`num_units` units with the same `convs`, the printed bracket of (kernel, width); `stride` is the first unit's."""

    num_units: int
    convs: list[tuple[int, int]]
    stride: int


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise UserError unless `value` is one of `choices`."""
    if value not in (choices := list(choices)):
        raise UserError(f"{name}={value} is not known; use one of {', '.join(choices)}")


def unit_for(depth: object, family: str) -> str:
    """Return the papers' unit for this depth, which `arch.unit=auto` stands for.  [v1 Table 1, v2 Table 3]

    Raises UserError if `depth` is not a whole number, or not an ImageNet ResNet.
    """
    if not isinstance(depth, int) or isinstance(depth, bool):
        examples = IMAGENET if family == "imagenet" else [20, 32, 44, 56, 110]
        raise UserError(f"depth={depth} is not a whole number; use for example {_listed(examples, ' or ')}")
    if family == "cifar":
        return "bottleneck" if depth in (164, 1001) else "basic"
    if depth not in IMAGENET:
        below, above = [d for d in IMAGENET if d < depth], [d for d in IMAGENET if d > depth]
        raise UserError(f"depth={depth} is not an ImageNet ResNet; {_nearest(below[-1:] + above[:1])}")
    return IMAGENET[depth][0]


def needs_unit(depth: int, family: str) -> bool:
    """Return whether a legal depth is legal only with an `arch.unit` that is not the papers' unit for this depth."""
    return family == "cifar" and (depth - 2) % _layers_per_n(unit_for(depth, family)) != 0


def stages(depth: object, *, family: str, unit: str = "auto") -> list[Stage]:
    """Return the stages of a ResNet of this depth.  [v1 Table 1, Sec. 4.2; v2 Table 3]

    Raises UserError, with the nearest legal depths, if there is no such network.
    """
    assert family in STEMS, family
    check_choice("arch.unit", unit, ["auto", *UNITS])
    papers_unit = unit_for(depth, family)
    assert isinstance(depth, int)
    unit = papers_unit if unit == "auto" else unit
    if family == "imagenet":
        if unit != papers_unit:
            raise UserError(f"arch.unit={unit} makes no ImageNet ResNet-{depth}; use arch.unit={papers_unit} or auto")
        nums_units = list(IMAGENET[depth][1])
    else:
        nums_units = [_units_per_cifar_stage(depth, unit)] * 3
    width = STEMS[family].width  # of the first stage; each later stage doubles the width and halves the image
    return [
        Stage(num_units, [(kernel, times * width << i) for kernel, times in UNITS[unit]], 2 if i else 1)
        for i, num_units in enumerate(nums_units)
    ]


def strides(convs: list[tuple[int, int]], stride: int, stride_on: str) -> list[int]:
    """Return the stride of each convolution of a unit; `stride_on` is "first" (the papers) or "3x3" ("v1.5")."""
    strided = 0 if stride_on == "first" else [kernel for kernel, _ in convs].index(3)
    return [stride if i == strided else 1 for i in range(len(convs))]


def _units_per_cifar_stage(depth: int, unit: str) -> int:
    per_n = _layers_per_n(unit)
    n, rest = divmod(depth - 2, per_n)
    if n >= 1 and rest == 0:
        return n
    rule = f"{per_n}n+2 ({unit} units)"
    smallest = per_n + 2
    if depth < smallest:
        raise UserError(f"depth={depth} is less than {smallest}, the smallest {rule}; {_nearest([smallest])}")
    others = [other for other in UNITS if (depth - 2) % _layers_per_n(other) == 0]
    hint = f"; with arch.unit={others[0]} {depth} is legal" if others else ""
    raise UserError(f"depth={depth} is not {rule}; {_nearest([per_n * n + 2, per_n * (n + 1) + 2])}{hint}")


def _layers_per_n(unit: str) -> int:
    """Return how many layers one more unit in each of the three stages adds."""
    return 3 * len(UNITS[unit])


def _nearest(depths: list[int]) -> str:
    return f"nearest {'are' if len(depths) > 1 else 'is'} {_listed(depths, ' and ')}"


def _listed(depths: Iterable[int], last: str) -> str:
    *words, final = map(str, depths)
    return ", ".join(words) + last + final if words else final
