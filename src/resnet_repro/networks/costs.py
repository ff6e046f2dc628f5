"""Multiply-adds and kept activations of a network, computed from its depth and words."""

from resnet_repro.networks.depths import STEMS, stages, strides


def multiply_adds(
    depth: object,
    *,
    family: str,
    image_size: int,
    num_classes: int,
    in_channels: int = 3,
    unit: str = "auto",
    shortcut: str = "A",
    mix: str = "add",
    stride_on: str = "first",
) -> int:
    """Return the multiply-adds of one square image's forward pass, in convolutions and the linear layer.

    [v1 Table 1: FLOPs]
    """
    stem = STEMS[family]
    size = _ceil_div(image_size, stem.stride)
    total = in_channels * stem.width * (stem.kernel * size) ** 2
    size, width = _ceil_div(size, stem.pool), stem.width
    for num_units, convs, stage_stride in stages(depth, family=family, unit=unit):
        for i in range(num_units):
            stride = 1 if i else stage_stride
            c_in = width
            for (kernel, c_out), conv_stride in zip(convs, strides(convs, stride, stride_on), strict=True):
                size = _ceil_div(size, conv_stride)
                total += width * c_out * (kernel * size) ** 2
                width = c_out
            if shortcut == "C" or (shortcut == "B" and (stride != 1 or c_in != width)):
                total += c_in * width * size**2
            if "gate" in mix:
                total += width * width * size**2
    return total + width * num_classes


def kept_activations(
    depth: object, *, family: str, image_size: int, unit: str = "auto", shortcut: str = "A", recompute: bool = False
) -> int:
    """Return about how many numbers a training step keeps of one square image for its backward pass.

    For each convolution, two tensors of the size of its output: the input of batch norm and the output of ReLU. For a
    projection, one. With `recompute`: the inputs of all units and the insides of the largest unit.
    """
    stem = STEMS[family]
    size, width = _ceil_div(image_size, stem.stride), stem.width
    total = 2 * width * size**2
    size = _ceil_div(size, stem.pool)
    insides = [0]
    for num_units, convs, stride in stages(depth, family=family, unit=unit):
        for i in range(num_units):
            outer, c_in = width * size**2, width
            size, width = _ceil_div(size, 1 if i else stride), convs[-1][1]
            inside = 2 * sum(c_out for _, c_out in convs) * size**2
            if shortcut == "C" or (shortcut == "B" and (c_in != width or (stride != 1 and not i))):
                inside += width * size**2
            total += outer if recompute else inside
            insides.append(inside)
    return total + (max(insides) if recompute else 0)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
