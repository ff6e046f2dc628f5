"""The views of a tested image, compared with a slow and obvious version of each."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import ten_crop

from resnet_repro.data.jpeg import shorter_side
from resnet_repro.evaluation.views import Views, grouped, probabilities, ten_crops, views
from resnet_repro.networks.resnet import ResNet

CROP = 56  # a quarter of the papers' crop, so all sizes are a quarter of the papers'
SCALES = (56, 64, 96, 120, 160)


def picture(height: int, width: int, *, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def network(**words: Any) -> ResNet:
    """Return a small network of the ImageNet family in float64, with random running statistics."""
    torch.manual_seed(0)
    net = ResNet(**{"depth": 18, "family": "imagenet", "num_classes": 7} | words)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    nn.init.normal_(net.head[-1].bias)
    return net.double().eval()


def floats(batch: Views) -> Views:
    return Views([(x / 255.0, of) for x, of in batch.groups], batch.labels)


@pytest.mark.parametrize("shape", [(60, 84), (84, 60), (64, 64), (56, 56)])
def test_ten_crops_equal_torchvisions_if_margins_are_even(shape: tuple[int, int]) -> None:
    image = picture(*shape)
    pairs = zip(ten_crops(image, CROP), ten_crop(image, [CROP, CROP]), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def slow_softmax(net: nn.Module, view: Tensor) -> Tensor:
    return net((view / 255.0)[None]).double().softmax(1)[0]


def centre(image: Tensor, size: int) -> Tensor:
    top, left = ((length - size) // 2 for length in image.shape[1:])
    return image[:, top : top + size, left : left + size]


def slow_ten_crops(image: Tensor) -> list[Tensor]:
    crops = []
    for each in (image, image.flip(2)):
        crops += [each[:, :CROP, :CROP], each[:, :CROP, -CROP:], each[:, -CROP:, :CROP], each[:, -CROP:, -CROP:]]
        crops.append(centre(each, CROP))
    return crops


@pytest.fixture(autouse=True)
def doubles() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("test", "shapes"),
    [
        ("1crop", [(56, 56)]),
        ("10crop", [(56, 56)] * 10),
        ("320", [(80, 80)]),
        ("multiscale", [(size, 2 * size) for size in SCALES] * 2),
    ],
)
def test_sizes_of_views_are_in_proportion_to_the_crop(test: str, shapes: list[tuple[int, int]]) -> None:
    whole_and_crops = views(picture(100, 200), test=test, crop=CROP, side=256)
    assert [tuple(view.shape[1:]) for view in whole_and_crops] == shapes


def test_at_the_papers_crop_sizes_are_the_papers() -> None:
    whole = views(picture(30, 40), test="multiscale", crop=224, side=256)
    assert [min(view.shape[1:]) for view in whole] == [224, 256, 384, 480, 640] * 2
    (large,) = views(picture(30, 40), test="320", crop=224, side=256)
    assert large.shape == (3, 320, 320)


@pytest.mark.parametrize("test", ["1crop", "10crop", "320", pytest.param("multiscale", marks=pytest.mark.slow)])
def test_probabilities_are_the_mean_over_single_views(test: str) -> None:
    """For images of different shapes in one batch, with each crop and scale written out."""
    net, images = network(), [picture(90, 70, seed=1), picture(70, 90, seed=2), picture(70, 90, seed=3)]
    batch = grouped([views(image, test=test, crop=CROP, side=256) for image in images], torch.tensor([0, 1, 2]))
    with torch.no_grad():
        averages = probabilities(net, floats(batch))
        for image, ours in zip(images, averages, strict=True):
            if test == "multiscale":
                singles = [shorter_side(image, size) for size in SCALES]
                singles += [view.flip(-1) for view in singles]
            elif test == "320":
                singles = [centre(shorter_side(image, 80), 80)]
            elif test == "1crop":
                singles = [centre(shorter_side(image, 64), CROP)]
            else:
                singles = slow_ten_crops(shorter_side(image, 64))
            expected = sum(slow_softmax(net, view) for view in singles) / len(singles)
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)
    assert (averages[0] - averages[1]).abs().max() > 1e-6  # images differ, so equality is not a matter of course


def score_map(net: ResNet, x: Tensor) -> Tensor:
    """Return the map of class scores of the fully convolutional form: the last layer is 1 x 1. [v1 Sec. 3.4]"""
    *activations, _, _, linear = net.head
    features = nn.Sequential(*activations)(net.stages(net.stem(x)))
    return F.conv2d(features, linear.weight[..., None, None], linear.bias)


@pytest.mark.parametrize("order", ["original", "full_preact"])
@pytest.mark.parametrize("shape", [(56, 56), (70, 93), (160, 120)])
def test_scores_of_a_whole_image_are_the_mean_of_its_score_map(shape: tuple[int, int], order: str) -> None:
    net, x = network(order=order), picture(*shape)[None] / 255.0
    with torch.no_grad():
        scores = score_map(net, x)
        assert scores.shape[2:] == tuple(-(-side // 32) for side in shape)
        torch.testing.assert_close(net(x), scores.mean((2, 3)), rtol=1e-10, atol=1e-12)


def test_a_whole_image_of_the_crops_size_gives_plain_scores() -> None:
    """Fully convolutional testing equals plain testing there, bit for bit."""
    net, image = network(), picture(CROP, CROP)
    whole, *_ = views(image, test="multiscale", crop=CROP, side=256)
    assert torch.equal(whole, image)
    with torch.no_grad():
        ours = probabilities(net, floats(grouped([[whole]], torch.tensor([0]))))
        assert torch.equal(ours, net(image[None] / 255.0).softmax(1))
