"""One job from its config to its manifest. Knows no Hydra."""

import logging
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.environments import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy

from resnet_repro.data.in_memory import InMemoryData, open_data
from resnet_repro.data.options import measures_top5
from resnet_repro.networks.fused import fuse
from resnet_repro.networks.ghost import group_batch_norms
from resnet_repro.networks.options import is_comparator
from resnet_repro.networks.recompute import recompute_units
from resnet_repro.runs import resume
from resnet_repro.runs.folder import RunDir, read_json, write_json
from resnet_repro.runs.job import result_keys
from resnet_repro.runs.ranks import Rank
from resnet_repro.runs.resume import _refuse_other_hardware
from resnet_repro.training.checkpoints import Checkpoint, newest_checkpoint
from resnet_repro.training.classifier import LitClassifier
from resnet_repro.training.constructed import begin_as
from resnet_repro.training.hardware import compile_regions, keep_freed_memory, settle
from resnet_repro.training.layers import GradientNorms, write_responses
from resnet_repro.training.loggers import CsvLogger, LenientWandbLogger, finish_wandb, wandb_logger
from resnet_repro.training.manifest import Commit, git_commit, of_run, weights_sha256
from resnet_repro.training.process_group import check_same, from_first, gather, joined
from resnet_repro.training.recorder import Recorder
from resnet_repro.training.schedule import eval_every, steps_at_once

if TYPE_CHECKING:
    from resnet_repro.data.imagenet import ImageNetData

NUM_MEASURED = 2_000
"""Training images at most that layer responses are measured on: enough for two digits. [open: v1 does not say]"""


def run(path: Path, job: dict[str, Any] | None = None, rank: Rank | None = None) -> dict[str, Any]:
    """Train a job from its newest checkpoint, if it has one, and test it.

    Args:
        path: the folder of the run.
        job: what to do; by default as `path/job.json` says.
        rank: which of the run's processes this one is; all of them make this call. By default it is the only one.

    Returns:
        The manifest, which rank 0 also writes: its existence is what says that the run is done.

    Raises:
        UserError: where data or device are not what the config asks for, or what the run was begun with.
        Stopped: when somebody asked the run to end; the same call goes on from there.
    """
    start, commit = time.perf_counter(), git_commit()  # before it can change under a long run
    folder, rank = RunDir(path), rank or Rank()
    job = job or read_json(folder.job)
    _quiet()
    hardware = settle(job["config"]["hardware"])
    config = {**job["config"], "hardware": hardware}
    torch.set_num_threads(hardware["num_threads"])
    keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic mode needs on a GPU
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads such
    pl.seed_everything(config["seed"], verbose=False)

    graph = hardware["graph"]
    data = open_data(config, steps_at_once=steps_at_once(config["schedule"], hardware) if graph else None)
    model = LitClassifier(config, splits=data.splits)
    if hardware["channels_last"]:
        model.net.to(memory_format=torch.channels_last)
    if hardware["fused"]:
        fuse(model.net)
    if (at_most := config["schedule"]["ghost_batch_size"]) is not None:
        group_batch_norms(model.net, at_most=at_most)
    if hardware["recompute"]:
        recompute_units(model.net)
    if hardware["compile"]:
        compile_regions(model.net)

    with joined(rank, accelerator=hardware["accelerator"]) as environment:
        if from_first(folder.is_done):  # by another sweep, while rank 0 waited for the folder
            return read_json(folder.manifest)
        checkpoint = _begin_or_go_on(folder, job, config, model, data, rank=rank, commit=commit)
        first_step = int(checkpoint.stem.split("-")[1]) if checkpoint else 0
        schedule = config["schedule"]
        steps_per_epoch = data.num_train // schedule["batch_size"]
        recorder = Recorder(folder, schedule=schedule, steps_per_epoch=steps_per_epoch, start=start)
        # Agreeing has the host wait for a GPU, which should have the next steps' work by then.
        agree_every = 10 if rank.world_size > 1 and hardware["accelerator"] == "gpu" else 1
        saver = Checkpoint(folder, schedule=schedule, hardware=hardware, agree_every=agree_every)
        saver.stop_on_signal()
        loggers = _loggers(folder, job, config, splits=data.splits, first_step=first_step) if rank.is_first else []
        gradients = GradientNorms(steps=schedule["steps"])
        trainer = _trainer(config, environment, loggers, [recorder, gradients, saver], rank, path)
        if rank.is_first:
            for note in filter(None, (data.about_files, commit.why_none and f"no commit on record: {commit.why_none}")):
                print(note, flush=True)
            print(f"{job['name']}: step {first_step} of {schedule['steps']}, {hardware}", flush=True)
        try:
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        except BaseException:
            _finish_wandb(folder, loggers, {}, exit_code=1)
            raise

        data.damaged.update(*gather(data.damaged))
        manifest = of_run(
            folder, job, config, model.net, recorder, step=trainer.global_step, num_images=data.num_evaluated
        ) | {
            "damaged_images": sorted(data.damaged),
            "git_commit": commit.name,
            **commit.facts,
            "wandb_url": next(
                (logger.experiment.url for logger in loggers if isinstance(logger, LenientWandbLogger)), None
            ),
        }
        if rank.is_first:
            gradients.write(folder.gradients)
            device = trainer.strategy.root_device
            write_responses(folder.responses, model.net.to(device), data.unaugmented(device, at_most=NUM_MEASURED))
            write_json(folder.manifest, manifest)
            summary = {"images_per_s": manifest["images_per_s"], "paper/error": job["paper_error"]}
            _finish_wandb(folder, loggers, manifest["results"] | summary, exit_code=0)
    return manifest


def _begin_or_go_on(
    folder: RunDir,
    job: dict[str, Any],
    config: dict[str, Any],
    model: LitClassifier,
    data: "InMemoryData | ImageNetData",
    *,
    rank: Rank,
    commit: Commit,
) -> Path | None:
    """The checkpoint to go on from; None where the run begins, with its origin then on record and its weights made.

    Raises:
        UserError: where code, data or hardware are not those that the run was begun with, or differ between ranks.
    """
    checkpoint, begun = from_first(newest_checkpoint(folder) if rank.is_first else None) or (None, None)
    if begun:
        resume.refuse_another(folder, {**resume.code(config), "data_checksum": data.checksum})
        _refuse_other_hardware(begun["hardware"], config["hardware"])
    else:
        weights = None
        if config["init_from"] is not None:
            device = torch.device("cuda" if config["hardware"]["accelerator"] == "gpu" else "cpu")
            weights = begin_as(model.net, RunDir(folder.path.with_name(job["begins_with"])), data.unaugmented(device))
        if rank.is_first:
            resume.record(folder, config, data_checksum=data.checksum, git_commit=commit.name, weights=weights)
    about = {**resume.code(config), "data": data.checksum, "weights": weights_sha256(model.net)}
    check_same({**result_keys(config), **about})
    return checkpoint


def _loggers(
    folder: RunDir, job: dict[str, Any], config: dict[str, Any], *, splits: list[str], first_step: int
) -> list[Logger]:
    loggers: list[Logger] = [CsvLogger(folder, splits=splits, first_step=first_step, top5=measures_top5(config))]
    if config["logger"]["name"] == "wandb":
        loggers.append(wandb_logger(config, folder, name=job["name"], group=job["group"], labels=job["labels"]))
    return loggers


def _trainer(
    config: dict[str, Any],
    environment: ClusterEnvironment,
    loggers: list[Logger],
    callbacks: list[pl.Callback],
    rank: Rank,
    path: Path,
) -> pl.Trainer:
    hardware, schedule = config["hardware"], config["schedule"]
    return pl.Trainer(
        accelerator=hardware["accelerator"],
        devices=hardware["devices"],
        num_nodes=hardware["num_nodes"],
        strategy=_ddp(rank.world_size) if rank.world_size > 1 else "auto",
        plugins=[environment],
        precision=hardware["precision"],
        deterministic=_deterministic(config),
        max_steps=schedule["steps"],
        val_check_interval=eval_every(schedule) // steps_at_once(schedule, hardware),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # the recorder decides when
        logger=loggers,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=path,
    )


def _deterministic(config: dict[str, Any]) -> bool | Literal["warn"]:
    """Whether PyTorch may only use operations that give the same bits again; a CPU's do, with threads fixed.

    [deviates: comparators that pool to several pixels (alexnet, vgg16) have no such operation for that on a GPU: there
    PyTorch takes them where it has them, and warns]
    """
    asked = bool(config["hardware"]["deterministic"]) and config["hardware"]["accelerator"] == "gpu"
    return "warn" if asked and is_comparator(config) else asked


def _ddp(world_size: int) -> DDPStrategy:
    return DDPStrategy(
        # Batch norm sees its own device's images, as in the papers; `share_buffers` says whose statistics are kept.
        broadcast_buffers=False,
        # Else DDP arranges its buckets anew after the first step, also after the first of a run that goes on, and
        # three numbers or more are then added in another order than without the interruption.
        find_unused_parameters=world_size > 2,
    )


def _finish_wandb(folder: RunDir, loggers: list[Logger], summary: dict[str, Any], *, exit_code: int) -> None:
    """Close the W&B run and write down where its data is that W&B does not have."""
    for logger in loggers:
        if isinstance(logger, LenientWandbLogger):
            left = finish_wandb(logger, folder, summary, exit_code=exit_code)
            write_json(folder.status, {**folder.read_status(), "wandb_left": left})


def _quiet() -> None:
    """Turn off what Lightning says to the author of a script and nobody else: hints and its own advertisements."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning.*", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", module="pytorch_lightning.*", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated.*")  # its successor is too new
    warnings.filterwarnings("ignore", message=".*srun.*command is available.*")
    warnings.filterwarnings("ignore", message=".*was called before the ``update`` method.*")  # sums were given
