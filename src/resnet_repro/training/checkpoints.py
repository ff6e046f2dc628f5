"""A run's checkpoints: when to save one, how to write whole files only, how to read the newest back."""

import errno
import io
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from resnet_repro.conf_dir import command
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
    """Write a checkpoint to a temporary file in the same folder; rename the file once it is complete and on the disk.

    (Lightning writes through the system's temporary folder. A killed process leaves a copy there, and the move is not
    atomic if that folder is on another disk.)

    Raises:
        OSError: if the file cannot be written or cannot be read again; the existing checkpoints are unchanged then.
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
            except Exception as error:  # a damaged file can make torch.load raise nearly anything
                raise OSError(errno.EIO, "written, and cannot be read again: is the disk sound?", str(path)) from error
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file. Tensors stay in the file until they are used."""
    return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def newest_checkpoint(run: RunDir) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest readable checkpoint and its config, or None. Print the name of each damaged file."""
    for path in run.checkpoint_files():
        try:
            return path, read(path)["hyper_parameters"]["config"]
        except Exception as error:  # see `AtomicCheckpointIO`
            print(f"{path} is damaged and not used: {error!r}", flush=True)
    return None


class Checkpoint(pl.Callback):
    """Save all that an exact resume needs: every few minutes or steps, and when the run is asked to stop.

    A checkpoint is saved between two steps, after any evaluation that is due. The last two files are kept. All ranks
    save after the same step: any rank may be asked to stop, and rank 0's clock decides when the minutes are over.
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
        if not evaluates and is_due:  # if the run evaluates now, `on_validation_end` saves
            self._between_steps(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._between_steps(trainer)

    def stop_on_signal(self) -> None:
        """From now on, save and end the run at the next step after Ctrl-C (SIGINT), SIGTERM or a scheduler's signal.

        A handler that somebody else has set for a scheduler's signal stays: `SlurmTask` sets one. The handler for
        SIGTERM is replaced, because Lightning's would end the run in the middle of an evaluation.
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
            for path in (self.run.metrics, self.run.timing):  # every row up to a checkpoint's step must be on the disk
                flush(path)
        trainer.save_checkpoint(self.run.checkpoints / f"step-{trainer.global_step:08d}.ckpt")  # rank 0 writes
        if trainer.is_global_zero:
            for old in self.run.checkpoint_files()[2:]:
                old.unlink()
            print(f"step {trainer.global_step}: checkpoint saved in {time.monotonic() - begin:.3f} s", flush=True)
        self._last = time.monotonic()

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state that differs between ranks: generators and sums of metrics.

        Only dropout (of a shortcut or a comparator) draws from the global generators; batches have their own.
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
        self.stop_on_signal()  # again, because Lightning has replaced our handlers
        if self._mine is None:
            if trainer.global_rank:  # all ranks begin with the same weights, but each drops its own activations
                torch.manual_seed(torch.initial_seed() + 2**31 * trainer.global_rank)
            return
        torch.set_rng_state(self._mine["rng"])  # only now, because setting up the loaders draws from the generator
        if self._mine["cuda_rng"] is not None:
            torch.cuda.set_rng_state(self._mine["cuda_rng"], module.device)
        for name, metric in _training_metrics(module).items():
            metric.set_sums(self._mine["metrics"][name])


def _training_metrics(module: pl.LightningModule) -> dict[str, LossAndError]:
    assert isinstance(module, LitClassifier)
    return {"train": module.train_metric, "warmup": module.warmup_metric}


def _last_weights(run: RunDir) -> dict[str, Tensor]:
    """Return the weights in the newest checkpoint, or else in the file that `keep` wrote; empty if neither is there."""
    if newest := newest_checkpoint(run):
        state = read(newest[0])["state_dict"]
        return {key.removeprefix("net."): state[key] for key in state if key.startswith("net.")}
    try:
        return load_file(run.weights) if run.weights.exists() else {}
    except (OSError, SafetensorError):  # damaged, as by a download that broke off
        return {}


def trained(run: RunDir) -> nn.Module:
    """Return the network of a finished run with its last weights, in the memory format of its training.

    Raises:
        UserError: if the run is not finished, or its weights do not match the SHA-256 in its manifest.
    """
    if not run.is_done:
        raise UserError(f"{run.path} holds no finished run: {command('train')} makes one")
    manifest = read_json(run.manifest)
    options = Run.of_record(manifest["config"])
    net = build(options.network, options.images)
    if options.hardware.channels_last:  # another layout uses other kernels, which round differently
        net.to(memory_format=torch.channels_last)
    with suppress(RuntimeError):  # another network's weights, or none: the checksum tells
        net.load_state_dict(_last_weights(run))
    if weights_sha256(net) != manifest["weights_sha256"]:
        place = run.weights if run.weights.exists() and not run.checkpoint_files() else run.checkpoints
        raise UserError(f"{place} does not hold the weights of the finished run; make the run again with resume=false")
    return net
