"""Training steps that the host starts at once, each one CUDA graph, where hundreds of kernels wait for nobody."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import Metric

Batch = Callable[..., tuple[Tensor, Tensor]]
"""From the random choices of a batch to its images and labels: `DeviceBatches.batch`."""

NUM_WARM_UPS = 3
"""Steps before a recording, as PyTorch advises."""


class GraphedSGD(torch.optim.SGD):
    """SGD whose `step` runs forward and backward pass, too, once a `GraphedStep` has taken it over."""

    graphed_step: Callable[[], None] | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if self.graphed_step is None:
            return super().step(closure)
        self.graphed_step()
        return None if closure is None else closure()  # Lightning's: calls the hooks that look at gradients

    def update(self) -> None:
        """What `step` is elsewhere: the weights moved along their gradients."""
        super().step()


class GraphedStep:
    """Augmentation, forward pass, backward pass, update and error of a batch, with every tensor at a fixed address.

    On a GPU these are recorded once and replayed; what is in the host's hands, the batch's random choices and the
    learning rate, is copied into tensors that the recording reads. On a CPU the same operations are run one by one,
    which is what tests can compare with the usual loop everywhere.

    Args:
        net: in training mode, on its device.
        sgd: its optimiser, with the state that it will go on from.
        batch: makes images and labels of `choices`.
        choices: those of any batch, int64 [number of choices, batch], on the device of `net`.
        metric: is updated with each batch's logits, labels and loss; to be emptied by `take_measured` alone.
    """

    def __init__(
        self, net: nn.Module, sgd: GraphedSGD, batch: Batch, choices: Int[Tensor, "k batch"], metric: Metric
    ) -> None:
        self.net, self.sgd, self.batch, self.choices, self.metric = net, sgd, batch, choices.clone(), metric
        self.device = choices.device
        for group in sgd.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=self.device)
        self.loss: Float[Tensor, ""]
        """Of the newest batch."""
        sgd.graphed_step = self._recorded() if self.device.type == "cuda" else self._work

    def set_inputs(self, choices: Int[Tensor, "k batch"], lr: float) -> None:
        """Of the next `sgd.step()`."""
        self.choices.copy_(choices)
        for group in self.sgd.param_groups:
            group["lr"].fill_(lr)

    def _work(self) -> None:
        kind = self.device.type
        images, labels = self.batch(*self.choices)
        self.sgd.zero_grad(set_to_none=True)  # gradients are written, not added to
        # Autocast keeps the weights that it has cast until its context ends. A recording that finds such copies would
        # not cast again, and train on for ever with the weights of its first step.
        with torch.autocast(
            kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind), cache_enabled=False
        ):
            logits = self.net(images)
            loss = F.cross_entropy(logits, labels)
        with torch.autocast(kind, enabled=False):
            loss.backward()
        self.sgd.update()
        self.loss = loss.detach()
        self.metric.update(logits.detach(), labels, self.loss)

    def take_measured(self) -> dict[str, Tensor]:
        """What the metric has summed up since the last call."""
        taken = {name: tensor.clone() for name, tensor in self._sums().items()}
        for tensor in self._sums().values():
            tensor.zero_()  # in place: a recording goes on adding to it
        return taken

    def _sums(self) -> dict[str, Tensor]:
        return {name: state for name, state in self.metric.metric_state.items() if isinstance(state, Tensor)}

    def warm_up(self) -> None:
        """Take a few steps, in which libraries choose their kernels and compilers compile, and undo them."""
        begins = not self.sgd.state
        kept = [tensor.clone() for tensor in self._state()]
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            for _ in range(NUM_WARM_UPS):
                self._work()
        if begins:  # 0 is what the velocity of a first step is added to
            for state in self.sgd.state.values():
                state["momentum_buffer"].zero_()
        with torch.no_grad():
            for tensor, before in zip(self._state(), kept, strict=not begins):
                tensor.copy_(before)

    def _recorded(self) -> Callable[[], None]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self.warm_up()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._work()
        return graph.replay

    def _state(self) -> list[Tensor]:
        """Every tensor that a step changes; the velocities last, as the first step makes them."""
        velocities = [state["momentum_buffer"] for state in self.sgd.state.values()]
        return [*self.net.parameters(), *self.net.buffers(), *self._sums().values(), *velocities]
