"""The LightningModule around every network: loss, errors, SGD and learning rate."""

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor

from resnet_repro.data.device_batches import DeviceBatches
from resnet_repro.networks.build import build
from resnet_repro.runs.options import Run
from resnet_repro.training.cuda_graph import GraphedSGD, GraphedStep
from resnet_repro.training.metrics import LossAndError
from resnet_repro.training.process_group import share_buffers
from resnet_repro.training.schedule import WARMUP_JUDGED_EVERY, Plateau, last_rate, learning_rate
from resnet_repro.training.sgd import EagerSGD


def parameter_groups(net: torch.nn.Module, *, decay: str) -> list[dict[str, Any]]:
    """Return an optimiser's parameter groups, split by whether weight decay acts on them.

    Args:
        decay: "all", or "weights": only the weights of convolutions and linear layers (every parameter of two or more
            dimensions), not batch norm's parameters or biases.
    """
    if decay == "all":
        return [{"params": list(net.parameters())}]
    weights, others = ([p for p in net.parameters() if (p.ndim > 1) == is_weight] for is_weight in (True, False))
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]


class LitClassifier(pl.LightningModule):
    """Trains the network that a run's options describe.

    Args:
        options: the run's options, decided for this machine.
        splits: names of the evaluated splits, in the order of the validation data loaders.
    """

    def __init__(self, options: Run, *, splits: list[str]) -> None:
        super().__init__()
        # plain containers, so that torch.load(weights_only=True) can read the checkpoint
        self.save_hyperparameters({"config": options.record(), "splits": splits}, logger=False)
        self.schedule = options.schedule
        self.net = build(options.network, options.images)
        self.splits = splits
        self.train_metric, self.warmup_metric = LossAndError(), LossAndError()
        self.eval_metrics = torch.nn.ModuleList(LossAndError(top5=options.data.measures_top5) for _ in splits)
        self.trains_on = options.init_from is not None
        self.lr = 0.0
        """Learning rate of the newest update."""
        self.warmup_ended_at: int | None = None
        """Step at which the training error fell below the threshold of v1's warm-up."""
        self.plateau = Plateau()

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        return self.net(x)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.net(images)
        loss = F.cross_entropy(logits, labels)
        self.train_metric.update(logits.detach(), labels, loss.detach())
        if self.awaits_error:
            self.warmup_metric.update(logits.detach(), labels, loss.detach())
        return loss

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        images, labels = batch
        logits = self.net(images)
        metric = self.eval_metrics[dataloader_idx]
        assert isinstance(metric, LossAndError)
        metric.update(logits, labels, F.cross_entropy(logits, labels))

    def on_validation_start(self) -> None:
        share_buffers(self.net)

    # --- optimiser and schedule ---------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return EagerSGD(parameter_groups(self.net, decay=self.schedule.decay), **self.sgd_options)

    @property
    def sgd_options(self) -> dict[str, Any]:
        """The schedule's options for SGD."""
        return {key: getattr(self.schedule, key) for key in ("lr", "momentum", "weight_decay", "nesterov")}

    @property
    def awaits_error(self) -> bool:
        """Whether v1's warm-up still waits for the training error to fall."""
        warmup = self.schedule.warmup
        waits = warmup is not None and warmup.until_error is not None
        return waits and self.warmup_ended_at is None and not self.trains_on

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.awaits_error and self.global_step and self.global_step % WARMUP_JUDGED_EVERY == 0:
            self._judge_warmup()
        self.lr = self._rate()
        for group in self.trainer.optimizers[0].param_groups:
            self._set_rate(group)

    def _set_rate(self, group: dict[str, Any]) -> None:
        group["lr"] = self.lr

    def _rate(self) -> float:
        """Return the learning rate of the next update."""
        if self.trains_on:
            return last_rate(self.schedule)
        return learning_rate(
            self.global_step, self.schedule, warmup_ended_at=self.warmup_ended_at, num_drops=self.plateau.num_drops
        )

    def _judge_warmup(self) -> None:
        """End v1's warm-up if the training error since the last look is below the threshold."""
        assert self.schedule.warmup is not None
        assert self.schedule.warmup.until_error is not None
        if self.warmup_metric.compute()["error"] < self.schedule.warmup.until_error:
            self.warmup_ended_at = self.global_step
        self.warmup_metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Judge a plateau by the validation error over all ranks' images, so that all ranks decide alike.

        [open: v1 does not say whether the training or the validation error plateaus]
        """
        if self.schedule.shape == "plateau":
            metric, rule = self.eval_metrics[self.splits.index("val")], self.schedule.plateau
            assert rule is not None
            assert isinstance(metric, LossAndError)
            self.plateau = self.plateau.after(
                float(metric.compute()["error"]), patience=rule.patience, threshold=rule.threshold
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"warmup_ended_at": self.warmup_ended_at, "plateau": list(self.plateau)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.warmup_ended_at, self.plateau = checkpoint["warmup_ended_at"], Plateau(*checkpoint["plateau"])


class GraphedClassifier(LitClassifier):
    """Trains with one CUDA graph a step (`hardware.graph=true`); a Lightning batch is the random choices of many steps.

    Lightning's own work around a step takes 1.5 ms. This way the GPU waits for that work once in many steps.
    """

    def __init__(self, options: Run, *, splits: list[str]) -> None:
        super().__init__(options, splits=splits)
        self.automatic_optimization = False  # `GraphedStep` runs backward pass and update
        self.graphed_step: GraphedStep | None = None
        self.graphed_metric = LossAndError()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Take a step for each of the choices in `batch`, int64 [steps, k, batch]. Return the loss of the last step."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        if self.graphed_step is None:
            assert isinstance(optimizer.optimizer, GraphedSGD)
            batches = self.trainer.train_dataloader
            assert isinstance(batches, DeviceBatches)
            self.graphed_step = GraphedStep(self.net, optimizer.optimizer, batches.batch, batch[0], self.graphed_metric)
        for choices in batch:
            self.lr = self._rate()
            self.graphed_step.set_inputs(choices, self.lr)
            optimizer.step()  # Lightning's wrapper, which counts the steps
        measured = self.graphed_step.take_measured()
        self.train_metric.merge_state(measured)
        if self.awaits_error:
            self.warmup_metric.merge_state(measured)
        return self.graphed_step.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = parameter_groups(self.net, decay=self.schedule.decay)
        return GraphedSGD(groups, **self.sgd_options, fused=True)  # fused SGD accepts a rate that is a device tensor

    def _set_rate(self, group: dict[str, Any]) -> None:
        """Do nothing: `training_step` sets the rate of each step."""
