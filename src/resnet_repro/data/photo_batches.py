"""Batches of photographs, which threads read, decode and cut out while the device works on earlier batches."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from resnet_repro.data import augment
from resnet_repro.data.augment import Augmentation, Crop
from resnet_repro.data.device_batches import Normalisation
from resnet_repro.data.jpeg import Choose, Damaged, File, everything, read
from resnet_repro.errors import UserError, printable

T = TypeVar("T")
CHUNK = 8  # calls that a thread takes at a time: handing over a call costs 0.1 ms
MAX_IN_A_ROW = 50  # unreadable images, as many as a class of ImageNet's validation images has
AHEAD = 2  # batches in the making while one is used: enough for uneven batches, and little memory


def in_threads(groups: Iterable[list[Callable[[], T]]], *, num_threads: int) -> Iterator[list[T]]:
    """Yield the results of each group of calls, in order, while threads make the calls of the next groups.

    Threads, not processes: decoding and resizing release Python's lock, nothing is copied between processes, and a
    killed run leaves no process behind.
    """
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    begun: deque[list[Future[list[T]]]] = deque()
    remaining = iter(groups)
    try:
        while True:
            for group in islice(remaining, AHEAD + 1 - len(begun)):
                chunks = (group[at : at + CHUNK] for at in range(0, len(group), CHUNK))
                begun.append([pool.submit(_call_all, chunk) for chunk in chunks])
            if not begun:
                return
            yield [result for future in begun.popleft() for result in future.result()]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _call_all(calls: list[Callable[[], T]]) -> list[T]:
    return [call() for call in calls]


@dataclass
class DamagedImages:
    """Images that cannot be read: the first ends the run, or, with `skip`, each is left out and reported once.

    Many in a row end the run in any case: then the disk or the network is at fault.
    """

    skip: bool
    paths: set[str] = field(default_factory=set)
    """The images left out so far, each as `printable` writes it."""
    num_in_a_row: int = 0

    def read(self, path: File, choose: Choose = everything) -> UInt8[Tensor, "3 h w"] | None:
        """Return a rectangle of an image, as `jpeg.read`; None if the image is left out."""
        try:
            image = read(path, choose)
        except Damaged as damaged:
            if not self.skip:
                raise
            self.leave_out(path, damaged)
            return None
        self.num_in_a_row = 0
        return image

    def leave_out(self, path: File, damaged: Damaged) -> None:
        """Report an image, once, and count it.

        Raises:
            UserError: if it is the last of `MAX_IN_A_ROW`.
        """
        self.num_in_a_row += 1
        if self.num_in_a_row >= MAX_IN_A_ROW:
            raise UserError(
                f"{MAX_IN_A_ROW} images in a row cannot be read, the last of them: {damaged.what}. More than "
                "single files is at fault: check disk, network and permissions"
            )
        if (name := printable(path)) not in self.paths:
            print(f"left out: {damaged.what}", file=sys.stderr, flush=True)
        self.paths.add(name)


@runtime_checkable
class Labelled(Protocol):
    """Images of a split, such as `photos.Photos`."""

    @property
    def paths(self) -> Sequence[File]: ...

    @property
    def labels(self) -> np.ndarray: ...


class Reading(NamedTuple):
    """An image to read: its number, a function that makes something of its pixels, and the rectangle to read."""

    which: int
    make: Callable[[UInt8[Tensor, "3 h w"]], Any]
    choose: Choose = everything


@dataclass
class Source:
    """Photographs of a split, how to read them, and this rank's share of them, for training and evaluation."""

    photos: Labelled
    damage: DamagedImages
    normalisation: Normalisation
    device: torch.device
    num_threads: int
    rank: int = 0
    world_size: int = 1

    def epoch(self, number: int, *, seed: int, batch_size: int) -> Int[np.ndarray, "steps share"]:
        """Return this rank's images in each step of an epoch. The whole batches are the same on any number of ranks."""
        order = epoch_order(number, seed=seed, num_images=len(self.photos.labels))
        steps, share = len(order) // batch_size, batch_size // self.world_size
        batches = order[: steps * batch_size].reshape(steps, self.world_size, share)
        return batches[:, self.rank]

    def part(self, images: Sequence[int]) -> Sequence[int]:
        """Return this rank's share of images that all ranks together see once."""
        return images[self.rank :: self.world_size]

    def expect(self, images: Sequence[int] | np.ndarray) -> None:
        """Prepare to read these images next, in order. Files of a folder need no preparation."""

    def read(self, groups: Iterable[list[Reading]]) -> Iterator[list[tuple[Any, int]]]:
        """Yield each group as `make`'s results and labels, in order, while threads read the next groups.

        A group lacks its damaged images, and may be empty.
        """
        calls: Iterator[list[Callable[[], tuple[Any, int] | None]]] = (
            [partial(self._read, each) for each in group] for group in groups
        )
        for samples in in_threads(calls, num_threads=self.num_threads):
            yield [sample for sample in samples if sample is not None]

    def _read(self, reading: Reading) -> tuple[Any, int] | None:
        pixels = self.damage.read(self.photos.paths[reading.which], reading.choose)
        return None if pixels is None else (reading.make(pixels), int(self.photos.labels[reading.which]))

    def send(self, crops: list[Crop], labels: list[int]) -> tuple[Float[Tensor, "n 3 s s"], Int[Tensor, " n"]]:
        """Send images as uint8; return the network's input and the labels, on the device.

        Raises:
            UserError: if there is no image.
        """
        if not crops:
            raise UserError(f"no image of a batch can be read, {len(self.damage.paths)} in all: fix data.root")
        pixels, mirrored, colour, jitter = self.pack(crops)
        has_colour, has_jitter = (
            bool(colour.any()),
            bool((jitter[:, :, 0] != 1).any()),
        )  # to ask a GPU is to wait for it
        on_gpu = self.device.type == "cuda"
        pixels, mirrored, colour, jitter, y = (
            tensor.to(self.device, non_blocking=on_gpu)
            for tensor in (pixels, mirrored, colour, jitter, torch.tensor(labels))
        )
        changes = (colour if has_colour else None, jitter if has_jitter else None)
        return augment.finish(pixels.permute(0, 3, 1, 2), mirrored, *changes, self.normalisation), y

    def pack(
        self, crops: list[Crop]
    ) -> tuple[UInt8[Tensor, "n s s 3"], Bool[Tensor, " n"], Float[Tensor, "n 3"], Float[Tensor, "n 3 3"]]:
        """Return a batch as the device gets it: pixels, which to mirror, colours to add, jitter to do before."""
        size = crops[0].pixels.shape[-1]
        on_gpu = self.device.type == "cuda"
        pixels = torch.empty((len(crops), size, size, 3), dtype=torch.uint8, pin_memory=on_gpu)
        torch.stack([crop.pixels.permute(1, 2, 0) for crop in crops], out=pixels)
        mirrored = torch.tensor([crop.mirrored for crop in crops])
        colour, jitter = (np.stack(each) for each in zip(*((crop.colour, crop.jitter) for crop in crops), strict=True))
        return pixels, mirrored, torch.from_numpy(colour), torch.from_numpy(jitter)


class TrainBatches:
    """An endless training set: yields batch `step`, `step + 1`, ... of a run, whatever epoch they fall in.

    Batch k of a run is a function of (seed, k), as in `DeviceBatches`: its part of an epoch's random order
    (`Source.epoch`), each image cut out as its draw says. So the number of threads and interruptions do not change it,
    nor does the number of ranks unless the source's order depends on it. A damaged image that is left out makes its
    batch smaller.
    """

    def __init__(
        self,
        source: Source,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        num_steps: int,
        colour: float,
        jitter: float = 0.0,
    ) -> None:
        assert batch_size % source.world_size == 0
        self.source, self.augmentation, self.num_steps = source, augmentation, num_steps
        self.batch_size, self.seed, self.colour, self.jitter = batch_size, seed, colour, jitter
        self.steps_per_epoch = len(source.photos.labels) // batch_size
        self.step = 0

    def __len__(self) -> int:
        return self.num_steps

    def state_dict(self) -> dict[str, int | list[str]]:
        return {"step": self.step, "damaged": sorted(self.source.damage.paths)}

    def load_state_dict(self, state: dict[str, int | list[str]]) -> None:
        assert isinstance(state["step"], int)
        assert isinstance(state["damaged"], list)
        self.step = state["step"]
        self.source.damage.paths.update(state["damaged"])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for samples in self.source.read(self._steps()):
            self.step += 1  # counts batches handed out, not those that threads have begun
            yield self.source.send([crop for crop, _ in samples], [label for _, label in samples])

    def _steps(self) -> Iterator[list[Reading]]:
        share = self.batch_size // self.source.world_size
        mine = slice(self.source.rank * share, (self.source.rank + 1) * share)
        epoch = -1
        for step in range(self.step, self.num_steps):
            if epoch != step // self.steps_per_epoch:
                epoch = step // self.steps_per_epoch
                images = self.source.epoch(epoch, seed=self.seed, batch_size=self.batch_size)
            left = images[step % self.steps_per_epoch :]
            self.source.expect(left.ravel())
            draws = augment.draws(self.seed, step, batch_size=self.batch_size, colour=self.colour, jitter=self.jitter)
            augmentation = self.augmentation
            yield [
                Reading(which, partial(augmentation.crop, draw=draw), augmentation.box(draw))
                for which, draw in zip(left[0].tolist(), draws[mine], strict=True)
            ]


def epoch_order(epoch: int, *, seed: int, num_images: int) -> Int[np.ndarray, " n"]:
    """Return a random order of all images, a function of (seed, epoch)."""
    entropy = np.random.SeedSequence([seed, epoch], spawn_key=(1,))  # not the stream of any sample
    return np.random.Generator(np.random.PCG64(entropy)).permutation(num_images)


class EvalBatches:
    """Every image of a split once, not augmented, normalised as in training; a rank sees its share.

    Args:
        make: makes the centre crop of an image.
        which: the images, in order; None: all.
    """

    def __init__(
        self,
        source: Source,
        make: Callable[[Tensor], Tensor],
        *,
        batch_size: int,
        which: Sequence[int] | None = None,
    ) -> None:
        self.source, self.make, self.batch_size = source, make, batch_size
        self.indices = source.part(range(len(source.photos.labels)) if which is None else which)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def crops(self) -> Iterator[list[tuple[Crop, int]]]:
        """Yield the batches on the host. A batch lacks its damaged images, and may be empty."""
        return self.source.read(self._batches())

    def _batches(self) -> Iterator[list[Reading]]:
        for begin in range(0, len(self.indices), self.batch_size):
            left = self.indices[begin:]
            self.source.expect(left)
            yield [Reading(index, self._crop) for index in left[: self.batch_size]]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for samples in self.crops():
            if samples:
                yield self.source.send([crop for crop, _ in samples], [label for _, label in samples])

    def _crop(self, image: UInt8[Tensor, "3 h w"]) -> Crop:
        return Crop(self.make(image), False, np.zeros(3, np.float32))
