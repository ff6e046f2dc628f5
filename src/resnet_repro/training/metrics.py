"""Loss and error over many batches, summed exactly."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


def num_wrong(scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], *, k: int) -> Int[Tensor, ""]:
    """Return how many labels are not among the k highest scores. Of equal scores, the first class ranks higher."""
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return (best != labels[:, None]).all(1).sum()


class LossAndError(Metric):
    """Mean loss, top-1 and optionally top-5 error in %, over all images of all ranks since the last reset.

    The state is sums, so it is exact. A checkpoint holds the sums of every rank beside the weights.
    """

    full_state_update = False
    loss_sum: Tensor
    num_wrong: Tensor
    num_wrong_top5: Tensor
    num_images: Tensor

    def __init__(self, *, top5: bool = False) -> None:
        super().__init__()
        self.top5 = top5
        self.add_state("loss_sum", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_wrong", torch.tensor(0), dist_reduce_fx="sum")
        if top5:
            self.add_state("num_wrong_top5", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Float[Tensor, "n classes"], labels: Int[Tensor, " n"], loss: Float[Tensor, ""]) -> None:
        """Add a batch and its mean loss."""
        self.loss_sum += loss * len(labels)
        self.num_wrong += (logits.argmax(1) != labels).sum()  # k=1 without sorting
        if self.top5:
            self.num_wrong_top5 += num_wrong(logits, labels, k=5)
        self.num_images += len(labels)

    def sums(self) -> dict[str, Tensor]:
        """Return this rank's state, on the CPU."""
        return {name: getattr(self, name).cpu() for name in self._defaults}

    def set_sums(self, sums: dict[str, Tensor]) -> None:
        """Go on from the `sums` of another process."""
        for name, value in sums.items():
            setattr(self, name, value.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        wrong = {"error": self.num_wrong} | ({"error_top5": self.num_wrong_top5} if self.top5 else {})
        errors = {name: 100 * number.double() / self.num_images for name, number in wrong.items()}
        return {"loss": self.loss_sum / self.num_images, **errors}
