"""A whole training step as one CUDA graph: the host starts hundreds of kernels with a single call."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import Metric

Batch = Callable[..., tuple[Tensor, Tensor]]
"""Makes images and labels from the random choices of a batch: `DeviceBatches.batch`."""

NUM_WARM_UPS = 3
"""Steps to take before a recording, as PyTorch advises."""


class GraphedSGD(torch.optim.SGD):
    """SGD whose `step` also runs the forward and backward pass, once a `GraphedStep` has set `graphed_step`."""

    graphed_step: Callable[[], None] | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if self.graphed_step is None:
            return super().step(closure)
        self.graphed_step()
        return None if closure is None else closure()  # Lightning's closure calls the hooks that look at gradients

    def update(self) -> None:
        """Update the weights, as `torch.optim.SGD.step` does."""
        super().step()


class GraphedStep:
    """Augmentation, forward pass, backward pass, update and error of a batch, with every tensor at a fixed address.

    On a GPU these operations are recorded once and replayed. The host decides the batch's random choices and the
    learning rate, and copies both into tensors that the recording reads. On a CPU the same operations run one by one,
    so that tests on any machine can compare them with the usual loop.

    Args:
        net: the network, in training mode and on its device.
        sgd: the optimiser of `net`, with the state to go on from.
        batch: makes images and labels from `choices`.
        choices: the random choices of any batch, int64 [number of choices, batch], on the device of `net`.
        metric: updated with each batch's logits, labels and loss; only `take_measured` may empty it.
    """

    def __init__(
        self, net: nn.Module, sgd: GraphedSGD, batch: Batch, choices: Int[Tensor, "k batch"], metric: Metric
    ) -> None:
        self.net, self.sgd, self.batch, self.choices, self.metric = net, sgd, batch, choices.clone(), metric
        self.device = choices.device
        for group in sgd.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=self.device)
        self.loss: Float[Tensor, ""]
        """Mean loss of the newest batch."""
        sgd.graphed_step = self._recorded() if self.device.type == "cuda" else self._work

    def set_inputs(self, choices: Int[Tensor, "k batch"], lr: float) -> None:
        """Set the random choices and the learning rate of the next `sgd.step()`."""
        self.choices.copy_(choices)
        for group in self.sgd.param_groups:
            group["lr"].fill_(lr)

    def _work(self) -> None:
        kind = self.device.type
        images, labels = self.batch(*self.choices)
        self.sgd.zero_grad(set_to_none=True)  # so that the backward pass writes gradients and does not add to them
        # Without a cache: autocast keeps cast weights until its context ends. A recording that finds such copies would
        # not cast again, and would use the weights of its first step in every replay.
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
        """Return the sums of the metric since the last call, and set them to zero."""
        taken = {name: tensor.clone() for name, tensor in self._sums().items()}
        for tensor in self._sums().values():
            tensor.zero_()  # in place, because the recording goes on adding to this tensor
        return taken

    def _sums(self) -> dict[str, Tensor]:
        return {name: state for name, state in self.metric.metric_state.items() if isinstance(state, Tensor)}

    def warm_up(self) -> None:
        """Take a few steps, so that libraries choose kernels and compilers compile, and then undo the steps."""
        begins = not self.sgd.state
        kept = [tensor.clone() for tensor in self._state()]
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            for _ in range(NUM_WARM_UPS):
                self._work()
        if begins:  # a velocity begins as 0
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
        """Return every tensor that a step changes, velocities last because they do not exist before the first step."""
        velocities = [state["momentum_buffer"] for state in self.sgd.state.values()]
        return [*self.net.parameters(), *self.net.buffers(), *self._sums().values(), *velocities]
