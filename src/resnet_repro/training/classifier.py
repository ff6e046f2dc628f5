"""The LightningModule around every network: loss, errors, SGD and the schedule."""

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


def parameter_groups(net: torch.nn.Module, *, decay: str) -> list[dict[str, Any]]:
    """The parameters for an optimiser, by whether weight decay acts on them.

    Args:
        decay: "all"; or "weights", which are the weights of convolutions and linear layers (every parameter of two
            dimensions or more) and neither batch norm's parameters nor biases.
    """
    if decay == "all":
        return [{"params": list(net.parameters())}]
    weights, others = ([p for p in net.parameters() if (p.ndim > 1) == is_weight] for is_weight in (True, False))
    return [{"params": weights}, {"params": others, "weight_decay": 0.0}]


class LitClassifier(pl.LightningModule):
    """Trains the network that a run's options describe.

    Args:
        options: of the run, decided for this machine.
        splits: names of the evaluated splits, in the order of the validation data loaders.
    """

    def __init__(self, options: Run, *, splits: list[str]) -> None:
        super().__init__()
        # plain containers: a checkpoint loads with weights_only=True
        self.save_hyperparameters({"config": options.record(), "splits": splits}, logger=False)
        self.schedule = options.schedule
        self.net = build(options.network, options.images)
        self.splits = splits
        self.train_metric, self.warmup_metric = LossAndError(), LossAndError()
        self.eval_metrics = torch.nn.ModuleList(LossAndError(top5=options.data.measures_top5) for _ in splits)
        self.trains_on = options.init_from is not None
        self.lr = 0.0
        """Rate of the newest update."""
        self.warmup_ended_at: int | None = None
        """Step at which v1's warm-up saw the training error fall below its threshold."""
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
        return torch.optim.SGD(parameter_groups(self.net, decay=self.schedule.decay), **self.sgd_options)

    @property
    def sgd_options(self) -> dict[str, Any]:
        """The schedule's options of the optimiser."""
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
        """Of the next update."""
        if self.trains_on:
            return last_rate(self.schedule)
        return learning_rate(
            self.global_step, self.schedule, warmup_ended_at=self.warmup_ended_at, num_drops=self.plateau.num_drops
        )

    def _judge_warmup(self) -> None:
        """End v1's warm-up once the error over its last batches is below its threshold."""
        assert self.schedule.warmup is not None
        assert self.schedule.warmup.until_error is not None
        if self.warmup_metric.compute()["error"] < self.schedule.warmup.until_error:
            self.warmup_ended_at = self.global_step
        self.warmup_metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Judge a plateau by the validation error of all ranks' images, so that all judge alike.

        [open: v1 does not say whether it is the training or the validation error that plateaus]
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
    """Takes its steps whole, as `hardware.graph=true` asks for: each batch is the random choices of several steps.

    What Lightning does around a step of its own, 1.5 ms, a GPU would wait for at every one.
    """

    def __init__(self, options: Run, *, splits: list[str]) -> None:
        super().__init__(options, splits=splits)
        self.automatic_optimization = False  # `GraphedStep` does it all
        self.graphed_step: GraphedStep | None = None
        self.graphed_metric = LossAndError()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Take a step with the batch of each of these choices, int64 [steps, k, batch]; return the loss of the last."""
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
            optimizer.step()  # by Lightning's hand, which counts
        measured = self.graphed_step.take_measured()
        self.train_metric.merge_state(measured)
        if self.awaits_error:
            self.warmup_metric.merge_state(measured)
        return self.graphed_step.loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = parameter_groups(self.net, decay=self.schedule.decay)
        return GraphedSGD(groups, **self.sgd_options, fused=True)  # its rate may be a tensor on the device

    def _set_rate(self, group: dict[str, Any]) -> None:
        """Do nothing: each step has its own rate."""
