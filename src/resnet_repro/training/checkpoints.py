"""A run's checkpoints: when they are saved, whole files only, and what is read back from them."""

import errno
import io
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn

from resnet_repro.errors import Stopped, UserError
from resnet_repro.machine import STOP_SIGNALS
from resnet_repro.networks.build import build
from resnet_repro.runs.folder import RunDir, flush, read_json
from resnet_repro.runs.options import Hardware, Run, Schedule
from resnet_repro.training.classifier import LitClassifier
from resnet_repro.training.manifest import weights_sha256
from resnet_repro.training.metrics import LossAndError
from resnet_repro.training.process_group import any_rank, gather
from resnet_repro.training.schedule import eval_every


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under another name beside its place, and puts it there when it is complete and on the disk.

    (Lightning's own way through the system's folder for temporary files leaves a copy there when it is killed, and is
    no single step where that folder is on another disk.)

    Raises:
        OSError: where the file could not be written, or not be read again; no file has changed then.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        part = path.with_suffix(".part")
        content = io.BytesIO()
        torch.save(checkpoint, content)
        try:
            with part.open("wb") as file:
                file.write(content.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            try:
                read(part)
            except Exception as error:  # see `newest_checkpoint`
                raise OSError(errno.EIO, "written, and cannot be read again: is the disk sound?", str(path)) from error
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file; tensors stay in the file until they are used."""
    return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def newest_checkpoint(run: RunDir) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that can be read, and its config; a damaged one is named and the one before it taken."""
    for path in run.checkpoint_files():
        try:
            return path, read(path)["hyper_parameters"]["config"]
        except Exception as error:  # a damaged file can make torch.load raise nearly anything
            print(f"{path} is damaged and not used: {error!r}", flush=True)
    return None


class Checkpoint(pl.Callback):
    """Saves everything a run needs to go on exactly: every few minutes or steps, and when the run is asked to stop.

    Always between two steps, after the evaluation where one is due, and never over the last good file. Two are kept.
    All ranks do so after the same step: each may be asked to stop, the first one's clock counts.
    """

    def __init__(self, run: RunDir, *, schedule: Schedule, hardware: Hardware, agree_every: int) -> None:
        self.run, self.schedule, self.agree_every = run, schedule, agree_every
        self.every_s, self.every_steps = 60 * hardware.checkpoint_minutes, hardware.checkpoint_steps
        self.stop_requested = False
        self._last = time.monotonic()
        self._mine: dict[str, Any] | None = None

    def setup(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()

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

        Who has put a handler for a scheduler's signal already keeps it: `SlurmTask` does, and Lightning
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


def trained(run: RunDir) -> nn.Module:
    """The network of a finished run with its last weights, in the memory format in which it was trained.

    Raises:
        UserError: where the run is not finished, or its checkpoint no longer holds what its manifest tells of.
    """
    if not run.is_done:
        raise UserError(f"{run.path} holds no finished run: python train.py makes one")
    manifest = read_json(run.manifest)
    options = Run.of_record(manifest["config"])
    net = build(options.network, options.images)
    if options.hardware.channels_last:  # other layouts are other kernels, which round otherwise
        net.to(memory_format=torch.channels_last)
    newest = newest_checkpoint(run)
    if newest:
        state = read(newest[0])["state_dict"]
        net.load_state_dict({key.removeprefix("net."): state[key] for key in state if key.startswith("net.")})
    if newest is None or weights_sha256(net) != manifest["weights_sha256"]:
        raise UserError(
            f"{run.checkpoints} does not hold the weights of the finished run; make it anew with resume=false"
        )
    return net
