"""Rows of numbers and the status of a run, written between two steps."""

import math
import time
from datetime import datetime
from typing import Any

import pytorch_lightning as pl

from resnet_repro.runs.folder import RunDir, write_json
from resnet_repro.runs.options import Schedule
from resnet_repro.training.classifier import LitClassifier
from resnet_repro.training.metrics import LossAndError
from resnet_repro.training.schedule import eval_every, log_every


class Recorder(pl.Callback):
    """Log training errors every `log_every` steps, other errors at every evaluation; keep status.json up to date.

    The host reads numbers from the device only when a row is due, so that the device does not wait in between.
    """

    def __init__(self, run: RunDir, *, schedule: Schedule, steps_per_epoch: int, start: float) -> None:
        self.run, self.schedule, self.steps_per_epoch = run, schedule, steps_per_epoch
        before = run.read_status()
        self.start = start - before.get("elapsed_s", 0.0)
        """Begin of the run on the clock `time.perf_counter`, moved back by the time of this run's earlier processes."""
        self.started = before.get("started") or datetime.now().astimezone().isoformat(timespec="seconds")
        self.diverged_at: int | None = None
        self.results: dict[str, float] = {}
        """The newest value of every column."""
        self.rates: list[float] = []
        """Images per second of every row, in training only, without evaluations."""
        self.first_step_s: float | None = None
        """Seconds of this process's first step; None if the process took no step."""
        self._row: dict[str, float] = {}
        self._last_status = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"results": self.results, "rates": self.rates, "diverged_at": self.diverged_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.results, self.rates = state_dict["results"], state_dict["rates"]
        self.diverged_at = state_dict["diverged_at"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._since, self._since_step = time.perf_counter(), trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, LitClassifier)
        step, s = trainer.global_step, self.schedule
        if self.first_step_s is None:
            self._first_step(step)
        if (s.steps - step) % log_every(s) == 0:  # counted from the end, so that the last row is over a whole window
            self._training_row(step, module)
            if self.diverged_at or step == s.steps:
                trainer.should_stop = True  # Lightning evaluates once more before it stops
        evaluates = step % eval_every(s) == 0 or trainer.should_stop
        if self._row and not evaluates:
            self._write(trainer, step)
        elif time.monotonic() - self._last_status > 0.5:
            self._write_status(trainer)

    def _first_step(self, step: int) -> None:
        """Print the time of the first step, and leave it out of the speed: that step compiles and records kernels."""
        now = time.perf_counter()
        self.first_step_s = round(now - self._since, 2)
        number = step - self._since_step
        first = "the first one" if number == 1 else f"the first {number}"
        print(f"step {step}: {first} took {self.first_step_s} s, compiling included", flush=True)
        if (self.schedule.steps - step) % log_every(self.schedule) != 0:  # otherwise this row has no other step
            self._since, self._since_step = now, step

    def _training_row(self, step: int, module: LitClassifier) -> None:
        row = _values("train", module.train_metric)  # here the host waits for the device
        now = time.perf_counter()
        num_images = (step - self._since_step) * self.schedule.batch_size
        rate = num_images / (now - self._since)
        self._since, self._since_step = now, step
        self.rates.append(rate)
        self._row = {"epoch": step / self.steps_per_epoch, "lr": module.lr, **row, "time/images_per_s": rate}
        if not math.isfinite(row["train/loss"]):
            self.diverged_at = step

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, LitClassifier)
        step = trainer.global_step
        self._row = {"epoch": step / self.steps_per_epoch, "lr": module.lr, **self._row}
        for split, metric in zip(module.splits, module.eval_metrics, strict=True):
            self._row |= _values(split, metric)
        self._write(trainer, step)
        self._since += time.perf_counter() - self._eval_start

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._eval_start = time.perf_counter()

    def _write(self, trainer: pl.Trainer, step: int) -> None:
        for logger in trainer.loggers:  # only rank 0 has loggers
            logger.log_metrics(self._row, step=step)
        if trainer.is_global_zero:
            print(f"step {step}: " + ", ".join(f"{key} {value:.4g}" for key, value in self._row.items()), flush=True)
        self.results |= self._row
        self._row = {}
        self._write_status(trainer)

    def _write_status(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        self._last_status, step = time.monotonic(), trainer.global_step
        progress = {"state": "running", "step": step, "steps": self.schedule.steps}
        progress |= {"elapsed_s": self.elapsed_s, "started": self.started}
        write_json(self.run.status, progress | self.results, durable=False)

    @property
    def elapsed_s(self) -> float:
        return round(time.perf_counter() - self.start, 1)


def _values(split: str, metric: Any) -> dict[str, float]:
    assert isinstance(metric, LossAndError)
    values = {f"{split}/{name}": float(value) for name, value in metric.compute().items()}
    metric.reset()
    return values
