"""For people who know PyTorch Lightning's Trainer: the option for each of its arguments, or why there is none."""

GROUPS = ("", "trainer", "hardware")
"""Groups in which people write the arguments: `max_epochs=3`, `trainer.max_epochs=3`, `hardware.max_epochs=3`."""

TRAINER_ARGUMENTS = {
    "accelerator": "is hardware.accelerator here",
    "accumulate_grad_batches": "has no option here: schedule.batch_size is the whole batch, and "
    "hardware.recompute=true makes it fit",
    "barebones": "has no option here: benchmarks/lightning_share.py measures what Lightning costs",
    "benchmark": "has no option here: to repeat runs exactly, cuDNN does not choose algorithms by their time",
    "callbacks": "has no option here: checkpoints, curves and layer responses are part of every run",
    "check_val_every_n_epoch": "is schedule.eval_every here, a number of steps",
    "default_root_dir": "is outputs here",
    "detect_anomaly": "has no option here: a run whose loss is not a number is marked as diverged",
    "deterministic": "is hardware.deterministic here",
    "devices": "is hardware.devices here",
    "enable_autolog_hparams": "has no option here: W&B gets the whole config",
    "enable_checkpointing": "has no option here: every run has checkpoints, see hardware.checkpoint_minutes",
    "enable_model_summary": "is summary=true here",
    "enable_progress_bar": "has no option here: a terminal shows bars, a file gets a line now and then",
    "fast_dev_run": "is schedule.steps=1 here",
    "gradient_clip_algorithm": "has no option here: no gradient is clipped",
    "gradient_clip_val": "has no option here: no gradient is clipped",
    "inference_mode": "has no option here: evaluation never records gradients",
    "limit_predict_batches": "has no option here: evaluate.py tests finished runs",
    "limit_test_batches": "has no option here: a test error is over all test images",
    "limit_train_batches": "has no option here: schedule.steps=N makes a shorter run",
    "limit_val_batches": "has no option here: data.val_size says how many images validate",
    "log_every_n_steps": "is schedule.log_every here",
    "logger": "is a group here: logger=csv or logger=wandb,tensorboard",
    "max_epochs": "is schedule.steps here, a number of steps",
    "max_steps": "is schedule.steps here",
    "max_time": "has no option here: stop a run at any time, and the same command resumes it",
    "min_epochs": "has no option here: every run has exactly schedule.steps steps",
    "min_steps": "has no option here: every run has exactly schedule.steps steps",
    "model_registry": "has no option here: python -m resnet_repro export writes a finished run's weights",
    "num_nodes": "is hardware.num_nodes here",
    "num_sanity_val_steps": "has no option here: no validation batch runs before training",
    "overfit_batches": "has no option here: an epoch has all training images",
    "plugins": "has no option here: hardware.precision and hardware.devices choose them",
    "precision": "is hardware.precision here",
    "profiler": "has no option here: the scripts in benchmarks/ measure where time goes",
    "reload_dataloaders_every_n_epochs": "has no option here: a run's data does not change",
    "strategy": "has no option here: from hardware.devices=2 on, DistributedDataParallel trains",
    "sync_batchnorm": "has no option here: schedule.ghost_batch_size says how many images a batch norm sees",
    "use_distributed_sampler": "has no option here: each device reads its own share of the images",
    "val_check_interval": "is schedule.eval_every here, a number of steps",
}


def about_trainer_argument(key: str) -> str:
    """Return a hint about a key such as `trainer.max_epochs`; empty if the key names no argument of the Trainer."""
    *group, argument = key.split(".")[:2]  # trainer.callbacks.early_stopping is about callbacks
    is_argument = ".".join(group) in GROUPS and argument in TRAINER_ARGUMENTS
    return f"{argument} {TRAINER_ARGUMENTS[argument]}" if is_argument else ""
