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
from resnet_repro.process_group import any_rank, gather
from resnet_repro.rundir import RunDir, flush, write_json
from resnet_repro.schedule import eval_every, log_every
from resnet_repro.worker import STOP_SIGNALS


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
        self.first_step_s: float | None = None
        """Of this process; None where it had none to take."""
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
        if (s["steps"] - step) % log_every(s) == 0:  # counted from the end: the last row's window is a whole one
            self._training_row(step, module)
            if self.diverged_at or step == s["steps"]:
                trainer.should_stop = True  # Lightning evaluates once more before it stops
        evaluates = step % eval_every(s) == 0 or trainer.should_stop
        if self._row and not evaluates:
            self._write(trainer, step)
        elif time.monotonic() - self._last_status > 0.5:
            self._write_status(trainer)

    def _first_step(self, step: int) -> None:
        """It compiles what is compiled and records what is recorded: that time is no speed of the others."""
        now = time.perf_counter()
        self.first_step_s = round(now - self._since, 2)
        number = step - self._since_step
        first = "the first one" if number == 1 else f"the first {number}"
        print(f"step {step}: {first} took {self.first_step_s} s, compiling included", flush=True)
        if (self.schedule["steps"] - step) % log_every(self.schedule) != 0:  # else this row has no other step
            self._since, self._since_step = now, step

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
        for logger in trainer.loggers:  # rank 0 alone has some
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
    All ranks do so after the same step: each may be asked to stop, the first one's clock counts.
    """

    def __init__(self, run: RunDir, *, schedule: dict[str, Any], hardware: dict[str, Any], agree_every: int) -> None:
        self.run, self.schedule, self.agree_every = run, schedule, agree_every
        self.every_s, self.every_steps = 60 * hardware["checkpoint_minutes"], hardware["checkpoint_steps"]
        self.stop_requested = False
        self._last = time.monotonic()
        self._mine: dict[str, Any] | None = None

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = WholeFiles()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        evaluates = step % eval_every(self.schedule) == 0 or trainer.should_stop
        is_due = step % self.agree_every == 0 or (self.every_steps and step % self.every_steps == 0)
        if not evaluates and is_due:  # else after the evaluation
            self._between_steps(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._between_steps(trainer)

    def stop_on_signal(self) -> None:
        """From now on Ctrl-C (SIGINT), SIGTERM and a scheduler's signals end the run at the next step, its state saved.

        Who has put a handler for a scheduler's signal already keeps it: `resnet_repro.slurm_task` does, and Lightning
        puts one for SIGTERM that would end an evaluation in its middle.
        """
        for signum in STOP_SIGNALS:
            handler = signal.getsignal(signum)
            is_free = handler == signal.SIG_DFL or getattr(handler, "__func__", None) is Checkpoint.request_stop
            if is_free or signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, self.request_stop)

    def request_stop(self, signum: int, frame: Any) -> None:
        self.stop_requested = True

    def _between_steps(self, trainer: pl.Trainer) -> None:
        finished = trainer.should_stop
        is_due = trainer.is_global_zero and time.monotonic() - self._last >= self.every_s
        stop, is_due = any_rank(self.stop_requested, is_due)
        is_due |= self.every_steps is not None and trainer.global_step % self.every_steps == 0
        if finished or stop or is_due:
            self.save(trainer)
        if stop and not finished:
            raise Stopped(f"stopped at step {trainer.global_step}; the checkpoint is saved")

    def save(self, trainer: pl.Trainer) -> None:
        begin = time.monotonic()
        if trainer.is_global_zero:
            self.run.checkpoints.mkdir(exist_ok=True)
            for path in (self.run.metrics, self.run.timing):  # a checkpoint vouches for every row up to its step
                flush(path)
        trainer.save_checkpoint(self.run.checkpoints / f"step-{trainer.global_step:08d}.ckpt")  # rank 0 writes
        if trainer.is_global_zero:
            for old in self.run.checkpoint_files()[2:]:
                old.unlink()
            print(f"step {trainer.global_step}: checkpoint saved in {time.monotonic() - begin:.3f} s", flush=True)
        self._last = time.monotonic()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add what differs between the ranks.

        The global generators matter only to dropout, a shortcut's or a comparator's: batches have their own.
        """
        on_gpu = module.device.type == "cuda"
        mine = {
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(module.device) if on_gpu else None,
            "metrics": {name: metric.sums() for name, metric in _training_metrics(module).items()},
        }
        checkpoint["ranks"] = gather(mine)

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._mine = checkpoint["ranks"][trainer.global_rank]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.stop_on_signal()  # again, as Lightning has put its handler before ours
        if self._mine is None:
            if trainer.global_rank:  # the weights are the same on every rank, what is dropped is not
                torch.manual_seed(torch.initial_seed() + 2**31 * trainer.global_rank)
            return
        torch.set_rng_state(self._mine["rng"])  # only now: setting up the loaders has used the generator
        if self._mine["cuda_rng"] is not None:
            torch.cuda.set_rng_state(self._mine["cuda_rng"], module.device)
        for name, metric in _training_metrics(module).items():
            metric.set_sums(self._mine["metrics"][name])


def _training_metrics(module: pl.LightningModule) -> dict[str, LossAndError]:
    assert isinstance(module, LitClassifier)
    return {"train": module.train_metric, "warmup": module.warmup_metric}
