"""Recomputed statistics of batch norm: those of all training images, whatever their order on the disk."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from resnet_repro.data.imagenet import ImageNetData
from resnet_repro.evaluation.measure import recompute_bn
from resnet_repro.runs.job import make_job
from tests.helpers.photo_runs import SMALL, photographs
from tests.helpers.runs import TINY, composed, in_memory, network_of

CPU, NUM, BATCH = torch.device("cpu"), 24, 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageNetData:
    """Return images of four classes of different brightness, sorted by class, with as many in a class as in a batch."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, num in (("train", NUM), ("val", 1)):
        for number in range(4):
            folder = root / split / str(number)
            folder.mkdir(parents=True)
            for i in range(num):
                pixels = 20 + 60 * number + rng.integers(0, 30, (36, 36, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    config = composed(*SMALL, f"data.root={root}", f"schedule.eval_batch_size={BATCH}")
    return photographs(make_job(config, usual=composed("data=imagenet")).run)


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def exactly(net: nn.Module, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return mean and variance of each batch norm's inputs, computed on all images at once."""
    by_norm: dict[nn.Module, Tensor] = {}

    def keep(norm: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        by_norm[norm] = inputs[0].double()

    handles = [norm.register_forward_hook(keep) for norm in norms(net)]
    net.train()(x)
    for handle in handles:
        handle.remove()
    return [(by_norm[norm].mean((0, 2, 3)), by_norm[norm].var((0, 2, 3))) for norm in norms(net)]


def test_statistics_keep_the_variance_between_sorted_classes(data: ImageNetData) -> None:
    torch.manual_seed(0)
    net = network_of(make_job(composed(*SMALL), usual=composed("data=imagenet")).run)
    with torch.no_grad():
        expected = exactly(net, torch.cat([x for x, _ in data.unaugmented(CPU)]))
        recompute_bn(net.eval(), data.unaugmented(CPU))
    for norm, (mean, var) in zip(norms(net), expected, strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert (norm.running_var.double() / var).median().item() == pytest.approx(1, abs=0.15)
        assert ((norm.running_mean.double() - mean) / var.sqrt()).abs().median().item() < 0.15


def test_each_image_counts_once_in_the_statistics(data: ImageNetData) -> None:
    """The images of a smaller last batch too. The mean of the first batch norm shows it, because that mean is exact."""
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), nn.BatchNorm2d(3, momentum=0.3)).eval()
    x = torch.randn(10, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 11)[:, None, None, None]
    with torch.no_grad():
        recompute_bn(net, [(part, torch.zeros(len(part))) for part in x.split(4)])
    first, _, second = net
    torch.testing.assert_close(first.running_mean, x.mean((0, 2, 3)))
    assert (first.momentum, second.momentum, first.training) == (0.1, 0.3, False)
    assert second.running_var.max() < 1.1  # dropout would double the variance


def test_the_order_is_random_and_the_same_every_time(data: ImageNetData) -> None:
    config = make_job(composed(*TINY), usual=composed("data=digits")).run
    for source in (data, in_memory(config)):
        orders = [torch.cat([y for _, y in source.unaugmented(CPU, at_most=96)]) for _ in range(2)]
        assert torch.equal(*orders)
    (first, *_) = data.unaugmented(CPU)
    assert len(first[1].unique()) == 4
