"""Train one run, from its options to its manifest."""

import logging
import os
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy

from resnet_repro.data.in_memory import InMemoryData, open_data
from resnet_repro.networks.fused import fuse
from resnet_repro.networks.ghost import group_batch_norms
from resnet_repro.networks.recompute import recompute_units
from resnet_repro.runs import resume
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.job import Job, result_keys
from resnet_repro.runs.options import Run, SettledHardware, Wandb
from resnet_repro.runs.ranks import Rank
from resnet_repro.runs.wandb_account import in_wandb_sweep
from resnet_repro.training.checkpoints import Checkpoint, newest_checkpoint
from resnet_repro.training.classifier import GraphedClassifier, LitClassifier
from resnet_repro.training.constructed import copy_function_from
from resnet_repro.training.hardware import (
    compile_network,
    gains_by_a_graph,
    keep_freed_memory,
    repays_compiling,
    settle,
)
from resnet_repro.training.layers import GradientNorms, write_responses
from resnet_repro.training.loggers import CsvLogger, TensorboardLogger
from resnet_repro.training.manifest import Commit, git_commit, of_run, weights_sha256
from resnet_repro.training.process_group import check_same, from_first, gather, joined
from resnet_repro.training.recorder import Recorder
from resnet_repro.training.schedule import eval_every, steps_at_once

if TYPE_CHECKING:
    from resnet_repro.data.imagenet import ImageNetData

NUM_MEASURED = 1_500
"""Measure layer responses on at most this many training images; two significant digits need no more. [open: v1 does not
say how many]"""


def run(path: Path, job: Job | None = None, rank: Rank | None = None) -> dict[str, Any]:
    """Train a job from its newest checkpoint, if there is one, and evaluate it.

    Args:
        path: the folder of the run.
        job: the job; by default it is read from `path/job.json`.
        rank: the place of this process among the run's processes, which all make this call; by default it is alone.

    Returns:
        The manifest. Rank 0 also writes it to the folder, and a run is done if and only if that file exists.

    Raises:
        UserError: if data or device do not fit the options, or differ from those that the run was begun with.
        Stopped: if a signal asked the run to end; the same call resumes the run.
    """
    start, commit = time.perf_counter(), git_commit()  # now, because the checkout may change during a long run
    job = job or Job.of_record(read_json(RunDir(path).job), path)
    _quiet()
    training = Training.prepared(path, job, rank or Rank(), commit=commit)
    with joined(training.rank, accelerator=training.hardware.accelerator) as environment:
        if from_first(training.folder.is_done):  # another sweep has finished the run while rank 0 waited for the folder
            return training.finished_before()
        checkpoint = training.begin_or_go_on()
        recorder, gradients = training.watched(start)
        loggers = training.loggers(checkpoint)
        trainer = training.trainer(environment, loggers, [recorder, gradients, training.saver()])
        training.announce(checkpoint)
        try:
            trainer.fit(training.model, datamodule=training.data, ckpt_path=checkpoint, weights_only=True)
        except BaseException:
            training.finish_wandb(loggers, {}, exit_code=1)
            raise
        return training.record(trainer, loggers, recorder, gradients)


@dataclass
class Training:
    """The parts of one run in this process."""

    folder: RunDir
    job: Job
    options: Run
    """The job's options, with the hardware decided for this machine."""
    hardware: SettledHardware
    rank: Rank
    commit: Commit
    data: "InMemoryData | ImageNetData"
    model: LitClassifier

    @classmethod
    def prepared(cls, path: Path, job: Job, rank: Rank, *, commit: Commit) -> "Training":
        """Make this process ready: random numbers, threads, data in memory, the network with its first weights."""
        hardware = settle(job.run.hardware, may_compile=repays_compiling(job.run), may_graph=gains_by_a_graph(job.run))
        options = job.run.but(hardware=hardware)
        torch.set_num_threads(hardware.num_threads)
        keep_freed_memory()
        torch.backends.cudnn.allow_tf32 = False  # by default a GPU rounds the inputs of float32 convolutions to 10 bits
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # needed by deterministic mode on a GPU
        # filling would take time for nothing, because no code here reads uninitialised memory
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        pl.seed_everything(options.seed, verbose=False)
        at_once = steps_at_once(options.schedule, hardware) if hardware.graph else None
        data = open_data(options.data, options.batching(steps_at_once=at_once))
        model = (GraphedClassifier if hardware.graph else LitClassifier)(options, splits=data.splits)
        if hardware.channels_last:
            model.net.to(memory_format=torch.channels_last)
        if hardware.fused:
            fuse(model.net)
        if options.schedule.ghost_batch_size is not None:
            group_batch_norms(model.net, at_most=options.schedule.ghost_batch_size)
        if hardware.recompute:
            recompute_units(model.net)
        if hardware.compile:
            compile_network(model.net)
        return cls(RunDir(path), replace(job, run=options), options, hardware, rank, commit, data, model)

    def begin_or_go_on(self) -> Path | None:
        """Return the checkpoint to go on from. If there is none, make the first weights, write begun.json, return None.

        Raises:
            UserError: if code, data or hardware differ between ranks, or from those that the run was begun with.
        """
        newest = newest_checkpoint(self.folder) if self.rank.is_first else None
        checkpoint, begun = from_first(newest) or (None, None)
        code = resume.code(self.options)
        if begun:
            resume.refuse_another(self.folder, {**code, "data_checksum": self.data.checksum})
            resume.refuse_other_hardware(begun["hardware"], self.hardware)
        else:
            weights = None
            if self.job.begins_with is not None:
                device = torch.device("cuda" if self.hardware.on_gpu else "cpu")
                shallow = RunDir(self.folder.path.with_name(self.job.begins_with))
                weights = copy_function_from(self.model.net, shallow, self.data.unaugmented(device))
            if self.rank.is_first:
                resume.record(
                    self.folder,
                    self.options,
                    data_checksum=self.data.checksum,
                    git_commit=self.commit.name,
                    weights=weights,
                )
        about = {**code, "data": self.data.checksum, "weights": weights_sha256(self.model.net)}
        check_same({**result_keys(self.options), **about})
        return checkpoint

    def watched(self, start: float) -> tuple[Recorder, GradientNorms]:
        """Return the callbacks that measure the run; `start` is its begin on the clock `time.perf_counter`."""
        schedule = self.options.schedule
        steps_per_epoch = self.data.num_train // schedule.batch_size
        recorder = Recorder(self.folder, schedule=schedule, steps_per_epoch=steps_per_epoch, start=start)
        return recorder, GradientNorms(steps=schedule.steps)

    def saver(self) -> Checkpoint:
        """Return the callback that saves checkpoints. From now on, a signal stops the run after its current step."""
        # To agree, the host waits for the GPU. Every 10 steps, so that the GPU has work queued in between.
        agree_every = 10 if self.rank.world_size > 1 and self.hardware.on_gpu else 1
        saver = Checkpoint(self.folder, schedule=self.options.schedule, hardware=self.hardware, agree_every=agree_every)
        saver.stop_on_signal()
        return saver

    def loggers(self, checkpoint: Path | None) -> list[Logger]:
        """Return rank 0's loggers; the other ranks have none."""
        if not self.rank.is_first:
            return []
        top5 = self.options.data.measures_top5
        loggers: list[Logger] = [
            CsvLogger(self.folder, splits=self.data.splits, first_step=step_of(checkpoint), top5=top5)
        ]
        if self.options.logger.tensorboard:
            loggers.append(TensorboardLogger(self.folder))
        if isinstance(self.options.logger, Wandb):
            from resnet_repro.training.wandb_logger import wandb_logger  # not above: the import takes half a second

            loggers.append(wandb_logger(self.job, self.folder))
        return loggers

    def trainer(
        self, environment: ClusterEnvironment, loggers: list[Logger], callbacks: list[pl.Callback]
    ) -> pl.Trainer:
        hardware, schedule = self.hardware, self.options.schedule
        return pl.Trainer(
            accelerator=hardware.accelerator,
            devices=hardware.devices,
            num_nodes=hardware.num_nodes,
            strategy=_ddp(self.rank.world_size) if self.rank.world_size > 1 else "auto",
            plugins=[environment],
            precision=hardware.precision,
            deterministic=_deterministic(self.options, hardware),
            benchmark=hardware.on_gpu and not hardware.deterministic,
            max_steps=schedule.steps,
            val_check_interval=eval_every(schedule) // steps_at_once(schedule, hardware),
            check_val_every_n_epoch=None,
            num_sanity_val_steps=0,
            log_every_n_steps=1,  # the recorder decides when to log
            logger=loggers,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=self.folder.path,
        )

    def announce(self, checkpoint: Path | None) -> None:
        """Print on rank 0 the run's name, its first step and its hardware."""
        if not self.rank.is_first:
            return
        why_no_commit = self.commit.why_none and f"no commit on record: {self.commit.why_none}"
        for note in filter(None, (self.data.about_files, why_no_commit)):
            print(note, flush=True)
        steps = self.options.schedule.steps
        print(f"{self.job.name}: step {step_of(checkpoint)} of {steps}, {self.hardware.record()}", flush=True)

    def finished_before(self) -> dict[str, Any]:
        """Return the manifest of a run that is finished. A sweep of W&B's that asks for the run again gets its rows."""
        manifest = read_json(self.folder.manifest)
        if in_wandb_sweep() and self.rank.is_first and isinstance(self.options.logger, Wandb):
            from resnet_repro.training.wandb_logger import wandb_logger

            self.finish_wandb([wandb_logger(self.job, self.folder)], self._summary(manifest), exit_code=0)
        return manifest

    def _summary(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return the numbers for W&B's table of runs."""
        others = {"images_per_s": manifest["images_per_s"], "paper/error": self.job.paper_error}
        return manifest["results"] | others

    def record(
        self, trainer: pl.Trainer, loggers: list[Logger], recorder: Recorder, gradients: GradientNorms
    ) -> dict[str, Any]:
        """Return the manifest of the finished run. Rank 0 writes it, with the measurements of the layers."""
        self.data.damaged.update(*gather(self.data.damaged))
        manifest = of_run(
            self.folder,
            self.job,
            self.options,
            self.model.net,
            recorder,
            step=trainer.global_step,
            num_images=self.data.num_evaluated,
        ) | {
            "damaged_images": sorted(self.data.damaged),
            "git_commit": self.commit.name,
            **self.commit.facts,
            "wandb_url": next((logger.experiment.url for logger in _wandb_loggers(loggers)), None),
        }
        if self.rank.is_first:
            gradients.write(self.folder.gradients)
            device = trainer.strategy.root_device
            images = self.data.unaugmented(device, at_most=NUM_MEASURED)
            write_responses(self.folder.responses, self.model.net.to(device), images)
            write_json(self.folder.manifest, manifest)
            self.finish_wandb(loggers, self._summary(manifest), exit_code=0)
        return manifest

    def finish_wandb(self, loggers: list[Logger], summary: dict[str, Any], *, exit_code: int) -> None:
        """Close the W&B run, and note in status.json the folder whose data W&B does not have."""
        for logger in _wandb_loggers(loggers):
            from resnet_repro.training.wandb_logger import finish_wandb

            left = finish_wandb(logger, self.folder, summary, exit_code=exit_code)
            write_json(self.folder.status, {**self.folder.read_status(), "wandb_left": left})


def step_of(checkpoint: Path | None) -> int:
    """Return the step of a checkpoint, 0 if there is none."""
    return int(checkpoint.stem.split("-")[1]) if checkpoint else 0


def _wandb_loggers(loggers: list[Logger]) -> list[Any]:
    """Return those that are `LenientWandbLogger`s, without importing W&B to tell."""
    return [logger for logger in loggers if not isinstance(logger, CsvLogger | TensorboardLogger)]


def _deterministic(options: Run, hardware: SettledHardware) -> Literal[True, "warn"] | None:
    """Return whether PyTorch may use only deterministic operations. On a CPU all are, with a fixed number of threads.

    None leaves PyTorch's own setting, which is False. To be told False, PyTorch imports its compiler: a second.

    [deviates: comparators that pool to several pixels (alexnet, vgg16) have no such operation for that on a GPU: there
    PyTorch uses deterministic operations if it has them, and warns if not]
    """
    is_needed = hardware.deterministic and hardware.on_gpu
    if not is_needed:
        return None
    return True if options.network.of_units else "warn"


def _ddp(world_size: int) -> DDPStrategy:
    return DDPStrategy(
        # Batch norm sees the images of its own device, as in the papers; `share_buffers` keeps rank 0's statistics.
        broadcast_buffers=False,
        # Otherwise DDP rearranges its buckets after a process's first step. A resumed run would then add gradients of
        # three or more ranks in another order than an uninterrupted run.
        find_unused_parameters=world_size > 2,
    )


def _quiet() -> None:
    """Turn off Lightning's hints for authors of scripts and its advertisements."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning.*", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", module="pytorch_lightning.*", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated.*")  # its successor is too new
    warnings.filterwarnings("ignore", message=".*srun.*command is available.*")
    warnings.filterwarnings("ignore", message=".*was called before the ``update`` method.*")  # `set_sums` replaces it
