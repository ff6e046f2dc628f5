"""Finished runs on all images of every evaluated split: how many the networks, averaged, get wrong."""

import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnet_repro.data.device_batches import EvalBatches
from resnet_repro.data.imagenet import ImageNetData
from resnet_repro.data.in_memory import InMemoryData, open_data
from resnet_repro.data.photo_batches import Reading
from resnet_repro.errors import UserError
from resnet_repro.evaluation.record import Request
from resnet_repro.evaluation.views import Views, grouped, probabilities, views
from resnet_repro.runs.folder import RunDir
from resnet_repro.runs.ranks import Rank
from resnet_repro.training.checkpoints import trained
from resnet_repro.training.hardware import settle
from resnet_repro.training.metrics import num_wrong
from resnet_repro.training.process_group import check_same, gather, joined

FOR_TRAINING = {"fused": False, "compile": False, "graph": False}
"""Settings of hardware that a test does without."""


class WholeImages:
    """Batches of small images, one view each: the image as it is.

    A rank takes whole batches, every `world_size`th of them: an image is computed with the same others on any number of
    ranks, so that not even rounding tells them apart.
    """

    def __init__(self, batches: EvalBatches, rank: Rank) -> None:
        self.batches, self.rank = batches, rank

    def __len__(self) -> int:
        return len(range(self.rank.rank, len(self.batches), self.rank.world_size))

    def __iter__(self) -> Iterator[Views]:
        for x, labels in islice(self.batches, self.rank.rank, None, self.rank.world_size):
            yield Views([(x, torch.arange(len(labels), device=labels.device))], labels)


CROPS = {"1crop": 1, "10crop": 10, "320": 2, "multiscale": 50}
"""About how many training crops an image's views have the pixels of: the number by which batches are smaller."""


class PhotographViews:
    """Batches of a test's views of the validation images, which threads read and cut out.

    Views of the training's size get the mean of each pixel subtracted, where that is what the training does, others the
    mean of each channel. [open: the papers do not say what becomes of the mean image at other sizes]
    A rank takes whole batches, as of `WholeImages`.
    """

    def __init__(self, data: ImageNetData, test: str, device: torch.device, rank: Rank) -> None:
        self.source, self.device, self.rank = data.source(data.val, device), device, rank
        self.views = partial(views, test=test, crop=data.crop, side=data.data.test_side, mode=data.mode)
        self.batch_size = max(1, data.batching.eval_batch_size // CROPS[test])
        self.by_pixel = data.normalisation.to(device)
        self.by_channel = self.by_pixel._replace(mean=self.by_pixel.mean.mean((1, 2), keepdim=True))

    def __len__(self) -> int:
        return len(self._begins())

    def __iter__(self) -> Iterator[Views]:
        num_images, size = len(self.source.photos.labels), self.batch_size
        batches = (range(begin, min(begin + size, num_images)) for begin in self._begins())
        for samples in self.source.read([Reading(which, self.views) for which in batch] for batch in batches):
            if samples:
                images, of = zip(*samples, strict=True)
                yield self._send(grouped(images, torch.tensor(of)))

    def _begins(self) -> range:
        return range(
            self.rank.rank * self.batch_size,
            len(self.source.photos.labels),
            self.rank.world_size * self.batch_size,
        )

    def _send(self, batch: Views) -> Views:
        """To the device as uint8, and there as the network takes it."""
        groups = []
        for pixels, of in batch.groups:
            is_crop = pixels.shape[2:] == self.by_pixel.mean.shape[1:]
            mean, scale = self.by_pixel if is_crop else self.by_channel
            x = pixels.to(self.device).to(torch.float32, memory_format=torch.contiguous_format)
            groups.append((x / scale - mean, of.to(self.device)))
        return Views(groups, batch.labels.to(self.device))


def evaluate_runs(request: Request, rank: Rank) -> dict[str, Any]:
    """Do what was asked for; every rank makes this call, takes its share of the batches, and gets the whole result.

    Returns:
        `splits`: for each evaluated split the number of images and the errors in %; `precision` and `data_checksum`.

    Raises:
        UserError: where data, device or weights are not what is asked for.
    """
    hardware = settle(request.options.hardware.but(**FOR_TRAINING))
    torch.set_num_threads(hardware.num_threads)
    on_gpu = hardware.on_gpu
    if on_gpu and hardware.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    device = torch.device("cuda", rank.local_rank) if on_gpu else torch.device("cpu")
    data = open_data(request.options.data, request.options.but(hardware=hardware).batching())
    if rank.is_first and data.about_files:
        print(data.about_files, file=sys.stderr, flush=True)
    layout = torch.channels_last if hardware.channels_last else torch.contiguous_format
    runs = map(RunDir, request.runs)
    nets = [trained(run).to(device).to(memory_format=layout).eval() for run in runs]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=hardware.precision == "bf16-mixed")
    with joined(rank, accelerator=hardware.accelerator), autocast, torch.inference_mode():
        check_same({"data": data.checksum, "weights": request.weights})
        if request.num_bn_images:
            for net in nets:
                recompute_bn(net, data.unaugmented(device, at_most=request.num_bn_images))
        shares: list[WholeImages | PhotographViews]
        if isinstance(data, InMemoryData):
            shares = [WholeImages(batches, rank) for batches in data.evaluation(device)]
        else:
            shares = [PhotographViews(data, request.test, device, rank)]
        hidden = not (rank.is_first and sys.stdout.isatty())
        splits = {
            split: count_errors(nets, track(share, split, disable=hidden, transient=True))
            for split, share in zip(data.splits, shares, strict=True)
        }
    return {"splits": splits, "precision": hardware.precision, "data_checksum": data.checksum}


def recompute_bn(net: nn.Module, images: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Give each batch norm the mean and variance, over training images, of what it gets from the final weights.

    The running ones are of the last weights on the way there. [v1: as its authors did, by the notes to their release]
    [open: on which images; without augmentation] Means over batches, so their images are to come in a random order:
    what differs between batches of few classes is in none of their variances. Each counts by its number of images.
    Every rank does the same, so the same comes out.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    momenta, num_seen = [norm.momentum for norm in norms], 0
    for norm in norms:
        norm.reset_running_stats()
        norm.train()  # and no dropout
    for x, _ in images:
        num_seen += len(x)
        for norm in norms:
            norm.momentum = len(x) / num_seen  # of the newest batch in the average
        net(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def count_errors(nets: list[nn.Module], batches: Iterable[Views]) -> dict[str, float | int]:
    """Number of images, and the top-1 and top-5 errors in %, over all ranks; the softmax of the networks is averaged.

    Sums of whole numbers, so exact.
    """
    mine = torch.zeros(3, dtype=torch.int64)
    for batch in batches:
        average = torch.stack([probabilities(net, batch) for net in nets]).mean(0)
        mine += torch.tensor([len(batch.labels), *(num_wrong(average, batch.labels, k=k) for k in (1, 5))])
    num_images, top1, top5 = torch.stack(gather(mine)).sum(0).tolist()
    if not num_images:
        raise UserError("no image can be read; mend what was named above, or give another data.root")
    return {"num_images": num_images, "error": 100 * top1 / num_images, "error_top5": 100 * top5 / num_images}
