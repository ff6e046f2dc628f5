"""One job from its config to its manifest. Knows no Hydra."""

import logging
import math
import os
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger, WandbLogger

from resnet_repro import origin
from resnet_repro.callbacks import Checkpoint, Recorder
from resnet_repro.checkpoints import newest_checkpoint
from resnet_repro.data.module import InMemoryData
from resnet_repro.errors import UserError
from resnet_repro.hardware import keep_freed_memory, settle
from resnet_repro.lit import LitClassifier
from resnet_repro.loggers import CsvLogger, finish_wandb, wandb_logger
from resnet_repro.manifest import describe, git_commit
from resnet_repro.rundir import RunDir, read_json, write_json
from resnet_repro.schedule import eval_every, log_every


def run(path: Path) -> dict[str, Any]:
    """Train the job that `path/job.json` describes, from its newest checkpoint if it has one, and test it.

    Returns:
        The manifest, which is also written: its existence is what says that the run is done.

    Raises:
        UserError: where data or device are not what the config asks for, or what the run was begun with.
        Stopped: when somebody asked the run to end; the same call goes on from there.
    """
    start, commit = time.perf_counter(), git_commit()  # before it can change under a long run
    folder = RunDir(path)
    job = read_json(folder.job)
    config = job["config"]
    _quiet()
    hardware = settle(config["hardware"])
    config = {**config, "hardware": hardware}
    on_gpu = hardware["accelerator"] == "gpu"
    torch.set_num_threads(hardware["num_threads"])
    keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic mode needs on a GPU
    pl.seed_everything(config["seed"], verbose=False)

    data = InMemoryData(config)
    model = LitClassifier(config, splits=data.splits)
    if hardware["channels_last"]:
        model.net.to(memory_format=torch.channels_last)

    found = newest_checkpoint(folder)
    checkpoint, first_step = None, 0
    if found:
        checkpoint, begun = found
        origin.refuse_another(folder, {**origin.CODE, "data_checksum": data.checksum})
        _refuse_other_hardware(begun["hardware"], hardware)
        first_step = int(checkpoint.stem.split("-")[1])
    else:
        origin.record(folder, data_checksum=data.checksum, git_commit=commit)
    schedule = config["schedule"]
    steps_per_epoch = len(data.train.y) // schedule["batch_size"]
    recorder = Recorder(folder, schedule=schedule, steps_per_epoch=steps_per_epoch, start=start)
    saver = Checkpoint(
        folder, schedule=schedule, minutes=hardware["checkpoint_minutes"], steps=hardware["checkpoint_steps"]
    )
    saver.stop_on_signal()
    loggers: list[Logger] = [CsvLogger(folder, splits=data.splits, first_step=first_step)]
    if config["logger"]["name"] == "wandb":
        loggers.append(wandb_logger(config, name=job["name"], group=job["group"]))

    trainer = pl.Trainer(
        accelerator=hardware["accelerator"],
        devices=hardware["devices"],
        precision=hardware["precision"],
        deterministic=hardware["deterministic"] and on_gpu,  # on a CPU a fixed number of threads is enough
        max_steps=schedule["steps"],
        val_check_interval=eval_every(schedule),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,  # the recorder decides when
        logger=loggers,
        callbacks=[recorder, saver],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=path,
    )
    print(f"{job['name']}: step {first_step} of {schedule['steps']}, {hardware}", flush=True)
    try:
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except BaseException:
        _finish_wandb(folder, loggers, {}, exit_code=1)
        raise

    manifest = {
        "name": job["name"],
        "state": "done",
        "config": config,
        "departures": job["departures"],
        "results": {
            "step": trainer.global_step,
            "diverged_at": recorder.diverged_at,
            **{key: _finite(value) for key, value in recorder.results.items() if "/loss" in key or "/error" in key},
            "num_train_images": log_every(schedule) * schedule["batch_size"],  # that train/error is measured on
            **{f"num_{split}_images": len(images.y) for split, images in data.evaluated.items()},
        },
        **describe(
            model.net,
            accelerator=hardware["accelerator"],
            data_checksum=data.checksum,
            rates=recorder.rates,
            wall_time_s=recorder.elapsed_s,
        ),
        "group": job["group"],
        "command": job["command"],
        "git_commit": commit,
        "code_sha256": origin.CODE["code_sha256"],
        "wandb_url": next((logger.experiment.url for logger in loggers if isinstance(logger, WandbLogger)), None),
        "started": recorder.started,
        "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    if trainer.is_global_zero:
        write_json(folder.manifest, manifest)
        _finish_wandb(folder, loggers, manifest["results"], exit_code=0)
    return manifest


def _refuse_other_hardware(begun: dict[str, Any], now: dict[str, Any]) -> None:
    """A run goes on in the number format and on the kind of device that it was begun with, or not at all."""
    keys = ("accelerator", "precision", "channels_last", "num_threads")
    if differ := [key for key in keys if begun[key] != now[key]]:
        values = ", ".join(f"hardware.{key} was {begun[key]} and is now {now[key]}" for key in differ)
        raise UserError(f"{values}: give the old values to go on, or resume=false to begin anew")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # a diverged run's loss: JSON has no word for it


def _finish_wandb(folder: RunDir, loggers: list[Logger], results: dict[str, Any], *, exit_code: int) -> None:
    """Close the W&B run and write down where its data is that W&B does not have."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            left = finish_wandb(logger, results, exit_code=exit_code)
            write_json(folder.status, {**folder.read_status(), "wandb_left": left})


def _quiet() -> None:
    """Turn off what Lightning says to the author of a script and nobody else: hints and its own advertisements."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning.*", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", module="pytorch_lightning.*", message=".*LeafSpec.*is deprecated.*")
    warnings.filterwarnings("ignore", message=".*srun.*command is available.*")
