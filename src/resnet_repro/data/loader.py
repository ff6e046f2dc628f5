"""The usual way, a DataLoader with worker processes: the same batches as `DeviceBatches`, for comparison."""

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from resnet_repro.data.batches import DeviceBatches, draw_epoch

Choice = tuple[int, int, int, int]
"""index, top, left, mirrored"""


class AugmentedImages(Dataset[tuple[Tensor, Tensor]]):
    """One image at a time, the random choices made by the sampler."""

    def __init__(self, batches: DeviceBatches) -> None:
        self.batches = batches

    def __getitem__(self, choice: Choice) -> tuple[Tensor, Tensor]:
        index, top, left, mirrored = choice
        b = self.batches
        window = (slice(None), slice(top, top + b.size), slice(left, left + b.size))
        x = b.images[index][window] / b.scale - b.mean[0][window]
        return x.flip(-1) if mirrored else x, b.labels[index]


class KeyedBatches(Sampler[list[Choice]]):
    """The choices of batch `step`, `step + 1`, ..."""

    def __init__(self, batches: DeviceBatches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Choice]]:
        b = self.batches
        start = b.step
        for step in range(start, b.num_steps):
            epoch, within = divmod(step, b.steps_per_epoch)
            if within == 0 or step == start:
                draw = draw_epoch(epoch, **b.draw_args)
            yield list(zip(*(d[within, b.share].tolist() for d in draw), strict=True))


class ComparisonLoader:
    """`DeviceBatches` drawn through a DataLoader."""

    def __init__(self, batches: DeviceBatches, *, num_workers: int) -> None:
        self.batches = batches
        self.loader = DataLoader(AugmentedImages(batches), batch_sampler=KeyedBatches(batches), num_workers=num_workers)

    def __len__(self) -> int:
        return len(self.batches)

    def state_dict(self) -> dict[str, int]:
        return self.batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.batches.load_state_dict(state)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.loader:
            self.batches.step += 1  # counts what was handed out, not what workers have prefetched
            yield batch
