"""Count the errors of finished runs, alone or averaged, on all images of every evaluated split."""

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
"""Hardware options for training that a test does not need."""


class WholeImages:
    """Batches of small images. Each image has one view, the image itself.

    A rank takes every `world_size`th batch as a whole. So an image shares a batch with the same images on any number of
    ranks, and the results are equal down to rounding.
    """

    def __init__(self, batches: EvalBatches, rank: Rank) -> None:
        self.batches, self.rank = batches, rank

    def __len__(self) -> int:
        return len(range(self.rank.rank, len(self.batches), self.rank.world_size))

    def __iter__(self) -> Iterator[Views]:
        for x, labels in islice(self.batches, self.rank.rank, None, self.rank.world_size):
            yield Views([(x, torch.arange(len(labels), device=labels.device))], labels)


CROPS = {"1crop": 1, "10crop": 10, "320": 2, "multiscale": 50}
"""About how many training crops have as many pixels as an image's views. Batches are smaller by this factor."""


class PhotographViews:
    """Batches of a test's views of the validation images. Threads read the images and cut out the views.

    Views of the training's size have the mean of each pixel subtracted, if the training does that. Other views have the
    mean of each channel subtracted. [open: the papers do not say what becomes of the mean image at other sizes]
    A rank takes whole batches, as with `WholeImages`.
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
        """Send a batch to the device as uint8, and normalise it there."""
        groups = []
        for pixels, of in batch.groups:
            is_crop = pixels.shape[2:] == self.by_pixel.mean.shape[1:]
            mean, scale = self.by_pixel if is_crop else self.by_channel
            x = pixels.to(self.device).to(torch.float32, memory_format=torch.contiguous_format)
            groups.append((x / scale - mean, of.to(self.device)))
        return Views(groups, batch.labels.to(self.device))


def evaluate_runs(request: Request, rank: Rank) -> dict[str, Any]:
    """Evaluate the runs of a request. All ranks make this call; each takes its share of batches and gets all results.

    Returns:
        `splits`: the number of images and the errors in % for each evaluated split; `precision`; `data_checksum`.

    Raises:
        UserError: if data, device or weights do not fit the request.
    """
    hardware = settle(request.options.hardware.but(**FOR_TRAINING))
    torch.set_num_threads(hardware.num_threads)
    torch.backends.cudnn.allow_tf32 = False  # as in training
    if hardware.on_gpu and hardware.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    device = torch.device("cuda", rank.local_rank) if hardware.on_gpu else torch.device("cpu")
    data = open_data(request.options.data, request.options.but(hardware=hardware).batching())
    if rank.is_first and data.about_files:
        print(data.about_files, file=sys.stderr, flush=True)
    layout = torch.channels_last if hardware.channels_last else torch.contiguous_format
    nets = [trained(RunDir(path)).to(device).to(memory_format=layout).eval() for path in request.runs]
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
        no_bar = not (rank.is_first and sys.stdout.isatty())
        splits = {
            split: count_errors(nets, track(share, split, disable=no_bar, transient=True))
            for split, share in zip(data.splits, shares, strict=True)
        }
    return {"splits": splits, "precision": hardware.precision, "data_checksum": data.checksum}


def recompute_bn(net: nn.Module, images: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Recompute the mean and variance of each batch norm's inputs with the final weights, over training images.

    The running statistics come from the last weights before the final ones. [v1: as its authors did, by the notes to
    their release] [open: on which images; without augmentation] The new statistics are means over batches, weighted by
    the number of images. Images must come in random order: with few classes in a batch, its variance lacks the
    differences between classes. All ranks compute the same.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    momenta, num_seen = [norm.momentum for norm in norms], 0
    for norm in norms:
        norm.reset_running_stats()
        norm.train()  # only the batch norms: dropout stays off
    for x, _ in images:
        num_seen += len(x)
        for norm in norms:
            norm.momentum = len(x) / num_seen  # the newest batch's weight in the average
        net(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def count_errors(nets: list[nn.Module], batches: Iterable[Views]) -> dict[str, float | int]:
    """Return the number of images and the top-1 and top-5 errors in % of the networks' average softmax, over all ranks.

    The sums are whole numbers, so they are exact.

    Raises:
        UserError: if no image can be read.
    """
    mine = torch.zeros(3, dtype=torch.int64)
    for batch in batches:
        average = torch.stack([probabilities(net, batch) for net in nets]).mean(0)
        mine += torch.tensor([len(batch.labels), *(num_wrong(average, batch.labels, k=k) for k in (1, 5))])
    num_images, top1, top5 = torch.stack(gather(mine)).sum(0).tolist()
    if not num_images:
        raise UserError("no image can be read; fix the files named above, or give another data.root")
    return {"num_images": num_images, "error": 100 * top1 / num_images, "error_top5": 100 * top5 / num_images}
