"""What happens between two steps: rows of numbers, checkpoints, and a clean end when one is asked for."""

import math
import signal
import time
from datetime import datetime
from typing import Any

import pytorch_lightning as pl
import torch

from resnet_repro.checkpoints import WholeFiles
from resnet_repro.lit import LitClassifier, LossAndError
from resnet_repro.rundir import RunDir, flush, write_json
from resnet_repro.schedule import eval_every, log_every


class Stopped(Exception):
    """Somebody asked the run to end; its checkpoint is saved."""


class Recorder(pl.Callback):
    """Logs training errors every `log_every` steps, the others at every evaluation, and keeps status.json up to date.

    The device is asked for numbers only when a row is due, so it never waits for the host in between.
    """

    def __init__(self, run: RunDir, *, schedule: dict[str, Any], steps_per_epoch: int, start: float) -> None:
        self.run, self.schedule, self.steps_per_epoch = run, schedule, steps_per_epoch
        before = run.read_status()
        self.start = start - before.get("elapsed_s", 0.0)
        """Of the clock `time.perf_counter`, what earlier processes of this run took counted in."""
        self.started = before.get("started") or datetime.now().astimezone().isoformat(timespec="seconds")
        self.diverged_at: int | None = None
        self.results: dict[str, float] = {}
        """The newest value of every column."""
        self.rates: list[float] = []
        """images/s of every row: training only, evaluation left out."""
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
        if (s["steps"] - step) % log_every(s) == 0:  # counted from the end: the last row's window is a whole one
            self._training_row(step, module)
            if self.diverged_at or step == s["steps"]:
                trainer.should_stop = True  # Lightning evaluates once more before it stops
        evaluates = step % eval_every(s) == 0 or trainer.should_stop
        if self._row and not evaluates:
            self._write(trainer, step)
        elif time.monotonic() - self._last_status > 0.5:
            self._write_status(step)

    def _training_row(self, step: int, module: LitClassifier) -> None:
        row = _values("train", module.train_metric)  # waits for the device
        now = time.perf_counter()
        num_images = (step - self._since_step) * self.schedule["batch_size"]
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
        for logger in trainer.loggers:
            logger.log_metrics(self._row, step=step)
        self.results |= self._row
        self._row = {}
        self._write_status(step)

    def _write_status(self, step: int) -> None:
        self._last_status = time.monotonic()
        progress = {"state": "running", "step": step, "steps": self.schedule["steps"], "elapsed_s": self.elapsed_s}
        progress["started"] = self.started
        write_json(self.run.status, progress | self.results, durable=False)

    @property
    def elapsed_s(self) -> float:
        return round(time.perf_counter() - self.start, 1)


def _values(split: str, metric: Any) -> dict[str, float]:
    assert isinstance(metric, LossAndError)
    values = {f"{split}/{name}": float(value) for name, value in metric.compute().items()}
    metric.reset()
    return values


class Checkpoint(pl.Callback):
    """Saves everything a run needs to go on exactly: every few minutes or steps, and when the run is asked to stop.

    Always between two steps, after the evaluation where one is due, and never over the last good file. Two are kept.
    """

    def __init__(self, run: RunDir, *, schedule: dict[str, Any], minutes: float, steps: int | None) -> None:
        self.run, self.schedule, self.minutes, self.steps = run, schedule, minutes, steps
        self.stop_requested = False
        self._last = time.monotonic()
        self._rng: dict[str, Any] | None = None

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = WholeFiles()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % eval_every(self.schedule) and not trainer.should_stop:  # else after the evaluation
            self._between_steps(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._between_steps(trainer)

    def stop_on_signal(self) -> None:
        """From now on Ctrl-C (SIGINT) and SIGTERM end the run at the next step, its state saved."""

        def request(signum: int, frame: Any) -> None:
            self.stop_requested = True

        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, request)

    def _between_steps(self, trainer: pl.Trainer) -> None:
        finished = trainer.should_stop
        is_due = self.steps is not None and trainer.global_step % self.steps == 0
        if finished or self.stop_requested or is_due or time.monotonic() - self._last >= 60 * self.minutes:
            self.save(trainer)
        if self.stop_requested and not finished:
            raise Stopped(f"stopped at step {trainer.global_step}; the checkpoint is saved")

    def save(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            self.run.checkpoints.mkdir(exist_ok=True)
            for path in (self.run.metrics, self.run.timing):  # a checkpoint vouches for every row up to its step
                flush(path)
        trainer.save_checkpoint(self.run.checkpoints / f"step-{trainer.global_step:08d}.ckpt")
        if trainer.is_global_zero:
            for old in self.run.checkpoint_files()[2:]:
                old.unlink()
        self._last = time.monotonic()

    # The global generators matter only to dropout shortcuts: batches have generators of their own.
    def state_dict(self) -> dict[str, Any]:
        return {"rng": torch.get_rng_state(), "cuda_rng": torch.cuda.get_rng_state_all()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rng = state_dict

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stop_on_signal()  # Lightning has put a handler before ours that ends an evaluation in its middle
        if self._rng is not None:  # only now: setting up the loaders has used the generator
            torch.set_rng_state(self._rng["rng"])
            torch.cuda.set_rng_state_all(self._rng["cuda_rng"])
